/** Whether `text` is an address on the web and not a path. */
export const isUrl = (text: string): boolean => /^https?:\/\//i.test(text);

/**
 * An address for messages, without what may be secret: user name, password, query and fragment. A path is returned as it is.
 */
export function shownSource(text: string): string {
  if (!isUrl(text) || !URL.canParse(text)) return text;
  const { origin, pathname } = new URL(text);
  return origin + pathname;
}
