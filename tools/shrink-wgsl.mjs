// Leaves comments, indentation and needless spaces out of the kernels' WGSL, which no bundler's minifier looks into: `npm run build` does so in dist/, the
// page's build in its bundle. Lines stay lines, so that source maps and the lines of WGSL's compile errors still hold.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";

/** Where there is WGSL, in sources and in dist/. */
export const WITH_WGSL = /\/src\/(kernels|gpu)\/.*\.[jt]s$/;

/**
 * One piece of a template, between two of its expressions, without what means nothing in WGSL.
 * @param {string} piece
 */
const shrink = (piece) =>
  piece
    // A comment without its end in this piece goes on behind an expression: it stays.
    .replace(/\/\*(?:(?!\*\/)[^])*\*\//g, (comment) => comment.replace(/[^\n]/g, ""))
    .replace(/[ \t]*\/\/[^\n]*(?=\n)/g, "")
    .replace(/[ \t]*\n[ \t]*/g, "\n")
    .replace(/[^\n]+/g, (line) => (line.includes("//") ? line : withoutSpaces(line)));

/**
 * Spaces stand where two words, or two signs, would become one without them, around < and >, which are brackets or not by what is near them,
 * and where an expression of the template begins or ends.
 * @param {string} line
 */
const withoutSpaces = (line) =>
  line.replace(/(?<=[\w)\]}]) (?=[-+*/%=(){},;:|&])|(?<=[-+*/%=(){},;:|&]) (?=[\w(@}])/g, "");

/** See shrink-wgsl.d.mts. */
export function shrinkTemplates(source, file) {
  const tree = ts.createSourceFile(file, source, ts.ScriptTarget.ES2022);
  const pieces = [];
  const visit = (node) => {
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
    // Those of one line are messages and fragments. What begins and ends a piece is no WGSL: ` or }, and ` or ${.
    const last = text.length - (text.endsWith("${") ? 2 : 1);
    const inner = text.slice(1, last);
    shrunk += source.slice(at, start + 1) + (text.includes("\n") ? shrink(inner) : inner) + text.slice(last);
    at = end;
  }
  return shrunk + source.slice(at);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const dist = fileURLToPath(new URL("../dist", import.meta.url));
  for (const name of readdirSync(dist, { recursive: true })) {
    const file = `${dist}/${String(name).replaceAll("\\", "/")}`;
    if (!WITH_WGSL.test(file)) continue;
    const source = readFileSync(file, "utf8");
    const shrunk = shrinkTemplates(source, file);
    if (shrunk !== source) writeFileSync(file, shrunk);
  }
}
