/**
 * Multiplies an activation by its mask; where the mask is 0 the result is exactly 0, whatever stands there, NaN included.
 * This makes the invariant that every convolution relies on: holes hold exact zeros. It is its own gradient: dx = dy . M.
 *
 *   y[n,h,w,c] = m > 0 ? x[n,h,w,c] * m : 0     with m = mask[n mod Nm, h, w, group[c]]
 *
 * Source: the X.M of Liu et al. 2018, eq. 1.
 * Layout: x, y [N,H,W,C] padded to 4; mask [Nm,H,W,G] unpadded, Nm = N or 1; group [C padded] maps a channel to its mask group.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { forSlabs } from "./slabs.js";
import { type ActivationShape, vec4s } from "./shape.js";

export const maskMultiplyKernel = defineKernel({
  name: "maskMultiply",
  params: { pixels: "u32", maskPixels: "u32", c4: "u32", groups: "u32" },
  bindings: ["read", "read", "read", "read_write"],
  // A picture with a mask of its own, where an item is a pixel: three divisions are half of the time on a software adapter.
  wgsl: ({ picture }: { readonly picture: boolean }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;            // [N,H,W,C]
@group(0) @binding(2) var<storage, read> mask: array<f32>;           // [Nm,H,W,G]
@group(0) @binding(3) var<storage, read> group_of: array<vec4f>;     // [C], small integers
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;      // [N,H,W,C]
${linearMain(
  "p.pixels * p.c4",
  `${
    picture
      ? "  let m = vec4f(mask[id]);"
      : `  let g = vec4u(group_of[id % p.c4]) + (id / p.c4) % p.maskPixels * p.groups;
  let m = vec4f(mask[g.x], mask[g.y], mask[g.z], mask[g.w]);`
  }
  y[id] = select(vec4f(), x[id] * m, m > vec4f());`,
)}
`,
});

export interface MaskMultiplyBuffers {
  readonly x: Storage;
  readonly mask: Storage;
  readonly groupOf: Storage;
  readonly y: Storage;
}

/** Records y = x . M; `maskN` is the mask's batch (N or 1), `groups` its channels. */
export function maskMultiply(
  gpu: Gpu,
  s: ActivationShape,
  maskN: number,
  groups: number,
  b: MaskMultiplyBuffers,
): void {
  const c4 = vec4s(s.c);
  forSlabs(gpu, s, Math.max(c4 * 16, groups * 4), ({ pixels, part, mask }) => {
    const own = mask(b.mask, maskN, groups);
    const params = { pixels, maskPixels: own.pixels, c4, groups };
    const buffers = [part(b.x, c4 * 16), own.mask, b.groupOf, part(b.y, c4 * 16)];
    const picture = c4 * groups === 1 && own.pixels === pixels;
    gpu.dispatch(maskMultiplyKernel, { picture }, params, buffers, linearGrid(pixels * c4));
  });
}

/** The same in float64, channels unpadded; `groupOf[c]` as above. */
export function maskMultiplyRef(
  s: ActivationShape,
  x: ArrayLike<number>,
  mask: ArrayLike<number>,
  groupOf: ArrayLike<number>,
  maskN: number,
  groups: number,
): Float64Array {
  const pixels = maskN * s.h * s.w;
  return Float64Array.from({ length: x.length }, (_, i) => {
    const m = mask[(Math.floor(i / s.c) % pixels) * groups + groupOf[i % s.c]];
    return m > 0 ? x[i] * m : 0;
  });
}
