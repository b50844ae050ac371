/**
 * Sums an activation over its pixels: sum[c] = sum_{n,h,w} weight[n mod Nm, h, w] * x[n,h,w,c]. The bias gradient.
 *
 * Rows of pixels are split into chunks, each summed by one invocation per vec4 of channels, then added in a fixed order.
 *
 * Source: derivative of Liu et al. 2018, eq. 1, in b; `weight` is the layer's biasScale, absent means 1.
 * Layout: x [N,H,W,C] padded to 4, weight [Nm,H,W] -> sum [C].
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { forSlabs, type SlabView } from "./slabs.js";
import { type ActivationShape, vec4s } from "./shape.js";
import { sumPartials } from "./sumPartials.js";

/** Pixels of one chunk: enough work per invocation, short float32 sums; at most {@link MAX_CHUNKS} chunks are made. */
const MIN_CHUNK = 64;
const MAX_CHUNKS = 256;

/** How `pixels` are split for a per-channel reduction. */
export function pixelChunks(pixels: number): { chunks: number; chunkPixels: number } {
  const chunkPixels = Math.max(MIN_CHUNK, Math.ceil(pixels / MAX_CHUNKS));
  return { chunks: Math.ceil(pixels / chunkPixels), chunkPixels };
}

/** The chunks of a slab of a tensor, and how many of them the slabs before it have. */
export interface SlabChunks {
  readonly chunks: number;
  readonly chunkPixels: number;
  readonly firstChunk: number;
}

/** Cuts a tensor into slabs that can be bound, and those into chunks; partial sums of `all` chunks follow each other. */
export function chunkedSlabs(
  gpu: Gpu,
  s: ActivationShape,
): { readonly all: number; run: (launch: (slab: SlabView, chunks: SlabChunks) => void) => void } {
  const { chunkPixels } = pixelChunks(s.n * s.h * s.w);
  const list: [SlabView, SlabChunks][] = [];
  let all = 0;
  forSlabs(gpu, s, vec4s(s.c) * 16, (slab) => {
    const chunks = Math.ceil(slab.pixels / chunkPixels);
    list.push([slab, { chunks, chunkPixels, firstChunk: all }]);
    all += chunks;
  });
  return { all, run: (launch) => list.forEach(([slab, chunks]) => launch(slab, chunks)) };
}

export const channelSumKernel = defineKernel({
  name: "channelSum",
  params: { pixels: "u32", weightPixels: "u32", c4: "u32", chunks: "u32", chunkPixels: "u32", firstChunk: "u32" },
  bindings: ["read", "read", "read_write"],
  wgsl: ({ weighted }: { readonly weighted: boolean }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;                 // [N,H,W,C]
@group(0) @binding(2) var<storage, read> weight: array<f32>;              // [Nm,H,W]
@group(0) @binding(3) var<storage, read_write> partials: array<vec4f>;    // [chunks,C]
${linearMain(
  "p.chunks * p.c4",
  `  let c = id % p.c4;
  let chunk = id / p.c4;
  let end = min((chunk + 1u) * p.chunkPixels, p.pixels);
  var sum = vec4f();
  for (var i = chunk * p.chunkPixels; i < end; i++) {
    ${weighted ? "let m = weight[i % p.weightPixels]; if (m != 0.0) { sum += m * x[i * p.c4 + c]; }" : "sum += x[i * p.c4 + c];"}
  }
  partials[p.firstChunk * p.c4 + id] = sum;`,
)}
`,
});

/** Records the sum; `weight` with its batch `weightN`, or none. */
export function channelSum(
  gpu: Gpu,
  s: ActivationShape,
  b: { readonly x: Storage; readonly weight?: Storage | undefined; readonly sum: Storage },
  weightN = 1,
): void {
  const c4 = vec4s(s.c);
  const { all, run } = chunkedSlabs(gpu, s);
  const partials = gpu.alloc(all * c4 * 16, "channelSum partial sums");
  run(({ pixels, part, mask }, split) => {
    const weight = b.weight && mask(b.weight, weightN);
    const params = { pixels, weightPixels: weight?.pixels ?? 1, c4, ...split };
    const spec = { weighted: weight !== undefined };
    const x = part(b.x);
    gpu.dispatch(channelSumKernel, spec, params, [x, weight?.mask ?? x, partials], linearGrid(split.chunks * c4));
  });
  sumPartials(gpu, { partials, sum: b.sum, chunks: all, vec4s: c4 });
  gpu.free(partials);
}

/** The same in float64, channels unpadded. */
export function channelSumRef(
  s: ActivationShape,
  x: ArrayLike<number>,
  weight?: ArrayLike<number>,
  weightN = 1,
): Float64Array {
  const sum = new Float64Array(s.c);
  for (let i = 0; i < x.length; i++) {
    const m = weight ? weight[Math.floor(i / s.c) % (weightN * s.h * s.w)] : 1;
    if (m !== 0) sum[i % s.c] += m * x[i];
  }
  return sum;
}
