/** Leaves comments and indentation out of the kernels' WGSL, which no bundler's minifier looks into. */
import ts from "typescript";
import type { Plugin } from "vite";

/** One piece of a template, between two of its expressions, without what means nothing in WGSL. */
const shrink = (piece: string): string =>
  piece
    // A comment without its end in this piece goes on behind an expression: it stays.
    .replace(/[ \t]*\/\/[^\n]*\n/g, "\n")
    .replace(/\s*\n\s*/g, "\n");

/**
 * Shrinks the templates of many lines in a module; those of one line are messages and fragments.
 * @param file its name, for the parser
 */
export function shrinkTemplates(source: string, file: string): string {
  const tree = ts.createSourceFile(file, source, ts.ScriptTarget.ES2022);
  const pieces: ts.Node[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isNoSubstitutionTemplateLiteral(node)) pieces.push(node);
    if (ts.isTemplateExpression(node)) pieces.push(node.head, ...node.templateSpans.map((span) => span.literal));
    ts.forEachChild(node, visit);
  };
  visit(tree);
  let shrunk = "";
  let at = 0;
  for (const piece of pieces.sort((a, b) => a.getStart(tree) - b.getStart(tree))) {
    const [start, end] = [piece.getStart(tree), piece.getEnd()];
    const text = source.slice(start, end);
    shrunk += source.slice(at, start) + (text.includes("\n") ? shrink(text) : text);
    at = end;
  }
  return shrunk + source.slice(at);
}

export const shrinkWgsl: Plugin = {
  name: "shrink-wgsl",
  apply: "build",
  enforce: "pre",
  transform: {
    filter: { id: /\/src\/kernels\/.*\.ts$|\/src\/gpu\/.*\.ts$/ },
    handler: (source, id) => ({ code: shrinkTemplates(source, id), map: null }),
  },
};
