/** Timing one workload, checking it, and judging whether the numbers can be true. */
import type { Gpu } from "../src/gpu/gpu.js";
import type { Peaks } from "./peak.js";
import type { Case, Check, Workload } from "./workload.js";

/** Short passes are recorded so often that one sample takes this long: waiting for the device then costs about a percent. */
const SAMPLE_MS = 20;
const MAX_PASSES = 256;
/** Without `--repeat`: at least so many samples and milliseconds, but no new sample after the largest of either. */
const BUDGET_MS = 300;
const MAX_BUDGET_MS = 3000;
const MIN_SAMPLES = 3;
const MAX_SAMPLES = 25;

/**
 * Largest error, relative to the largest entry, that rounding can explain. Sums here have up to 65,536 terms; float32 loses
 * some 1e-6 of them, and one missing term in 5,000 shows as 1e-3 or more.
 */
export const MAX_ERROR = 1e-4;

/** One JSON line. Times are of one pass. */
export interface Measurement {
  readonly kernel: string;
  readonly shape: string | null;
  readonly pass: string | null;
  /** Whose code ran. */
  readonly impl: string;
  readonly variant: string | null;
  readonly holes: number | null;
  readonly medianMs: number;
  readonly minMs: number;
  /** At the median time; null when the measurement was rejected. */
  readonly gflops: number | null;
  /** Of the FMA peak measured in this run. */
  readonly shareOfPeak: number | null;
  readonly gigabytesPerSecond: number | null;
  /** Of the copy bandwidth measured in this run; above 1 where everything fits the caches. */
  readonly shareOfCopy: number | null;
  /** Relative to the largest entry; null for NaN. */
  readonly maxError: number | null;
  readonly checked: number;
  readonly entries: number;
  /** Reference time over median time; the former is scaled up from `checked` entries. */
  readonly speedUp: number | null;
  readonly adapter: string;
  /** Why the measurement was rejected; absent when it was not. */
  readonly error?: string;
}

export interface Times {
  readonly medianMs: number;
  readonly minMs: number;
}

export function summarizeTimes(samples: readonly number[]): Times {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const medianMs = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { medianMs, minMs: sorted[0] };
}

/** Times `record`: one run to compile it, one to see how long it takes (the first sample, if it was long), the samples. */
export async function time(gpu: Gpu, record: () => void, repeat?: number): Promise<Times> {
  const sample = async (passes: number) => {
    const started = performance.now();
    for (let i = 0; i < passes; i++) record();
    await gpu.sync();
    return (performance.now() - started) / passes;
  };
  await gpu.sync(); // what was recorded before is not ours
  await sample(1);
  const started = performance.now();
  const first = await sample(1);
  const passes = Math.min(MAX_PASSES, Math.ceil(SAMPLE_MS / first));
  const samples: number[] = passes === 1 ? [first] : [];
  const done = () => {
    if (repeat !== undefined) return samples.length >= repeat;
    const elapsed = performance.now() - started;
    if (samples.length >= MAX_SAMPLES || (samples.length > 0 && elapsed > MAX_BUDGET_MS)) return true;
    return samples.length >= MIN_SAMPLES && elapsed > BUDGET_MS;
  };
  while (!done()) samples.push(await sample(passes));
  return summarizeTimes(samples);
}

/** Puts a line together; one that is wrong, or faster than the adapter can compute, carries `error` and no rates. */
export function judge(
  { kernel, shape, pass, variant, holes }: Case,
  work: Pick<Workload, "flops" | "bytes">,
  { medianMs, minMs }: Times,
  check: Check,
  peaks: Peaks,
  adapter: string,
): Measurement {
  const best = work.flops / minMs / 1e6;
  const error = !(check.maxError <= MAX_ERROR)
    ? `wrong: error ${check.maxError.toExponential(1)} of the largest entry, expected at most ${MAX_ERROR}`
    : best > peaks.gflops
      ? `impossible: ${best.toFixed(1)} GFLOP/s at best, above the FMA peak of ${peaks.gflops.toFixed(1)}; measure again on a quiet machine`
      : undefined;
  const rate = (amount: number) => (error === undefined ? amount / medianMs / 1e6 : null);
  const share = (value: number | null, of: number) => (value === null ? null : value / of);
  const gflops = rate(work.flops);
  const gigabytesPerSecond = rate(work.bytes);
  return {
    kernel,
    shape,
    pass,
    impl: "ours",
    variant,
    holes,
    medianMs,
    minMs,
    gflops,
    shareOfPeak: share(gflops, peaks.gflops),
    gigabytesPerSecond,
    shareOfCopy: share(gigabytesPerSecond, peaks.copyGigabytesPerSecond),
    maxError: Number.isNaN(check.maxError) ? null : check.maxError,
    checked: check.checked,
    entries: check.entries,
    speedUp: error === undefined ? check.referenceMs / medianMs : null,
    adapter,
    ...(error === undefined ? {} : { error }),
  };
}

/** Measures one case: times it, then checks it on inputs that it has not seen. */
export async function measure(gpu: Gpu, c: Case, peaks: Peaks, repeat?: number): Promise<Measurement> {
  const workload = c.make(gpu);
  try {
    workload.fill(1);
    const times = await time(gpu, () => workload.record(), repeat);
    workload.fill(2);
    workload.record();
    return judge(c, workload, times, await workload.check(), peaks, gpu.adapter.name);
  } finally {
    workload.free();
  }
}
