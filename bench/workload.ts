/** What can be measured: one pass of one kernel over one layer, with its check against the float64 reference. */
import type { Gpu } from "../src/gpu/gpu.js";
import type { ConvShape } from "../src/kernels/shape.js";
import type { Flops } from "./flops.js";

export const PASSES = ["forward", "dx", "dw"] as const;
export type Pass = (typeof PASSES)[number];

/** What the check of a workload found. */
export interface Check {
  /** Largest |result - reference| over the checked entries, divided by the largest |reference| among them; NaN if any is. */
  readonly maxError: number;
  /** Entries compared, and how many there are. */
  readonly checked: number;
  readonly entries: number;
  /** Milliseconds that the reference takes for all entries; scaled up from the checked ones unless these are all. */
  readonly referenceMs: number;
}

export interface Workload {
  readonly flops: Flops;
  /** Bytes that must be read and written at least once, channel padding included. */
  readonly bytes: number;
  /** Draws new inputs and spoils the outputs. */
  fill(seed: number): void;
  /** Records the pass once; submits nothing. */
  record(): void;
  /** Compares what the last `record` made of the last `fill` with the reference. */
  check(): Promise<Check>;
  free(): void;
}

/** Inputs of a plain convolution pass, unpadded: NHWC, [kh][kw][C][K]; only those that the pass reads. */
export interface Operands {
  readonly x?: Float32Array;
  readonly dy?: Float32Array;
  readonly weight?: Float32Array;
}

/** A convolution pass, which others can compute from the same numbers. */
export interface ConvWorkload extends Workload {
  /** What the last `fill` drew. */
  operands(): Operands;
  /** Compares anybody's result for these operands, unpadded, with the reference. */
  compare(result: Float32Array): Check;
}

/** One line of the benchmark. */
export interface Case {
  readonly kernel: string;
  /** Names of the kernels that it may dispatch; the `conv` backends' are those of the chosen one. */
  readonly covers: readonly string[];
  readonly shape: string;
  readonly layer: ConvShape;
  readonly pass: Pass;
  /** Hole share of a partial convolution, 0..1; null for the plain one, and for kernels without a mask. */
  readonly holes: number | null;
  /** Computed by matrix units of half precision. */
  readonly half?: boolean;
  make(gpu: Gpu): Workload;
}

/** The error of some entries, as {@link Check.maxError} defines it. */
export class ErrorMeter {
  private difference = 0;
  private largest = 0;
  private invalid = false;
  checked = 0;

  add(got: number, want: number): void {
    this.checked++;
    const difference = Math.abs(got - want);
    if (Number.isNaN(difference)) this.invalid = true;
    this.difference = Math.max(this.difference, difference);
    this.largest = Math.max(this.largest, Math.abs(want));
  }

  get maxError(): number {
    if (this.invalid || this.checked === 0) return NaN;
    return this.difference === 0 ? 0 : this.difference / this.largest;
  }
}
