/** Sizes in memory and on disk, as messages give them. */

/** `12.3 MiB`. */
export const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** `13 MiB`, rounded up: what is above a limit of whole MiB is then seen to be. */
export const wholeMebibytes = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;
