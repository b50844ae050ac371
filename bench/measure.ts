/** Timing one workload, checking it, and judging whether the numbers can be true. */
import type { Gpu } from "../src/gpu/gpu.js";
import type { Flops } from "./flops.js";
import type { Peaks } from "./peak.js";
import { alternate, medianRatio, type Sampler, type Times, type TimesInTurns } from "./sampling.js";
import { FlopCounter } from "../src/kernels/conv/flopCounter.js";
import type { TuneOptions } from "../src/kernels/conv/tuning.js";
import { tuneWorkloads } from "./tuning.js";
import type { Case, Check, Workload } from "./workload.js";

/**
 * Largest error, relative to the largest entry, that rounding can explain. Sums here have up to 65,536 terms; float32 loses
 * some 1e-6 of them, and one missing term in 5,000 shows as 1e-3 or more.
 */
export const MAX_ERROR = 1e-4;
/** The same for products of half precision: operands lose 2^-11 each. */
export const MAX_HALF_ERROR = 4e-3;

/** One JSON line. Times are of one pass. */
export interface Measurement {
  readonly kernel: string;
  readonly shape: string | null;
  readonly pass: string | null;
  /** Whose code ran. */
  readonly impl: string;
  readonly holes: number | null;
  readonly medianMs: number | null;
  readonly minMs: number | null;
  /** The textbook's operations at the median time; null when the measurement was rejected. */
  readonly gflops: number | null;
  /**
   * Needed operations at the median time, of the float32 FMA peak measured in this run; above 1 where Winograd's form or matrix
   * units beat direct float32; null for code that does not run on the adapter.
   */
  readonly shareOfPeak: number | null;
  readonly textbookGflop: number | null;
  readonly neededGflop: number | null;
  /** What the library counted in the run that was checked: of the direct form, and really executed. */
  readonly countedGflop?: number;
  readonly executedGflop?: number;
  readonly gigabytesPerSecond: number | null;
  /** Of the copy bandwidth measured in this run; above 1 where everything fits the caches. */
  readonly shareOfCopy: number | null;
  /** Relative to the largest entry; null for NaN, and where nothing was computed. */
  readonly maxError: number | null;
  readonly checked: number;
  readonly entries: number;
  /** Reference time over median time; the former is scaled up from `checked` entries. */
  readonly speedUp: number | null;
  /** Time of a partial convolution over that of the plain one, measured in turns: the median of the turns' ratios. */
  readonly toPlain?: number;
  /** Time of the fastest correct WebGPU peer over ours, measured in turns. */
  readonly overFastestPeer?: number;
  /** Most device bytes in use at once. */
  readonly peakBytes?: number;
  /** Needed operations at the FMA peak, in milliseconds, and the median time over that. */
  readonly floorMs?: number;
  readonly overFloor?: number;
  readonly microsecondsPerPixel?: number;
  /** Dispatches, and share of the device's time, in a profiled step. */
  readonly count?: number;
  readonly share?: number;
  readonly adapter: string;
  /** Why the measurement was rejected; absent when it was not. */
  readonly error?: string;
}

/** What a measurement is of. */
export type Subject = Pick<Measurement, "kernel" | "shape" | "pass" | "holes"> & {
  readonly impl?: string;
  /** Computed by matrix units of half precision. */
  readonly half?: boolean;
};

/** Runs a workload on our device. The last kernel's result is waited for by reading a corner of a buffer back. */
export function ownSampler(gpu: Gpu, record: () => void): Sampler {
  return {
    async sample(passes) {
      await gpu.sync(); // what was recorded before is not ours
      const started = performance.now();
      for (let i = 0; i < passes; i++) record();
      await gpu.read(gpu.constant([1])); // commands run in order: when this is back, all else is done
      return (performance.now() - started) / passes;
    },
  };
}

/** Times `record` alone. */
export async function time(gpu: Gpu, record: () => void, repeat?: number): Promise<Times> {
  const [times] = await alternate([ownSampler(gpu, record)], repeat);
  if (times instanceof Error) throw times;
  return times;
}

/** What must not be believed: wrong or impossibly fast. `peak` is absent for what no peak here limits. */
export function objection(
  flops: Flops,
  { minMs }: Times,
  check: Check,
  peak: number | undefined,
  maxError: number,
): string | undefined {
  if (!(check.maxError <= maxError)) {
    return `wrong: error ${check.maxError.toExponential(1)} of the largest entry, expected at most ${maxError}`;
  }
  const best = flops.least / minMs / 1e6;
  if (peak === undefined || best <= peak) return undefined;
  return `impossible: ${best.toFixed(1)} GFLOP/s at best, above the FMA peak of ${peak.toFixed(1)}; measure again on a quiet machine`;
}

/** Puts a line together; one that is wrong, or faster than the adapter can compute, carries `error` and no rates. */
export function judge(
  { kernel, shape, pass, holes, impl = "ours", half = false }: Subject,
  work: Pick<Workload, "flops" | "bytes">,
  times: Times,
  check: Check,
  peaks: Peaks,
  adapter: string,
  onAdapter = true,
): Measurement {
  const { medianMs, minMs } = times;
  const peak = onAdapter && !half ? peaks.gflops : undefined; // that of half precision was not measured
  const error = objection(work.flops, times, check, peak, half ? MAX_HALF_ERROR : MAX_ERROR);
  const rate = (amount: number) => (error === undefined ? amount / medianMs / 1e6 : null);
  const share = (value: number | null, of: number) => (value === null || !onAdapter ? null : value / of);
  const gigabytesPerSecond = rate(work.bytes);
  return {
    kernel,
    shape,
    pass,
    impl,
    holes,
    medianMs,
    minMs,
    gflops: rate(work.flops.textbook),
    shareOfPeak: share(rate(work.flops.needed), peaks.gflops),
    textbookGflop: work.flops.textbook / 1e9,
    neededGflop: work.flops.needed / 1e9,
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

/** A line that says nothing yet. */
export function blank({ kernel, shape, pass, holes, impl = "ours" }: Subject, adapter: string): Measurement {
  const times = {
    medianMs: null,
    minMs: null,
    gflops: null,
    shareOfPeak: null,
    textbookGflop: null,
    neededGflop: null,
  };
  const rates = { gigabytesPerSecond: null, shareOfCopy: null, maxError: null, checked: 0, entries: 0, speedUp: null };
  return { kernel, shape, pass, impl, holes, ...times, ...rates, adapter };
}

/** The line of something that gave no result at all. */
export function failed(subject: Subject, adapter: string, error: string): Measurement {
  return { ...blank(subject, adapter), error };
}

/** What the engine itself counted in one pass, in GFLOP: see `FlopCounter`. */
export interface Counted {
  /** Of the direct form, over the tiles that were computed. */
  readonly countedGflop?: number;
  /** Really multiplied and added. */
  readonly executedGflop?: number;
}

/** Lets the library count the operations of `run`; says nothing where it ran no convolution. */
export async function countOperations(gpu: Gpu, run: () => void | Promise<void>): Promise<Counted> {
  const counter = new FlopCounter(gpu);
  try {
    await run();
    const totals = [...(await counter.totals()).values()];
    if (totals.length === 0) return {};
    const sum = (key: "needed" | "executed") => totals.reduce((total, f) => total + f[key], 0) / 1e9;
    return { countedGflop: sum("needed"), executedGflop: sum("executed") };
  } finally {
    counter.detach();
  }
}

/** Runs a workload on inputs that it has not seen, compares, and counts. */
export async function checkFresh(
  gpu: Gpu,
  workload: Workload,
): Promise<{ readonly check: Check; readonly counted: Counted }> {
  workload.fill(2);
  const counted = await countOperations(gpu, () => workload.record());
  return { check: await workload.check(), counted };
}

/**
 * Measures some cases in turns, then checks each on fresh inputs. The plain convolution among them is what `toPlain` relates to.
 * @param tuning how their convolutions are tuned before; not at all where it is absent
 */
export async function measureGroup(
  gpu: Gpu,
  cases: readonly Case[],
  peaks: Peaks,
  { repeat, tuning }: { readonly repeat?: number | undefined; readonly tuning?: TuneOptions | undefined } = {},
): Promise<Measurement[]> {
  const workloads: Workload[] = [];
  try {
    for (const c of cases) workloads.push(c.make(gpu));
    if (tuning) await tuneWorkloads(gpu, workloads, tuning);
    for (const workload of workloads) workload.fill(1);
    const times = await alternate(workloads.map((w) => ownSampler(gpu, () => w.record())), repeat); // prettier-ignore
    const lines: Measurement[] = [];
    for (const [i, workload] of workloads.entries()) {
      const its = times[i];
      if (its instanceof Error) throw its; // our own code and device: nothing that follows could be trusted
      const { check, counted } = await checkFresh(gpu, workload);
      lines.push({ ...judge(cases[i], workload, its, check, peaks, gpu.adapter.name), ...counted });
    }
    const plain = lines.findIndex((m) => m.holes === null && m.error === undefined);
    if (plain < 0 || lines.length === 1) return lines;
    const of = (i: number) => times[i] as TimesInTurns; // errors were thrown above
    return lines.map((m, i) =>
      m.holes === null || m.error !== undefined ? m : { ...m, toPlain: medianRatio(of(i), of(plain)) },
    );
  } finally {
    for (const workload of workloads) workload.free();
  }
}
