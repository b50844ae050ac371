/**
 * Batch norm with fixed statistics as what a convolution's epilogue multiplies by and adds, so that inference needs no pass of its own
 * for it:
 *
 *   gamma (scale sums + b - mean) invStd + beta = scale gain sums + bias      gain = gamma invStd,  bias = beta + gain (b - mean)
 *
 * in the valid pixels of a partial convolution; in holes scale and the bias's own scale are 0, and so is the result.
 *
 * Source: ours (the folding of batch norm into the weights, as everybody does it, with the ratio between them).
 * Layout: running mean and variance, gamma, beta, b [C] -> folded [2,C]: bias, gain; padded to 4, padding 0.
 */
import type { Derivation } from "../gpu/derived.js";
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { vec4s } from "./shape.js";

interface FoldSpec {
  /** The convolution has a bias. */
  readonly biased: boolean;
}

export const batchNormFoldKernel = defineKernel({
  name: "batchNormFold",
  params: { c4: "u32", eps: "f32" },
  bindings: ["read", "read", "read", "read", "read", "read_write"],
  wgsl: ({ biased }: FoldSpec) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> running_mean: array<vec4f>;    // [C]
@group(0) @binding(2) var<storage, read> running_var: array<vec4f>;     // [C]
@group(0) @binding(3) var<storage, read> gamma: array<vec4f>;           // [C]
@group(0) @binding(4) var<storage, read> beta: array<vec4f>;            // [C]
@group(0) @binding(5) var<storage, read> bias: array<vec4f>;            // [C]
@group(0) @binding(6) var<storage, read_write> folded: array<vec4f>;    // [2,C]
${linearMain(
  "p.c4",
  `  let gain = gamma[id] / sqrt(running_var[id] + p.eps);
  folded[id] = fma(gain, ${biased ? "bias[id]" : "vec4f()"} - running_mean[id], beta[id]);
  folded[p.c4 + id] = gain;`,
)}
`,
});

/** What {@link batchNormFold} reads and writes. */
export interface BatchNormFoldBuffers {
  readonly runningMean: Storage;
  readonly runningVar: Storage;
  readonly gamma: Storage;
  readonly beta: Storage;
  /** The convolution's, where it has one. */
  readonly bias?: Storage | undefined;
  readonly folded: Storage;
}

/** Records the folding of `c` channels. */
export function batchNormFold(
  gpu: Gpu,
  { c, eps }: { readonly c: number; readonly eps: number },
  b: BatchNormFoldBuffers,
): void {
  const buffers = [b.runningMean, b.runningVar, b.gamma, b.beta, b.bias ?? b.beta, b.folded];
  const params = { c4: vec4s(c), eps };
  gpu.dispatch(batchNormFoldKernel, { biased: b.bias !== undefined }, params, buffers, linearGrid(params.c4));
}

/** Bias and gain of `c` channels, for {@link Gpu.derived}. */
export const batchNormFolded = (
  gpu: Gpu,
  s: { readonly c: number; readonly eps: number },
  b: Omit<BatchNormFoldBuffers, "folded">,
): Derivation => ({
  what: `folded batch norm ${s.c} ${s.eps} ${b.bias !== undefined}`,
  from: [b.runningMean, b.runningVar, b.gamma, b.beta, ...(b.bias ? [b.bias] : [])],
  bytes: 2 * vec4s(s.c) * 16,
  make: (folded) => batchNormFold(gpu, s, { ...b, folded }),
});

/** Bias and gain in float64, channels unpadded. */
export function batchNormFoldRef(
  eps: number,
  o: Readonly<Record<"mean" | "variance" | "gamma" | "beta", ArrayLike<number>>> & {
    readonly bias?: ArrayLike<number> | undefined;
  },
): { readonly bias: Float64Array; readonly gain: Float64Array } {
  const gain = Float64Array.from(o.gamma, (g, c) => g / Math.sqrt(o.variance[c] + eps));
  const bias = gain.map((g, c) => o.beta[c] + g * ((o.bias?.[c] ?? 0) - o.mean[c]));
  return { bias, gain };
}
