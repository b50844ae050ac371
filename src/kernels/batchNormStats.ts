/**
 * Batch statistics of an activation, and the running statistics made from them.
 *
 *   mean[c] = sum(w x) / count,  var[c] = sum(w (x - mean)^2) / count,  count = sum(w)  over n, h, w
 *   running mean += momentum * d,                                        d = mean - running mean
 *   running var  += momentum * (var * count / (count - 1) - running var)     + between * momentum * (1 - momentum) * d^2
 *
 * With `between` 0 the running variance is the mean of the batches' own (PyTorch's); with 1 it is that of all pixels of all batches, by
 * the law of total variance. The former is too small where pictures differ more than the pixels of one: with one picture to
 * a batch, at the bottom of a U-Net, it is next to nothing, and at 1x1 exactly zero.
 *
 * w is 1 everywhere (PyTorch's batch norm, holes count as zeros), or 1 in valid pixels only. Two passes inside each chunk
 * and Chan, Golub & LeVeque's pairwise update between chunks keep float32 exact enough for large images.
 *
 * Source: Ioffe & Szegedy 2015, algorithm 1; torch.nn.BatchNorm2d for the unbiased running variance; Chan et al. 1979.
 * Layout: x [N,H,W,C] padded to 4; mask [Nm,H,W] -> stats [3,C]: mean, 1/sqrt(var + eps), count (the same in all lanes).
 * With count 0 (all hole) mean and var are 0 and the running statistics stay as they were.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { type ActivationShape, vec4s } from "./shape.js";
import { chunkedSlabs } from "./channelSum.js";

export const batchNormChunksKernel = defineKernel({
  name: "batchNormChunks",
  params: {
    pixels: "u32",
    maskPixels: "u32",
    c4: "u32",
    chunks: "u32",
    chunkPixels: "u32",
    firstChunk: "u32",
    all: "u32",
  },
  bindings: ["read", "read", "read_write"],
  wgsl: ({ validOnly }: { readonly validOnly: boolean }) => {
    const counted = validOnly ? "if (mask[i % p.maskPixels] == 0.0) { continue; }" : "";
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;                // [N,H,W,C]
@group(0) @binding(2) var<storage, read> mask: array<f32>;               // [Nm,H,W]
@group(0) @binding(3) var<storage, read_write> partials: array<vec4f>;   // [3,chunks,C]: mean, sum of squares, count
${linearMain(
  "p.chunks * p.c4",
  `  let c = id % p.c4;
  let chunk = id / p.c4;
  let end = min((chunk + 1u) * p.chunkPixels, p.pixels);
  var sum = vec4f();
  var count = 0.0;
  for (var i = chunk * p.chunkPixels; i < end; i++) {
    ${counted}
    sum += x[i * p.c4 + c];
    count += 1.0;
  }
  let mean = sum / max(count, 1.0);
  var squares = vec4f();
  for (var i = chunk * p.chunkPixels; i < end; i++) {
    ${counted}
    let d = x[i * p.c4 + c] - mean;
    squares += d * d;
  }
  let all = p.all * p.c4;
  let at = p.firstChunk * p.c4 + id;
  partials[at] = mean;
  partials[all + at] = squares;
  partials[2u * all + at] = vec4f(count);`,
)}
`;
  },
});

/** Chan's update over chunks: mean, sum of squares and count of all of them, in this order. */
const JOIN_CHUNKS = /* wgsl */ `
  let all = p.chunks * p.c4;
  var mean = vec4f();
  var squares = vec4f();
  var count = 0.0;
  for (var chunk = 0u; chunk < p.chunks; chunk++) {
    let at = chunk * p.c4 + id;
    let n = partials[2u * all + at].x;
    if (n == 0.0) { continue; }
    let delta = partials[at] - mean;
    let both = count + n;
    mean += delta * (n / both);
    squares += partials[all + at] + delta * delta * (count * n / both);
    count = both;
  }`;

export const batchNormStatsKernel = defineKernel({
  name: "batchNormStats",
  params: { c4: "u32", chunks: "u32", eps: "f32", momentum: "f32", between: "f32" },
  bindings: ["read", "read_write", "read_write", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> partials: array<vec4f>;              // [3,chunks,C]
@group(0) @binding(2) var<storage, read_write> stats: array<vec4f>;           // [3,C]
@group(0) @binding(3) var<storage, read_write> running_mean: array<vec4f>;    // [C]
@group(0) @binding(4) var<storage, read_write> running_var: array<vec4f>;     // [C]
${linearMain(
  "p.c4",
  `${JOIN_CHUNKS}
  let variance = squares / max(count, 1.0);
  stats[id] = mean;
  stats[p.c4 + id] = 1.0 / sqrt(variance + p.eps);
  stats[2u * p.c4 + id] = vec4f(count);
  if (count > 0.0) {
    let unbiased = squares / max(count - 1.0, 1.0);
    let d = mean - running_mean[id];
    running_mean[id] += p.momentum * d;
    running_var[id] += p.momentum * (unbiased - running_var[id] + p.between * (1.0 - p.momentum) * d * d);
  }`,
)}
`,
});

/** What one rank's chunks come to, for the ranks together: one chunk. */
export const batchNormJoinKernel = defineKernel({
  name: "batchNormJoin",
  params: { c4: "u32", chunks: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> partials: array<vec4f>;         // [3,chunks,C]
@group(0) @binding(2) var<storage, read_write> joined: array<vec4f>;     // [3,1,C]
${linearMain(
  "p.c4",
  `${JOIN_CHUNKS}
  joined[id] = mean;
  joined[p.c4 + id] = squares;
  joined[2u * p.c4 + id] = vec4f(count);`,
)}
`,
});

/** Of the pixels of all batches, or the mean of the variances within each (PyTorch's). */
export type RunningVariance = "total" | "within";

export interface BatchNormStatsBuffers {
  readonly x: Storage;
  /** Given: statistics over valid pixels only. */
  readonly mask?: Storage | undefined;
  readonly stats: Storage;
  readonly runningMean: Storage;
  readonly runningVar: Storage;
}

/** Processes that each have a part of the batch. What they record is done by all of them, in the same order. */
export interface BatchRanks {
  readonly size: number;
  /** Records that `all` [rows,ranks,E] gets the `own` [rows,E] of every rank, in the order of their numbers. */
  gather(own: Storage, all: Storage, rows: number): void;
  /** Records that `all` gets the sum of every rank's `own`. */
  sum(own: Storage, all: Storage): void;
}

/**
 * Records the statistics of one batch and the update of the running ones; `maskN` is the mask's batch. With `ranks` the batch is that of
 * all of them, and they all get the same bits.
 */
export function batchNormStats(
  gpu: Gpu,
  s: ActivationShape,
  o: {
    readonly eps: number;
    readonly momentum: number;
    readonly maskN: number;
    readonly runningVariance?: RunningVariance;
  },
  b: BatchNormStatsBuffers,
  ranks: BatchRanks | null = null,
): void {
  const between = Number(o.runningVariance === "total");
  const c4 = vec4s(s.c);
  const { all, run } = chunkedSlabs(gpu, s);
  const partials = gpu.alloc(3 * all * c4 * 16, "batchNorm partial statistics");
  run(({ pixels, part, mask }, split) => {
    const counted = b.mask && mask(b.mask, o.maskN);
    const params = { pixels, maskPixels: counted?.pixels ?? 1, c4, ...split, all };
    const x = part(b.x);
    const spec = { validOnly: counted !== undefined };
    gpu.dispatch(batchNormChunksKernel, spec, params, [x, counted?.mask ?? x, partials], linearGrid(split.chunks * c4));
  });
  const finish = (chunked: Storage, chunks: number) => {
    const params = { c4, chunks, eps: o.eps, momentum: o.momentum, between };
    const buffers = [chunked, b.stats, b.runningMean, b.runningVar];
    gpu.dispatch(batchNormStatsKernel, undefined, params, buffers, linearGrid(c4));
  };
  if (ranks) {
    const own = gpu.alloc(3 * c4 * 16, "batchNorm statistics of a rank");
    const joined = gpu.alloc(3 * ranks.size * c4 * 16, "batchNorm statistics of all ranks");
    gpu.dispatch(batchNormJoinKernel, undefined, { c4, chunks: all }, [partials, own], linearGrid(c4));
    ranks.gather(own, joined, 3);
    finish(joined, ranks.size);
    gpu.free(own);
    gpu.free(joined);
  } else finish(partials, all);
  gpu.free(partials);
}

export const batchNormFixedKernel = defineKernel({
  name: "batchNormFixed",
  params: { c4: "u32", eps: "f32" },
  bindings: ["read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> running_mean: array<vec4f>;    // [C]
@group(0) @binding(2) var<storage, read> running_var: array<vec4f>;     // [C]
@group(0) @binding(3) var<storage, read_write> stats: array<vec4f>;     // [3,C]
${linearMain(
  "p.c4",
  `  stats[id] = running_mean[id];
  stats[p.c4 + id] = 1.0 / sqrt(running_var[id] + p.eps);
  stats[2u * p.c4 + id] = vec4f();`,
)}
`,
});

/** Records `stats` made from the running statistics (eval and frozen batch norm); its count is 0 and unused. */
export function batchNormFixed(
  gpu: Gpu,
  s: { readonly c: number; readonly eps: number },
  b: { readonly runningMean: Storage; readonly runningVar: Storage; readonly stats: Storage },
): void {
  const params = { c4: vec4s(s.c), eps: s.eps };
  gpu.dispatch(batchNormFixedKernel, undefined, params, [b.runningMean, b.runningVar, b.stats], linearGrid(params.c4));
}

/** The running statistics after a batch, in float64. */
export function runningStatsRef(
  momentum: number,
  runningVariance: RunningVariance,
  batch: { readonly mean: ArrayLike<number>; readonly variance: ArrayLike<number>; readonly count: number },
  before: { readonly mean: ArrayLike<number>; readonly variance: ArrayLike<number> },
): { readonly mean: Float64Array; readonly variance: Float64Array } {
  const bessel = batch.count / Math.max(batch.count - 1, 1);
  const lerp = (a: number, b: number) => (batch.count > 0 ? (1 - momentum) * a + momentum * b : a);
  const mean = Float64Array.from(before.mean, (m, c) => lerp(m, batch.mean[c]));
  const variance = Float64Array.from(before.variance, (v, c) => {
    const within = lerp(v, batch.variance[c] * bessel);
    if (runningVariance === "within" || batch.count === 0) return within;
    // Of the mixture of what was before and the batch: E[m^2] - E[m]^2 on top of the mean variance.
    return within + lerp(before.mean[c] ** 2, batch.mean[c] ** 2) - mean[c] ** 2;
  });
  return { mean, variance };
}

/** Mean, biased variance and count in float64, channels unpadded. */
export function batchNormStatsRef(s: ActivationShape, x: ArrayLike<number>, mask?: ArrayLike<number>, maskN = 1) {
  const mean = new Float64Array(s.c);
  const variance = new Float64Array(s.c);
  const counted = (i: number) => !mask || mask[Math.floor(i / s.c) % (maskN * s.h * s.w)] !== 0;
  let count = 0;
  for (let i = 0; i < x.length; i++) {
    if (!counted(i)) continue;
    mean[i % s.c] += x[i];
    if (i % s.c === 0) count++;
  }
  for (let c = 0; c < s.c; c++) mean[c] /= Math.max(count, 1);
  for (let i = 0; i < x.length; i++) if (counted(i)) variance[i % s.c] += (x[i] - mean[i % s.c]) ** 2;
  for (let c = 0; c < s.c; c++) variance[c] /= Math.max(count, 1);
  return { mean, variance, count };
}
