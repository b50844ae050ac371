/** Paths of modules with WGSL in them. */
export declare const WITH_WGSL: RegExp;

/**
 * Shrinks the templates of many lines in a module; those of one line are messages and fragments.
 * @param file its name, for the parser
 */
export declare function shrinkTemplates(source: string, file: string): string;
