/**
 * The roofline picture (Williams, Waterman & Patterson 2009): what each measurement reaches against what the adapter allows at
 * its operational intensity, min(FMA peak, intensity x copy bandwidth). Both axes are logarithmic.
 */
import { stat } from "node:fs/promises";
import { extname } from "node:path";
import { UserError } from "../src/errors.js";
import { checkPlace } from "../src/io/files.js";
import { COLOURS, Drawing, escaped, writeDrawing } from "./drawing.js";
import type { Measurement } from "./measure.js";

export interface Point {
  /** Whose code: one colour each. */
  readonly impl: string;
  readonly label: string;
  /** Operations a byte. */
  readonly intensity: number;
  readonly gflops: number;
}

export interface Roof {
  readonly gflops: number;
  readonly gigabytesPerSecond: number;
  readonly adapter: string;
}

const WIDTH = 1000;
const HEIGHT = 640;
const FRAME = { left: 80, right: 190, top: 56, bottom: 60 };
const LABELS = 14;

/** The points of all measurements that were not rejected and have operations and bytes. */
export function rooflinePoints(lines: readonly Measurement[]): Point[] {
  return lines.flatMap((m) => {
    if (!m.neededGflop || !m.gigabytesPerSecond || m.medianMs === null || m.shareOfPeak === null) return [];
    const gflops = m.neededGflop / (m.medianMs / 1000);
    const holes = m.holes === null ? "" : ` ${100 * m.holes} %`;
    return [{ impl: m.impl, label: `${m.kernel} ${m.shape} ${m.pass}${holes}`, intensity: gflops / m.gigabytesPerSecond, gflops }]; // prettier-ignore
  });
}

/** Powers of ten from at most the smallest to at least the largest. */
function decades(values: readonly number[]): [first: number, last: number] {
  const logs = values.map(Math.log10);
  const [first, last] = [Math.floor(Math.min(...logs)), Math.ceil(Math.max(...logs))];
  return [first, Math.max(last, first + 1)];
}

/** The picture as SVG. */
export function rooflineSvg(roof: Roof, points: readonly Point[]): string {
  const ridge = roof.gflops / roof.gigabytesPerSecond;
  const [x0, x1] = decades([...points.map((p) => p.intensity), ridge]);
  const [y0, y1] = decades([...points.map((p) => p.gflops), roof.gflops]);
  const [right, bottom] = [WIDTH - FRAME.right, HEIGHT - FRAME.bottom];
  const X = (v: number) => FRAME.left + ((Math.log10(v) - x0) / (x1 - x0)) * (right - FRAME.left);
  const Y = (v: number) => bottom - ((Math.log10(v) - y0) / (y1 - y0)) * (bottom - FRAME.top);
  const drawing = new Drawing(WIDTH, HEIGHT);
  const text = drawing.text.bind(drawing);
  const path = drawing.path.bind(drawing);

  text(FRAME.left, 24, `Roofline: ${roof.adapter}`, 'font-size="16"');
  text(FRAME.left, 43, `measured in this run: ${roof.gflops.toFixed(1)} GFLOP/s multiply-add, ${roof.gigabytesPerSecond.toFixed(2)} GB/s copy`); // prettier-ignore
  for (let e = x0; e <= x1; e++) {
    path(`M${X(10 ** e)} ${FRAME.top}V${bottom}`, 'stroke="#ddd"');
    text(X(10 ** e), bottom + 18, String(10 ** e), 'text-anchor="middle"');
  }
  for (let e = y0; e <= y1; e++) {
    path(`M${FRAME.left} ${Y(10 ** e)}H${right}`, 'stroke="#ddd"');
    text(FRAME.left - 8, Y(10 ** e) + 4, String(10 ** e), 'text-anchor="end"');
  }
  text((FRAME.left + right) / 2, HEIGHT - 16, "needed operations per byte that must move", 'text-anchor="middle"');
  const middle = (FRAME.top + bottom) / 2;
  text(22, middle, "GFLOP/s (needed operations, median)", `text-anchor="middle" transform="rotate(-90 22 ${middle})"`);

  // The slope may leave the frame below: the frame cuts it off.
  drawing.add(`<clipPath id="frame"><rect x="${FRAME.left}" y="${FRAME.top}" width="${right - FRAME.left}" height="${bottom - FRAME.top}"/></clipPath>`); // prettier-ignore
  const slope = `M${X(10 ** x0)} ${Y(roof.gigabytesPerSecond * 10 ** x0)}L${X(ridge)} ${Y(roof.gflops)}H${right}`;
  path(slope, 'stroke="black" stroke-width="2" clip-path="url(#frame)"');

  const impls = [...new Set(points.map((p) => p.impl))];
  for (const p of points) {
    const colour = COLOURS[impls.indexOf(p.impl) % COLOURS.length];
    drawing.add(
      `<circle cx="${X(p.intensity).toFixed(1)}" cy="${Y(p.gflops).toFixed(1)}" r="4.5" fill="${colour}" fill-opacity="0.7"><title>${escaped(`${p.impl}: ${p.label}: ${p.gflops.toFixed(2)} GFLOP/s`)}</title></circle>`,
    );
  }
  // The fastest get their names, as far as these do not cover each other.
  const taken: { x: number; y: number }[] = [];
  for (const p of [...points].sort((a, b) => b.gflops - a.gflops)) {
    const at = { x: X(p.intensity) + 7, y: Y(p.gflops) + 4 };
    if (taken.length === LABELS) break;
    if (taken.some((t) => Math.abs(t.y - at.y) < 12 && Math.abs(t.x - at.x) < 210)) continue;
    taken.push(at);
    text(at.x, at.y, p.label, 'font-size="10"');
  }
  impls.forEach((impl, i) => {
    const y = FRAME.top + 14 + 20 * i;
    drawing.add(`<circle cx="${right + 18}" cy="${y}" r="5" fill="${COLOURS[i % COLOURS.length]}"/>`);
    text(right + 30, y + 4, impl);
  });
  return drawing.toString();
}

/** Refuses names that {@link writeRoofline} could not write, before anything is measured. @throws {UserError} */
export async function checkRooflineName(path: string): Promise<void> {
  if (![".svg", ".png"].includes(extname(path).toLowerCase())) {
    throw new UserError("--roofline", `expected a name that ends in .svg or .png, got ${path}`, "try roofline.svg");
  }
  await checkPlace(path);
  const there = await stat(path).catch(() => null);
  if (there?.isDirectory()) {
    throw new UserError("--roofline", `expected the name of a file, got the folder ${path}`, "name a file in it");
  }
}

/** Writes the picture, SVG or PNG by the name (see {@link checkRooflineName}). */
export async function writeRoofline(path: string, roof: Roof, points: readonly Point[]): Promise<void> {
  await writeDrawing(path, rooflineSvg(roof, points));
}
