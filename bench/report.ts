/** What `pconv-bench` prints. */
import type { Measurement } from "./measure.js";
import type { Peaks } from "./peak.js";
import { describeShape, SHAPES } from "./shapes.js";

const COLUMNS = [
  ["kernel", 20],
  ["shape", 6],
  ["pass", 8],
  ["variant", 8],
  ["holes", 6],
  ["median ms", 10],
  ["min ms", 9],
  ["GFLOP/s", 8],
  ["of peak", 8],
  ["GB/s", 7],
  ["of copy", 8],
  ["max error", 10],
  ["x CPU", 7],
] as const;

/** How many of the columns are words, on the left. */
const WORDS = 4;

function row(cells: readonly string[]): string {
  return COLUMNS.map(([, width], i) => (i < WORDS ? cells[i].padEnd(width) : cells[i].padStart(width)))
    .join(" ")
    .trimEnd();
}

/** Three significant digits without an exponent. */
function digits(value: number | null): string {
  if (value === null) return "-";
  if (value >= 100) return value.toFixed(0);
  return value.toFixed(value >= 10 ? 1 : value >= 1 ? 2 : 3);
}

const percent = (value: number | null): string => (value === null ? "-" : `${digits(100 * value)} %`);

/** One line of the table. */
export function tableRow(m: Measurement): string {
  const line = row([
    m.kernel,
    m.shape ?? "-",
    m.pass ?? "-",
    m.variant ?? "-",
    m.holes === null ? "plain" : `${100 * m.holes} %`,
    digits(m.medianMs),
    digits(m.minMs),
    digits(m.gflops),
    percent(m.shareOfPeak),
    digits(m.gigabytesPerSecond),
    percent(m.shareOfCopy),
    m.maxError === null ? "NaN" : m.maxError.toExponential(1),
    digits(m.speedUp),
  ]);
  return m.error === undefined ? line : `${line}\n  REJECTED, ${m.error}`;
}

/** What the columns mean, and what the shares are shares of. */
export function header(adapter: string, peaks: Peaks, shapes: readonly string[]): string {
  const { accumulators, unroll, lanes } = peaks.fma.spec;
  return [
    `adapter: ${adapter}`,
    `FMA peak ${digits(peaks.gflops)} GFLOP/s (${accumulators} ${lanes === 4 ? "vec4f" : "f32"} sums unrolled ${unroll} times), ` +
      `copy ${digits(peaks.copyGigabytesPerSecond)} GB/s read and written; both measured now, best of several`,
    `shapes: ${shapes.map((name) => `${name} ${describeShape(SHAPES.get(name)!)}`).join(", ")}`,
    "Rates are at the median. FLOPs: two per multiply-add, taps beyond the border and pixels in holes included. Bytes: what",
    "must be read and written once. holes: plain convolution, or partial with a centre hole of that share; the time of the",
    "partial one includes the mask update (forward) or the scaling of dy by the ratio (dx, dw), that of dx the transposition",
    "of the weight. max error: against the float64 CPU reference, relative to the largest entry, on new inputs after the",
    "timing, on sampled entries of the convolutions and all of the others. x CPU: how many times faster than that reference",
    "(one thread, not optimised); its time is EXTRAPOLATED from the sampled entries.",
    "",
    row(COLUMNS.map(([name]) => name)),
  ].join("\n");
}

/** The peaks as lines like every other. */
export function peakLines(adapter: string, peaks: Peaks): Measurement[] {
  const common = { shape: null, pass: null, impl: "ours", holes: null, maxError: 0, speedUp: null, adapter } as const;
  const { fma, copy } = peaks;
  return [
    {
      ...common,
      kernel: "fmaPeak",
      variant: `${fma.spec.accumulators}x${fma.spec.lanes} unrolled ${fma.spec.unroll}`,
      medianMs: fma.medianMs,
      minMs: fma.minMs,
      gflops: peaks.gflops,
      shareOfPeak: 1,
      gigabytesPerSecond: null,
      shareOfCopy: null,
      checked: fma.items,
      entries: fma.items,
    },
    {
      ...common,
      kernel: "copyPeak",
      variant: null,
      medianMs: copy.medianMs,
      minMs: copy.minMs,
      gflops: null,
      shareOfPeak: null,
      gigabytesPerSecond: peaks.copyGigabytesPerSecond,
      shareOfCopy: 1,
      checked: copy.bytes / 8,
      entries: copy.bytes / 8,
    },
  ];
}
