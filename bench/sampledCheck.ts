/** Comparing a convolution's result with the reference on sampled entries: all of them would take minutes. */
import type { Rng } from "../src/pconv/rng.js";
import { type Check, ErrorMeter } from "./workload.js";

/** Multiplications that a check's reference may spend: tens of milliseconds. */
const REFERENCE_WORK = 16e6;
const MIN_SAMPLES = 8;

export interface Sampled {
  /** The result: `units` pixels, or rows of the weight, each of `width` entries. */
  readonly got: Float32Array;
  readonly units: number;
  readonly width: number;
  /** Of the whole pass, the textbook's; decides how many units the reference can afford. */
  readonly flops: number;
  readonly rng: Rng;
  /** Computes the units that `only` accepts. */
  reference(only: (unit: number) => boolean): Float64Array;
  /** Which units hold anything that is asked for; all where it is absent. */
  defined?(unit: number): boolean;
}

export function sampledCheck(o: Sampled): Check {
  const { got, units, width, flops, rng } = o;
  const wanted = Math.max(MIN_SAMPLES, Math.ceil((REFERENCE_WORK * 2 * units) / flops));
  const chosen = new Uint8Array(units);
  chosen[0] = chosen[units - 1] = 1; // corners are where a wrong border shows
  if (wanted >= units) chosen.fill(1);
  else for (let i = 2; i < wanted; i++) chosen[rng.integer(0, units - 1)] = 1;
  chosen.forEach((_, unit) => {
    if (o.defined?.(unit) === false) chosen[unit] = 0;
  });
  const samples = chosen.reduce((sum, v) => sum + v, 0);

  let started = performance.now();
  if (samples < units) o.reference(() => false);
  const scanMs = samples < units ? performance.now() - started : 0; // visiting every tap, whatever is computed
  started = performance.now();
  const want = o.reference((unit) => chosen[unit] === 1);
  const sampledMs = performance.now() - started;

  const meter = new ErrorMeter();
  chosen.forEach((v, unit) => {
    if (v) for (let i = unit * width; i < (unit + 1) * width; i++) meter.add(got[i], want[i]);
  });
  return {
    maxError: meter.maxError,
    checked: meter.checked,
    entries: units * width,
    referenceMs: scanMs + (Math.max(0, sampledMs - scanMs) * units) / samples,
  };
}
