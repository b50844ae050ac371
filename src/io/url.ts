/** Whether `text` is an address on the web and not a path. */
export const isUrl = (text: string): boolean => /^https?:\/\//i.test(text);
