/**
 * Multiplies every pixel of a gradient by one number: y[n,h,w,c] = scale[n mod Nm, h, w] * x[n,h,w,c], exactly 0 where the
 * scale is 0. Turns dy of a partial convolution into the dy of the plain convolution inside it.
 *
 * Source: derivative of Liu et al. 2018, eq. 1, in W * (x.M).
 * Layout: x, y [N,H,W,C] padded to 4; scale [Nm,H,W], Nm = N or 1.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { type ActivationShape, vec4s } from "./shape.js";

export const pixelScaleKernel = defineKernel({
  name: "pixelScale",
  params: { pixels: "u32", scalePixels: "u32", c4: "u32" },
  bindings: ["read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;         // [N,H,W,C]
@group(0) @binding(2) var<storage, read> scale: array<f32>;       // [Nm,H,W]
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;   // [N,H,W,C]
${linearMain(
  "p.pixels * p.c4",
  `  let s = scale[(id / p.c4) % p.scalePixels];
  y[id] = select(vec4f(), x[id] * s, s != 0.0);`,
)}
`,
});

/** Records y = scale * x; `scaleN` is the batch of `scale` (N or 1). */
export function pixelScale(
  gpu: Gpu,
  s: ActivationShape,
  scaleN: number,
  b: { readonly x: Storage; readonly scale: Storage; readonly y: Storage },
): void {
  const params = { pixels: s.n * s.h * s.w, scalePixels: scaleN * s.h * s.w, c4: vec4s(s.c) };
  gpu.dispatch(pixelScaleKernel, undefined, params, [b.x, b.scale, b.y], linearGrid(params.pixels * params.c4));
}

/** The same in float64, channels unpadded. */
export function pixelScaleRef(
  s: ActivationShape,
  x: ArrayLike<number>,
  scale: ArrayLike<number>,
  scaleN: number,
): Float64Array {
  return Float64Array.from({ length: x.length }, (_, i) => {
    const f = scale[Math.floor(i / s.c) % (scaleN * s.h * s.w)];
    return f === 0 ? 0 : x[i] * f;
  });
}
