/** What `pconv-bench` prints. */
import type { KernelTime } from "../src/gpu/timing.js";
import type { Measurement } from "./measure.js";
import type { Peaks } from "./peak.js";
import { explain } from "./plan.js";

const COLUMNS = [
  ["kernel", 25],
  ["shape", 9],
  ["pass", 8],
  ["impl", 19],
  ["holes", 6],
  ["median ms", 10],
  ["min ms", 9],
  ["GFLOP/s", 8],
  ["of peak", 8],
  ["GB/s", 7],
  ["of copy", 8],
  ["max error", 10],
  ["x CPU", 7],
  ["/ plain", 7],
] as const;

/** How many of the columns are words, on the left. */
const WORDS = 5;

function row(cells: readonly string[]): string {
  return COLUMNS.map(([, width], i) => (i < WORDS ? cells[i].padEnd(width) : cells[i].padStart(width)))
    .join(" ")
    .trimEnd();
}

/** Three significant digits without an exponent. */
export function digits(value: number | null): string {
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
    m.impl,
    m.holes === null ? "-" : `${100 * m.holes} %`,
    digits(m.medianMs),
    digits(m.minMs),
    digits(m.gflops),
    percent(m.shareOfPeak),
    digits(m.gigabytesPerSecond),
    percent(m.shareOfCopy),
    m.maxError === null ? (m.checked > 0 ? "NaN" : "-") : m.maxError.toExponential(1),
    digits(m.speedUp),
    digits(m.toPlain ?? null),
  ]);
  return m.error === undefined ? line : `${line}\n  REJECTED, ${m.error}`;
}

/** The adapter, and what the shares are shares of. */
export function peakHeader(adapter: string, peaks: Peaks): string {
  const { accumulators, unroll, lanes } = peaks.fma.spec;
  return [
    `adapter: ${adapter}`,
    `FMA peak ${digits(peaks.gflops)} GFLOP/s (${accumulators} ${lanes === 4 ? "vec4f" : "f32"} sums unrolled ${unroll} times), ` +
      `copy ${digits(peaks.copyGigabytesPerSecond)} GB/s read and written; both measured now, best of several`,
  ].join("\n");
}

/** What the columns mean. */
export function tableHeader(shapes: readonly string[]): string {
  return [
    "",
    `shapes: ${shapes.map(explain).join(", ")}`,
    "Rates are at the median. GFLOP/s: the textbook's operations, two per multiply-add, taps beyond the border and pixels in",
    "holes included; of peak: only those needed, which leaves out windows without a valid pixel. Bytes: what must be read and",
    "written once. holes: plain (-), or a partial convolution with a centre hole of that share; its forward time includes the",
    "mask update, that of dx the transposition of the weight; / plain: its time over the plain one's, measured in turns. max",
    "error: against the float64 CPU reference, relative to the largest entry, on new inputs after the timing, on sampled",
    "entries of the convolutions and all of the others. x CPU: how many times faster than that reference (one thread, not",
    "optimised); its time is EXTRAPOLATED from the sampled entries.",
    "",
    row(COLUMNS.map(([name]) => name)),
  ].join("\n");
}

/** The peaks as lines like every other, with what they were measured with. */
export function peakLines(adapter: string, peaks: Peaks): (Measurement & { readonly variant?: string })[] {
  const { fma, copy } = peaks;
  const subject = { shape: null, pass: null, impl: "ours", holes: null, maxError: 0, speedUp: null, adapter } as const;
  const none = { textbookGflop: null, neededGflop: null, gigabytesPerSecond: null, shareOfCopy: null } as const;
  return [
    {
      ...subject,
      ...none,
      kernel: "fmaPeak",
      variant: `${fma.spec.accumulators}x${fma.spec.lanes} unrolled ${fma.spec.unroll}`,
      medianMs: fma.medianMs,
      minMs: fma.minMs,
      gflops: peaks.gflops,
      shareOfPeak: 1,
      checked: fma.items,
      entries: fma.items,
    },
    {
      ...subject,
      ...none,
      kernel: "copyPeak",
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

/** A line about a whole network. */
export function networkRow(m: Measurement): string {
  const cell = (value: number | null | undefined, width: number) => digits(value ?? null).padStart(width);
  const mebibytes = m.peakBytes === undefined ? "-" : (m.peakBytes / 2 ** 20).toFixed(0);
  const line = [
    `${m.kernel.padEnd(8)} ${(m.pass ?? "").padEnd(8)} ${(m.shape ?? "").padEnd(28)}`,
    `${cell(m.medianMs, 10)} ms ${cell(m.gflops, 7)} GFLOP/s ${percent(m.shareOfPeak).padStart(7)} of peak,`,
    `${cell(m.overFloor, 6)} x its floor of ${cell(m.floorMs, 1)} ms, ${cell(m.microsecondsPerPixel, 1)} us a pixel, ${mebibytes} MiB at most,`,
    `GFLOP: textbook ${digits(m.textbookGflop)}, needed ${digits(m.neededGflop)}, counted ${digits(m.countedGflop ?? null)}, executed ${digits(m.executedGflop ?? null)},`,
    `check ${m.maxError === null ? "-" : m.maxError.toExponential(1)}`,
  ].join(" ");
  return m.error === undefined ? line : `${line}\n  REJECTED, ${m.error}`;
}

/** A line about compilation; the heading without arguments. */
export function compileRow(
  kernel?: string,
  pass?: string,
  holes?: number | null,
  ms?: number,
  kernels?: readonly string[],
): string {
  // prettier-ignore
  if (kernel === undefined) return `${"kernel".padEnd(25)} ${"pass".padEnd(8)} ${"holes".padEnd(6)} ${"ms".padStart(8)}  kernels`; // prettier-ignore
  const share = holes === null || holes === undefined ? "-" : `${100 * holes} %`;
  return `${kernel.padEnd(25)} ${(pass ?? "").padEnd(8)} ${share.padEnd(6)} ${digits(ms ?? null).padStart(8)}  ${(kernels ?? []).join(", ")}`;
}

/** A line of a profile; the heading without arguments. */
export function profileRow(k?: KernelTime, share?: number): string {
  if (!k) return `${"kernel".padEnd(24)} ${"count".padStart(6)} ${"ms".padStart(9)} ${"share".padStart(8)}`;
  return `${k.kernel.padEnd(24)} ${String(k.count).padStart(6)} ${digits(k.ms).padStart(9)} ${percent(share ?? null).padStart(8)}`; // prettier-ignore
}
