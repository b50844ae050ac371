/**
 * Batch normalisation and the activation after it, forward and backward, given statistics.
 *
 *   xhat = (x - mean) * invStd,   v = gamma * xhat + beta,   y = f(v) . M      M: the pixel is no hole, or 1 without a mask
 *   g = f'(v) dy . M,   dbeta = sum(g),   dgamma = sum(g xhat)
 *   dx = gamma invStd (g - [w] (dbeta + xhat dgamma) / count)          batch statistics, w the pixels that they count
 *   dx = gamma invStd g                                                fixed statistics (eval, frozen)
 *
 * f(v) = max(v, 0) + slope min(v, 0): 0 is ReLU, 1 the identity, and f'(0) = slope. `scaled` multiplies dx by the mask's values:
 * with a partial convolution's ratio for a mask that is the gradient of its bare sums. One pass over memory each way for
 * what would be three ops: on real adapters nothing but their bytes counts.
 *
 * The mask keeps the invariant that holes hold exact zeros (beta would fill them); the references leave beta there and
 * multiply by the mask in the next layer, which is the same network.
 *
 * Source: Ioffe & Szegedy 2015; the masked form is ours.
 * Layout: x, y, dy, dx [N,H,W,C] padded to 4; stats [3,C] from batchNormStats (mean, invStd, count); gamma, beta [C]; mask [Nm,H,W].
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import type { BatchRanks } from "./batchNormStats.js";
import { forSlabs, type SlabView } from "./slabs.js";
import { type ActivationShape, vec4s } from "./shape.js";
import { chunkedSlabs } from "./channelSum.js";
import { sumPartials } from "./sumPartials.js";

interface MaskedSpec {
  /** Outputs in holes are set to zero (and their gradients ignored). */
  readonly masked: boolean;
}

export const batchNormForwardKernel = defineKernel({
  name: "batchNormForward",
  params: { pixels: "u32", maskPixels: "u32", c4: "u32", slope: "f32" },
  bindings: ["read", "read", "read", "read", "read", "read_write"],
  wgsl: ({ masked }: MaskedSpec) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [N,H,W,C]
@group(0) @binding(2) var<storage, read> stats: array<vec4f>;      // [3,C]
@group(0) @binding(3) var<storage, read> gamma: array<vec4f>;      // [C]
@group(0) @binding(4) var<storage, read> beta: array<vec4f>;       // [C]
@group(0) @binding(5) var<storage, read> mask: array<f32>;         // [Nm,H,W]
@group(0) @binding(6) var<storage, read_write> y: array<vec4f>;    // [N,H,W,C]
${linearMain(
  "p.pixels * p.c4",
  `  let c = id % p.c4;
  ${masked ? "if (mask[(id / p.c4) % p.maskPixels] == 0.0) { y[id] = vec4f(); return; }" : ""}
  let v = (x[id] - stats[c]) * (stats[p.c4 + c] * gamma[c]) + beta[c];
  // Exact for both signs, and NaN stays NaN on every adapter (max and select turn it into 0 on some).
  let positive = 0.5 * (v + abs(v));
  y[id] = positive + p.slope * (v - positive);`,
)}
`,
});

export const batchNormSumsKernel = defineKernel({
  name: "batchNormSums",
  params: {
    pixels: "u32",
    maskPixels: "u32",
    c4: "u32",
    chunks: "u32",
    chunkPixels: "u32",
    firstChunk: "u32",
    slope: "f32",
  },
  bindings: ["read", "read", "read", "read", "read", "read", "read_write"],
  wgsl: ({ masked }: MaskedSpec) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;                // [N,H,W,C]
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;               // [N,H,W,C]
@group(0) @binding(3) var<storage, read> stats: array<vec4f>;            // [3,C]
@group(0) @binding(4) var<storage, read> gamma: array<vec4f>;            // [C]
@group(0) @binding(5) var<storage, read> beta: array<vec4f>;             // [C]
@group(0) @binding(6) var<storage, read> mask: array<f32>;               // [Nm,H,W]
@group(0) @binding(7) var<storage, read_write> partials: array<vec4f>;   // [chunks,2,C]: sum g, sum g xhat
${linearMain(
  "p.chunks * p.c4",
  `  let c = id % p.c4;
  let chunk = id / p.c4;
  let end = min((chunk + 1u) * p.chunkPixels, p.pixels);
  let mean = stats[c];
  let inv_std = stats[p.c4 + c];
  let factor = inv_std * gamma[c];
  var sum = vec4f();
  var dot = vec4f();
  for (var i = chunk * p.chunkPixels; i < end; i++) {
    ${masked ? "if (mask[i % p.maskPixels] == 0.0) { continue; }" : ""}
    let centred = x[i * p.c4 + c] - mean;
    let g = dy[i * p.c4 + c] * select(vec4f(p.slope), vec4f(1.0), centred * factor + beta[c] > vec4f());
    sum += g;
    dot += g * centred * inv_std;
  }
  let to = (p.firstChunk + chunk) * 2u * p.c4 + c;
  partials[to] = sum;
  partials[to + p.c4] = dot;`,
)}
`,
});

/** Which pixels the statistics depend on: all of them, the valid ones, or none (fixed statistics). */
export type BatchNormStatistics = "all" | "valid" | "fixed";

interface BackwardSpec extends MaskedSpec {
  readonly statistics: BatchNormStatistics;
  /** dx is multiplied by the mask's values. */
  readonly scaled: boolean;
}

export const batchNormBackwardKernel = defineKernel({
  name: "batchNormBackward",
  params: { pixels: "u32", maskPixels: "u32", c4: "u32", slope: "f32" },
  bindings: ["read", "read", "read", "read", "read", "read", "read", "read_write"],
  wgsl: ({ masked, statistics, scaled }: BackwardSpec) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [N,H,W,C]
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;         // [N,H,W,C]
@group(0) @binding(3) var<storage, read> stats: array<vec4f>;      // [3,C]
@group(0) @binding(4) var<storage, read> gamma: array<vec4f>;      // [C]
@group(0) @binding(5) var<storage, read> beta: array<vec4f>;       // [C]
@group(0) @binding(6) var<storage, read> sums: array<vec4f>;       // [2,C]: dbeta, dgamma
@group(0) @binding(7) var<storage, read> mask: array<f32>;         // [Nm,H,W]
@group(0) @binding(8) var<storage, read_write> dx: array<vec4f>;   // [N,H,W,C]
${linearMain(
  "p.pixels * p.c4",
  `  let c = id % p.c4;
  let inv_std = stats[p.c4 + c];
  let valid = ${masked || statistics === "valid" ? "mask[(id / p.c4) % p.maskPixels] != 0.0" : "true"};
  let centred = x[id] - stats[c];
  var g = dy[id] * select(vec4f(p.slope), vec4f(1.0), centred * (inv_std * gamma[c]) + beta[c] > vec4f());
  ${masked ? "if (!valid) { g = vec4f(); }" : ""}
  ${
    statistics === "fixed"
      ? ""
      : `${statistics === "valid" ? "if (valid) " : ""}{
    g -= (sums[c] + centred * inv_std * sums[p.c4 + c]) / max(stats[2u * p.c4 + c], vec4f(1.0));
  }`
  }
  dx[id] = gamma[c] * inv_std * g${scaled ? " * mask[(id / p.c4) % p.maskPixels]" : ""};`,
)}
`,
});

export interface BatchNormForwardBuffers {
  readonly x: Storage;
  readonly stats: Storage;
  readonly gamma: Storage;
  readonly beta: Storage;
  readonly mask?: Storage | undefined;
  readonly y: Storage;
}

/** Records y; with a mask (batch `maskN`) outputs in holes are exactly 0. `slope` is the activation's, 1 for none. */
export function batchNormForward(
  gpu: Gpu,
  s: ActivationShape,
  maskN: number,
  b: BatchNormForwardBuffers,
  slope = 1,
): void {
  const c4 = vec4s(s.c);
  forSlabs(gpu, s, c4 * 16, ({ pixels, part, mask }) => {
    const kept = b.mask && mask(b.mask, maskN);
    const params = { pixels, maskPixels: kept?.pixels ?? 1, c4, slope };
    const x = part(b.x);
    const buffers = [x, b.stats, b.gamma, b.beta, kept?.mask ?? x, part(b.y)];
    gpu.dispatch(batchNormForwardKernel, { masked: kept !== undefined }, params, buffers, linearGrid(pixels * c4));
  });
}

export interface BatchNormBackwardBuffers {
  readonly x: Storage;
  readonly dy: Storage;
  readonly stats: Storage;
  readonly gamma: Storage;
  readonly beta: Storage;
  /** The pixels that the statistics count (`valid`) and, if `masked`, those whose outputs were kept. */
  readonly mask?: Storage | undefined;
  /** [2,C]: dbeta, then dgamma. */
  readonly sums: Storage;
  readonly dx: Storage;
}

/**
 * Records dx and `sums` = (dbeta, dgamma). With `ranks` the batch whose statistics were taken is that of all of them: dx follows from
 * the sums of all, while `sums` are the rank's own, as gradients are averaged later.
 */
export function batchNormBackward(
  gpu: Gpu,
  s: ActivationShape,
  o: {
    readonly statistics: BatchNormStatistics;
    readonly masked: boolean;
    readonly maskN: number;
    /** Of the activation; 1, the default, is none. */
    readonly slope?: number;
    readonly scaled?: boolean;
  },
  b: BatchNormBackwardBuffers,
  ranks: BatchRanks | null = null,
): void {
  const c4 = vec4s(s.c);
  const { masked, statistics, slope = 1, scaled = false } = o;
  const { all, run } = chunkedSlabs(gpu, s);
  const partials = gpu.alloc(2 * all * c4 * 16, "batchNorm partial sums");
  /** Sizes and parts that both kernels take of one slab. */
  const slabOf = ({ pixels, part, mask }: SlabView) => {
    const own = b.mask && mask(b.mask, o.maskN);
    const x = part(b.x);
    return { x, dy: part(b.dy), mask: own?.mask ?? x, params: { pixels, maskPixels: own?.pixels ?? 1, c4, slope } };
  };
  run((slab, split) => {
    const { x, dy, mask, params } = slabOf(slab);
    const buffers = [x, dy, b.stats, b.gamma, b.beta, mask, partials];
    gpu.dispatch(batchNormSumsKernel, { masked }, { ...params, ...split }, buffers, linearGrid(split.chunks * c4));
  });
  sumPartials(gpu, { partials, sum: b.sums, chunks: all, vec4s: 2 * c4 });
  gpu.free(partials);
  const joined = ranks && statistics !== "fixed" ? gpu.alloc(2 * c4 * 16, "batchNorm sums of all ranks") : null;
  if (joined) ranks?.sum(b.sums, joined);
  forSlabs(gpu, s, c4 * 16, (slab) => {
    const { x, dy, mask, params } = slabOf(slab);
    const buffers = [x, dy, b.stats, b.gamma, b.beta, joined ?? b.sums, mask, slab.part(b.dx)];
    const spec = { masked, statistics, scaled };
    gpu.dispatch(batchNormBackwardKernel, spec, params, buffers, linearGrid(slab.pixels * c4));
  });
  if (joined) gpu.free(joined);
}

export interface BatchNormRefInput {
  readonly x: ArrayLike<number>;
  readonly mean: ArrayLike<number>;
  readonly variance: ArrayLike<number>;
  readonly eps: number;
  readonly gamma: ArrayLike<number>;
  readonly beta: ArrayLike<number>;
  readonly mask?: ArrayLike<number> | undefined;
  readonly maskN?: number;
  /** Of the activation; 1, the default, is none. */
  readonly slope?: number;
}

/** Forward in float64, channels unpadded; with a mask, holes are 0. */
export function batchNormForwardRef(s: ActivationShape, o: BatchNormRefInput): Float64Array {
  const maskPixels = (o.maskN ?? 1) * s.h * s.w;
  return Float64Array.from({ length: o.x.length }, (_, i) => {
    const c = i % s.c;
    if (o.mask && o.mask[Math.floor(i / s.c) % maskPixels] === 0) return 0;
    const v = ((o.x[i] - o.mean[c]) / Math.sqrt(o.variance[c] + o.eps)) * o.gamma[c] + o.beta[c];
    return v > 0 ? v : v * (o.slope ?? 1);
  });
}

/** Backward in float64, channels unpadded. `masked` as in the kernel; `mask` also says what `valid` statistics count. */
export function batchNormBackwardRef(
  s: ActivationShape,
  o: BatchNormRefInput & {
    readonly dy: ArrayLike<number>;
    readonly statistics: BatchNormStatistics;
    readonly masked: boolean;
    readonly count: number;
    /** dx is multiplied by the mask's values. */
    readonly scaled?: boolean;
  },
) {
  const maskPixels = (o.maskN ?? 1) * s.h * s.w;
  const valid = (i: number) => !o.mask || o.mask[Math.floor(i / s.c) % maskPixels] !== 0;
  const invStd = Float64Array.from(o.variance, (v) => 1 / Math.sqrt(v + o.eps));
  const slopeAt = (i: number) => {
    const c = i % s.c;
    return (o.x[i] - o.mean[c]) * invStd[c] * o.gamma[c] + o.beta[c] > 0 ? 1 : (o.slope ?? 1);
  };
  const dbeta = new Float64Array(s.c);
  const dgamma = new Float64Array(s.c);
  for (let i = 0; i < o.x.length; i++) {
    if (o.masked && !valid(i)) continue;
    const c = i % s.c;
    dbeta[c] += slopeAt(i) * o.dy[i];
    dgamma[c] += slopeAt(i) * o.dy[i] * (o.x[i] - o.mean[c]) * invStd[c];
  }
  const dx = Float64Array.from({ length: o.x.length }, (_, i) => {
    const c = i % s.c;
    let g = o.masked && !valid(i) ? 0 : slopeAt(i) * o.dy[i];
    if (o.statistics === "all" || (o.statistics === "valid" && valid(i))) {
      g -= (dbeta[c] + (o.x[i] - o.mean[c]) * invStd[c] * dgamma[c]) / Math.max(o.count, 1);
    }
    const factor = o.scaled && o.mask ? o.mask[Math.floor(i / s.c) % maskPixels] : 1;
    return o.gamma[c] * invStd[c] * g * factor;
  });
  return { dx, dgamma, dbeta };
}
