/** A small SVG picture that is put together piece by piece, and written as SVG or PNG. Node only. */
import { extname } from "node:path";
import { writeWhole } from "../src/io/files.js";

/** One colour for each series of a picture, told apart on white. */
export const COLOURS = ["#1763b6", "#d1495b", "#2e8b57", "#b8860b", "#6a4c93", "#555555"];

/** Text that may stand in SVG. */
export const escaped = (text: string): string =>
  text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

export class Drawing {
  private readonly parts: string[];

  /** A white picture of `width` x `height` pixels. */
  constructor(width: number, height: number) {
    this.parts = [
      `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="13">`,
      `<rect width="${width}" height="${height}" fill="white"/>`,
    ];
  }

  /** Adds elements as they are. */
  add(...elements: readonly string[]): void {
    this.parts.push(...elements);
  }

  /** Writes words from (x, y), the start of their base line; `more` are attributes. */
  text(x: number, y: number, words: string, more = ""): void {
    this.add(`<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${more}>${escaped(words)}</text>`);
  }

  /** Draws an SVG path; `more` are attributes such as its stroke. */
  path(d: string, more: string): void {
    this.add(`<path d="${d}" fill="none" ${more}/>`);
  }

  /** The whole picture as SVG. */
  toString(): string {
    return [...this.parts, "</svg>"].join("\n");
  }
}

/** Writes a picture given as SVG, as SVG or as PNG by the name; `density` is the PNG's, 72 for one pixel a unit. */
export async function writeDrawing(path: string, svg: string, density = 144): Promise<void> {
  if (extname(path).toLowerCase() === ".svg") return writeWhole(path, Buffer.from(svg));
  const { default: sharp } = await import("sharp"); // only here: it takes a while to load
  await writeWhole(path, await sharp(Buffer.from(svg), { density }).png().toBuffer());
}
