/** The network that comes with the package; for Node and browsers. See models/README.md. */

/** What stands for it wherever weights are named. A file of this name is `./default`. */
export const DEFAULT_WEIGHTS = "default";

/**
 * Address of its file. The build copies the folder `models` beside `src`, so that this holds for sources, for the package on Node, and on
 * the web; in this form, bundlers find the file and take it along.
 */
export const defaultWeightsUrl = (): URL => new URL("../../models/default.safetensors", import.meta.url);
