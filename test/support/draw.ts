/** Random test inputs, each a function of the base seed and a case number, so that a failing case can be replayed. */
import { Rng } from "../../src/pconv/rng.js";

/** `PCONV_SEED` overrides it; printed at the start of every run and in every failure. */
export const BASE_SEED = Number(process.env["PCONV_SEED"] ?? 20180420);
if (!Number.isSafeInteger(BASE_SEED))
  throw new Error(`PCONV_SEED: expected an integer, got ${process.env["PCONV_SEED"]}`);

export class Draw {
  private readonly rng: Rng;
  /** For messages: what to set to see the same numbers again. */
  readonly seed: string;

  /** `stream` is any number that is this test's own, `index` the case in it. */
  constructor(stream: number, index = 0) {
    this.rng = Rng.of(BASE_SEED, stream, index);
    this.seed = `PCONV_SEED=${BASE_SEED}, stream ${stream}, case ${index}`;
  }

  integer(lo: number, hi: number): number {
    return this.rng.integer(lo, hi);
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.rng.integer(0, choices.length - 1)];
  }

  /** Float32 values in [lo, hi): what the GPU gets, and, unrounded, what the float64 reference gets. */
  floats(count: number, lo = -1, hi = 1): Float32Array {
    return Float32Array.from({ length: count }, () => this.rng.uniform(lo, hi));
  }

  /** Float64 values in [lo, hi), for gradient checks. */
  doubles(count: number, lo = -1, hi = 1): Float64Array {
    return Float64Array.from({ length: count }, () => this.rng.uniform(lo, hi));
  }

  /** Values at least `gap` away from zero: for functions with a kink there. */
  awayFromZero(count: number, gap: number): Float64Array {
    return this.doubles(count).map((v) => (v < 0 ? v - gap : v + gap));
  }

  /** A permutation of distinct values at least `gap` apart: for functions with kinks at ties. */
  distinct(count: number, gap: number): Float64Array {
    return Float64Array.from(this.rng.permutation(count), (rank) => (rank - count / 2) * gap);
  }

  /** 1 = valid, 0 = hole with probability `holes`; with `fractions` half of the valid ones lie strictly between. */
  mask(count: number, holes: number, fractions = false): Float32Array {
    return Float32Array.from({ length: count }, () => {
      if (this.rng.uniform() < holes) return 0;
      return fractions && this.rng.uniform() < 0.5 ? this.rng.uniform(0.05, 0.95) : 1;
    });
  }
}

/** Hole shares that every masked kernel is tried with. */
export const HOLE_SHARES = [0, 0.3, 0.9, 1] as const;

/** A copy of `x` ([N,H,W,C]) with NaN in every channel whose mask ([Nm,H,W,G]) is 0. */
export function nanInHoles(
  x: Float32Array,
  c: number,
  mask: ArrayLike<number>,
  groups = 1,
  groupOf: ArrayLike<number> = new Float32Array(c),
): Float32Array {
  const maskPixels = mask.length / groups;
  return x.map((v, i) => (mask[(Math.floor(i / c) % maskPixels) * groups + groupOf[i % c]] === 0 ? NaN : v));
}
