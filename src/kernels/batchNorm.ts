/**
 * Batch normalisation, forward and backward, given statistics.
 *
 *   xhat = (x - mean) * invStd,   y = (gamma * xhat + beta) . M        M: the pixel's mask, or 1 when none is given
 *   g = dy . M,   dbeta = sum(g),   dgamma = sum(g xhat)
 *   dx = gamma invStd (g - [w] (dbeta + xhat dgamma) / count)          batch statistics, w the pixels that they count
 *   dx = gamma invStd g                                                fixed statistics (eval, frozen)
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
import { type ActivationShape, vec4s } from "./shape.js";
import { pixelChunks } from "./channelSum.js";
import { sumPartials } from "./sumPartials.js";

interface MaskedSpec {
  /** Outputs in holes are set to zero (and their gradients ignored). */
  readonly masked: boolean;
}

export const batchNormForwardKernel = defineKernel({
  name: "batchNormForward",
  params: { pixels: "u32", maskPixels: "u32", c4: "u32" },
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
  y[id] = (x[id] - stats[c]) * (stats[p.c4 + c] * gamma[c]) + beta[c];`,
)}
`,
});

export const batchNormSumsKernel = defineKernel({
  name: "batchNormSums",
  params: { pixels: "u32", maskPixels: "u32", c4: "u32", chunks: "u32", chunkPixels: "u32" },
  bindings: ["read", "read", "read", "read", "read_write"],
  wgsl: ({ masked }: MaskedSpec) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;                // [N,H,W,C]
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;               // [N,H,W,C]
@group(0) @binding(3) var<storage, read> stats: array<vec4f>;            // [3,C]
@group(0) @binding(4) var<storage, read> mask: array<f32>;               // [Nm,H,W]
@group(0) @binding(5) var<storage, read_write> partials: array<vec4f>;   // [chunks,2,C]: sum g, sum g xhat
${linearMain(
  "p.chunks * p.c4",
  `  let c = id % p.c4;
  let chunk = id / p.c4;
  let end = min((chunk + 1u) * p.chunkPixels, p.pixels);
  let mean = stats[c];
  let inv_std = stats[p.c4 + c];
  var sum = vec4f();
  var dot = vec4f();
  for (var i = chunk * p.chunkPixels; i < end; i++) {
    ${masked ? "if (mask[i % p.maskPixels] == 0.0) { continue; }" : ""}
    let g = dy[i * p.c4 + c];
    sum += g;
    dot += g * (x[i * p.c4 + c] - mean) * inv_std;
  }
  partials[chunk * 2u * p.c4 + c] = sum;
  partials[(chunk * 2u + 1u) * p.c4 + c] = dot;`,
)}
`,
});

/** Which pixels the statistics depend on: all of them, the valid ones, or none (fixed statistics). */
export type BatchNormStatistics = "all" | "valid" | "fixed";

export const batchNormBackwardKernel = defineKernel({
  name: "batchNormBackward",
  params: { pixels: "u32", maskPixels: "u32", c4: "u32" },
  bindings: ["read", "read", "read", "read", "read", "read", "read_write"],
  wgsl: ({ masked, statistics }: MaskedSpec & { readonly statistics: BatchNormStatistics }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [N,H,W,C]
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;         // [N,H,W,C]
@group(0) @binding(3) var<storage, read> stats: array<vec4f>;      // [3,C]
@group(0) @binding(4) var<storage, read> gamma: array<vec4f>;      // [C]
@group(0) @binding(5) var<storage, read> sums: array<vec4f>;       // [2,C]: dbeta, dgamma
@group(0) @binding(6) var<storage, read> mask: array<f32>;         // [Nm,H,W]
@group(0) @binding(7) var<storage, read_write> dx: array<vec4f>;   // [N,H,W,C]
${linearMain(
  "p.pixels * p.c4",
  `  let c = id % p.c4;
  let inv_std = stats[p.c4 + c];
  let valid = ${masked || statistics === "valid" ? "mask[(id / p.c4) % p.maskPixels] != 0.0" : "true"};
  var g = dy[id];
  ${masked ? "if (!valid) { g = vec4f(); }" : ""}
  ${
    statistics === "fixed"
      ? ""
      : `${statistics === "valid" ? "if (valid) " : ""}{
    let xhat = (x[id] - stats[c]) * inv_std;
    g -= (sums[c] + xhat * sums[p.c4 + c]) / max(stats[2u * p.c4 + c], vec4f(1.0));
  }`
  }
  dx[id] = gamma[c] * inv_std * g;`,
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

/** Records y; with a mask (batch `maskN`) outputs in holes are exactly 0. */
export function batchNormForward(gpu: Gpu, s: ActivationShape, maskN: number, b: BatchNormForwardBuffers): void {
  const params = { pixels: s.n * s.h * s.w, maskPixels: maskN * s.h * s.w, c4: vec4s(s.c) };
  const buffers = [b.x, b.stats, b.gamma, b.beta, b.mask ?? b.x, b.y];
  const grid = linearGrid(params.pixels * params.c4);
  gpu.dispatch(batchNormForwardKernel, { masked: b.mask !== undefined }, params, buffers, grid);
}

export interface BatchNormBackwardBuffers {
  readonly x: Storage;
  readonly dy: Storage;
  readonly stats: Storage;
  readonly gamma: Storage;
  /** The pixels that the statistics count (`valid`) and, if `masked`, those whose outputs were kept. */
  readonly mask?: Storage | undefined;
  /** [2,C]: dbeta, then dgamma. */
  readonly sums: Storage;
  readonly dx: Storage;
}

/** Records dx and `sums` = (dbeta, dgamma). */
export function batchNormBackward(
  gpu: Gpu,
  s: ActivationShape,
  o: { readonly statistics: BatchNormStatistics; readonly masked: boolean; readonly maskN: number },
  b: BatchNormBackwardBuffers,
): void {
  const pixels = s.n * s.h * s.w;
  const c4 = vec4s(s.c);
  const split = pixelChunks(pixels);
  const mask = b.mask ?? b.x;
  const params = { pixels, maskPixels: o.maskN * s.h * s.w, c4 };
  const partials = gpu.alloc(2 * split.chunks * c4 * 16, "batchNorm partial sums");
  const { masked, statistics } = o;
  gpu.dispatch(
    batchNormSumsKernel,
    { masked },
    { ...params, ...split },
    [b.x, b.dy, b.stats, mask, partials],
    linearGrid(split.chunks * c4),
  );
  sumPartials(gpu, { partials, sum: b.sums, chunks: split.chunks, vec4s: 2 * c4 });
  gpu.free(partials);
  const buffers = [b.x, b.dy, b.stats, b.gamma, b.sums, mask, b.dx];
  gpu.dispatch(batchNormBackwardKernel, { masked, statistics }, params, buffers, linearGrid(pixels * c4));
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
}

/** Forward in float64, channels unpadded; with a mask, holes are 0. */
export function batchNormForwardRef(s: ActivationShape, o: BatchNormRefInput): Float64Array {
  const maskPixels = (o.maskN ?? 1) * s.h * s.w;
  return Float64Array.from({ length: o.x.length }, (_, i) => {
    const c = i % s.c;
    if (o.mask && o.mask[Math.floor(i / s.c) % maskPixels] === 0) return 0;
    return ((o.x[i] - o.mean[c]) / Math.sqrt(o.variance[c] + o.eps)) * o.gamma[c] + o.beta[c];
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
  },
) {
  const maskPixels = (o.maskN ?? 1) * s.h * s.w;
  const valid = (i: number) => !o.mask || o.mask[Math.floor(i / s.c) % maskPixels] !== 0;
  const invStd = Float64Array.from(o.variance, (v) => 1 / Math.sqrt(v + o.eps));
  const dbeta = new Float64Array(s.c);
  const dgamma = new Float64Array(s.c);
  for (let i = 0; i < o.x.length; i++) {
    if (o.masked && !valid(i)) continue;
    const c = i % s.c;
    dbeta[c] += o.dy[i];
    dgamma[c] += o.dy[i] * (o.x[i] - o.mean[c]) * invStd[c];
  }
  const dx = Float64Array.from({ length: o.x.length }, (_, i) => {
    const c = i % s.c;
    let g = o.masked && !valid(i) ? 0 : o.dy[i];
    if (o.statistics === "all" || (o.statistics === "valid" && valid(i))) {
      g -= (dbeta[c] + (o.x[i] - o.mean[c]) * invStd[c] * dgamma[c]) / Math.max(o.count, 1);
    }
    return o.gamma[c] * invStd[c] * g;
  });
  return { dx, dgamma, dbeta };
}
