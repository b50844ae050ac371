/** The two charts of the guides, as SVG. */
import { COLOURS, Drawing } from "../bench/drawing.js";

const WIDTH = 640;
const HEIGHT = 340;
const FRAME = { left: 62, right: WIDTH - 16, top: 62, bottom: HEIGHT - 46 };
const GRID = 'stroke="#ddd"';
const MIDDLE = 'text-anchor="middle"';

export interface Series {
  readonly name: string;
  /** [x, y] in the order in which they are joined. */
  readonly points: readonly (readonly [number, number])[];
}

export interface Axes {
  readonly title: string;
  readonly x: string;
  readonly y: string;
}

/** A round step that divides `span` into four parts or a few more. */
function roundStep(span: number): number {
  const power = 10 ** Math.floor(Math.log10(span / 4));
  return power * ([5, 2, 1].find((m) => m * power <= span / 4) ?? 1);
}

const short = (v: number): string => String(Number(v.toPrecision(3)));

/** Title, names of the axes and of the series. */
function begin({ title, x, y }: Axes, names: readonly string[]): Drawing {
  const drawing = new Drawing(WIDTH, HEIGHT);
  drawing.text(FRAME.left, 22, title, 'font-size="15"');
  drawing.text((FRAME.left + FRAME.right) / 2, HEIGHT - 10, x, MIDDLE);
  const middle = (FRAME.top + FRAME.bottom) / 2;
  drawing.text(16, middle, y, `${MIDDLE} transform="rotate(-90 16 ${middle})"`);
  let left = FRAME.left;
  names.forEach((name, i) => {
    drawing.add(`<rect x="${left}" y="35" width="12" height="12" fill="${COLOURS[i]}"/>`);
    drawing.text(left + 17, 46, name);
    left += 36 + 7 * name.length;
  });
  return drawing;
}

/** The height of `v` in the frame, and lines at round values. */
function yAxis(drawing: Drawing, low: number, high: number, log: boolean): (v: number) => number {
  const [from, to] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  const Y = (v: number) =>
    FRAME.bottom - (((log ? Math.log10(v) : v) - from) / (to - from || 1)) * (FRAME.bottom - FRAME.top);
  const ticks: number[] = [];
  if (log) {
    for (let e = Math.floor(from); e <= to; e++) ticks.push(...[1, 2, 5].map((m) => m * 10 ** e));
  } else {
    const step = roundStep(high - low || 1);
    for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(k * step);
  }
  for (const v of ticks.filter((t) => t >= low && t <= high)) {
    drawing.path(`M${FRAME.left} ${Y(v).toFixed(1)}H${FRAME.right}`, GRID);
    drawing.text(FRAME.left - 6, Y(v) + 4, short(v), 'text-anchor="end"');
  }
  return Y;
}

/**
 * Lines over a common x axis.
 * @param o.log a logarithmic y axis
 * @param o.marks upright lines with a label
 */
export function lineChart(
  axes: Axes,
  series: readonly Series[],
  o: { readonly log?: boolean; readonly marks?: readonly { readonly x: number; readonly label: string }[] } = {},
): string {
  const drawing = begin(
    axes,
    series.map((s) => s.name),
  );
  const [xs, ys] = [0, 1].map((k) => series.flatMap((s) => s.points.map((p) => p[k])));
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const X = (v: number) => FRAME.left + ((v - first) / (last - first || 1)) * (FRAME.right - FRAME.left);
  const Y = yAxis(drawing, Math.min(...ys), Math.max(...ys), o.log ?? false);
  const step = roundStep(last - first || 1);
  for (let k = Math.ceil(first / step); k * step <= last; k++) {
    drawing.path(`M${X(k * step).toFixed(1)} ${FRAME.top}V${FRAME.bottom}`, GRID);
    drawing.text(X(k * step), FRAME.bottom + 17, short(k * step), MIDDLE);
  }
  for (const { x, label } of o.marks ?? []) {
    drawing.path(`M${X(x).toFixed(1)} ${FRAME.top}V${FRAME.bottom}`, 'stroke="black" stroke-dasharray="4 3"');
    drawing.text(X(x) + 5, FRAME.top + 12, label);
  }
  series.forEach(({ points }, i) => {
    const d = points.map(([x, y]) => `${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("L");
    drawing.path(`M${d}`, `stroke="${COLOURS[i]}" stroke-width="2" stroke-linejoin="round"`);
  });
  return drawing.toString();
}

/** Groups of bars, one bar of each series in each group; the y axis begins at 0. */
export function barChart(
  axes: Axes,
  groups: readonly string[],
  series: readonly { readonly name: string; readonly values: readonly number[] }[],
): string {
  const drawing = begin(
    axes,
    series.map((s) => s.name),
  );
  const Y = yAxis(drawing, 0, Math.max(...series.flatMap((s) => s.values)), false);
  const slot = (FRAME.right - FRAME.left) / groups.length;
  const bar = (0.8 * slot) / series.length;
  groups.forEach((label, g) => {
    drawing.text(FRAME.left + (g + 0.5) * slot, FRAME.bottom + 17, label, MIDDLE);
    series.forEach(({ values }, i) => {
      const top = Y(values[g]);
      const x = FRAME.left + (g + 0.1) * slot + i * bar;
      drawing.add(
        `<rect x="${x.toFixed(1)}" y="${top.toFixed(1)}" width="${(bar - 1).toFixed(1)}" height="${(FRAME.bottom - top).toFixed(1)}" fill="${COLOURS[i]}"/>`,
      );
    });
  });
  return drawing.toString();
}
