/**
 * The decoder's mask: the lower level's mask upsampled by two (nearest) beside the skip link's, as separate mask groups.
 *
 *   m[n,h,w,:] = [a[n mod Na, h/2, w/2, :], b[n mod Nb, h, w, :]]      (order as given by `lowFirst`)
 *
 * Source: Liu et al. 2018, sec. 3.2: masks are upsampled and concatenated like the features they belong to.
 * Layout: a [Na,H/2,W/2,Ga], b [Nb,H,W,Gb] -> m [N,H,W,Ga+Gb], unpadded floats.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";

export const maskJoinKernel = defineKernel({
  name: "maskJoin",
  params: {
    n: "u32",
    h: "u32",
    w: "u32",
    lowN: "u32",
    lowGroups: "u32",
    skipN: "u32",
    skipGroups: "u32",
    lowFirst: "u32",
  },
  bindings: ["read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> low: array<f32>;              // [Na,H/2,W/2,Ga]
@group(0) @binding(2) var<storage, read> skip: array<f32>;             // [Nb,H,W,Gb]
@group(0) @binding(3) var<storage, read_write> joined: array<f32>;     // [N,H,W,Ga+Gb]
${linearMain(
  "p.n * p.h * p.w",
  `  let col = id % p.w;
  let row = id / p.w % p.h;
  let n = id / (p.w * p.h);
  let low_at = (((n % p.lowN) * (p.h / 2u) + row / 2u) * (p.w / 2u) + col / 2u) * p.lowGroups;
  let skip_at = (((n % p.skipN) * p.h + row) * p.w + col) * p.skipGroups;
  let to = id * (p.lowGroups + p.skipGroups);
  let low_to = to + select(p.skipGroups, 0u, p.lowFirst != 0u);
  let skip_to = to + select(0u, p.lowGroups, p.lowFirst != 0u);
  for (var g = 0u; g < p.lowGroups; g++) { joined[low_to + g] = low[low_at + g]; }
  for (var g = 0u; g < p.skipGroups; g++) { joined[skip_to + g] = skip[skip_at + g]; }`,
)}
`,
});

export interface MaskJoinShape {
  readonly n: number;
  /** Size of the result and of the skip mask; the lower mask has half of it. */
  readonly h: number;
  readonly w: number;
  readonly lowN: number;
  readonly lowGroups: number;
  readonly skipN: number;
  readonly skipGroups: number;
  readonly lowFirst: boolean;
}

/** Records the joined mask. */
export function maskJoin(
  gpu: Gpu,
  s: MaskJoinShape,
  b: { readonly low: Storage; readonly skip: Storage; readonly joined: Storage },
): void {
  const params = { ...s, lowFirst: Number(s.lowFirst) };
  gpu.dispatch(maskJoinKernel, undefined, params, [b.low, b.skip, b.joined], linearGrid(s.n * s.h * s.w));
}

/** The same in float64. */
export function maskJoinRef(s: MaskJoinShape, low: ArrayLike<number>, skip: ArrayLike<number>): Float64Array {
  const groups = s.lowGroups + s.skipGroups;
  const joined = new Float64Array(s.n * s.h * s.w * groups);
  for (let i = 0; i < joined.length; i++) {
    const g = i % groups;
    const col = Math.floor(i / groups) % s.w;
    const row = Math.floor(i / (groups * s.w)) % s.h;
    const n = Math.floor(i / (groups * s.w * s.h));
    const first = s.lowFirst ? s.lowGroups : s.skipGroups;
    const isLow = g < first === s.lowFirst;
    const own = g < first ? g : g - first;
    joined[i] = isLow
      ? low[(((n % s.lowN) * (s.h / 2) + (row >> 1)) * (s.w / 2) + (col >> 1)) * s.lowGroups + own]
      : skip[(((n % s.skipN) * s.h + row) * s.w + col) * s.skipGroups + own];
  }
  return joined;
}
