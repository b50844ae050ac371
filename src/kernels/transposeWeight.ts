/**
 * Swaps the channel axes of a weight: [kh,kw,C,K] -> [kh,kw,K,C], so that the input gradient reads vec4s over C.
 *
 * Source: ours. Layout: both padded to 4; padding stays zero.
 */
import type { Derivation } from "../gpu/derived.js";
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { range } from "./conv/range.js";
import { type ConvShape, vec4s } from "./shape.js";

/**
 * Neighbouring invocations have so many vec4s side by side in what is written, a line of the caches; then comes the next one of what is read.
 * One by one along k they would write to 4 K lines 16 bytes each, all a power of two apart, and these do not stay in a cache until they are full.
 */
const BESIDE = 4;

export const transposeWeightKernel = defineKernel({
  name: "transposeWeight",
  params: { taps: "u32", c4: "u32", k4: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;              // [taps,C,K]
@group(0) @binding(2) var<storage, read_write> transposed: array<vec4f>;    // [taps,K,C]
${linearMain(
  `p.taps * ((p.c4 + ${BESIDE - 1}u) / ${BESIDE}u) * p.k4 * ${BESIDE}u`,
  `  let over_k = id / ${BESIDE}u;
  let over_c = over_k / p.k4;
  let k = over_k - over_c * p.k4;
  let blocks = (p.c4 + ${BESIDE - 1}u) / ${BESIDE}u;
  let tap = over_c / blocks;
  let c = (over_c - tap * blocks) * ${BESIDE}u + id % ${BESIDE}u;
  if (c >= p.c4) { return; }
  let first = (tap * p.c4 * 4u + c * 4u) * p.k4 + k;
  let block = transpose(mat4x4f(weight[first], weight[first + p.k4], weight[first + 2u * p.k4], weight[first + 3u * p.k4]));
  let to = (tap * p.k4 * 4u + k * 4u) * p.c4 + c;
  ${range(4)
    .map((l) => `transposed[to + ${l}u * p.c4] = block[${l}];`)
    .join(" ")}`,
)}
`,
});

/** Records one transposition. */
export function transposeWeight(gpu: Gpu, s: ConvShape, weight: Storage, transposed: Storage): void {
  const params = { taps: s.kernel[0] * s.kernel[1], c4: vec4s(s.c), k4: vec4s(s.k) };
  const grid = linearGrid(params.taps * Math.ceil(params.c4 / BESIDE) * BESIDE * params.k4);
  gpu.dispatch(transposeWeightKernel, undefined, params, [weight, transposed], grid);
}

/** The transposed weight, for {@link Gpu.derived}. */
export const weightTransposed = (gpu: Gpu, s: ConvShape, weight: Storage): Derivation => ({
  what: `transposed weight ${s.kernel.join("x")} ${s.c}->${s.k}`,
  from: [weight],
  bytes: weight.bytes, // both channel counts are padded: equal sizes
  make: (transposed) => transposeWeight(gpu, s, weight, transposed),
});

/** The same, channels unpadded. */
export function transposeWeightRef(s: ConvShape, weight: ArrayLike<number>): Float64Array {
  const out = new Float64Array(weight.length);
  for (let tap = 0; tap < s.kernel[0] * s.kernel[1]; tap++)
    for (let c = 0; c < s.c; c++)
      for (let k = 0; k < s.k; k++) out[(tap * s.k + k) * s.c + c] = weight[(tap * s.c + c) * s.k + k];
  return out;
}
