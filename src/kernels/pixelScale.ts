/**
 * Gradient of a partial convolution's bare sums: g[n,h,w,c] = scale[n mod Nm, h, w] * f'(v) * dy[n,h,w,c], exactly 0 where the
 * scale is 0. f is the activation that was fused into the layer, if any: f(v) = max(v, 0) + slope min(v, 0), whose derivative
 * follows from the sign of y = f(v).
 *
 * Source: derivative of Liu et al. 2018, eq. 1, in W * (x.M).
 * Layout: dy, y, g [N,H,W,C] padded to 4; scale [Nm,H,W], Nm = N or 1.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { forSlabs } from "./slabs.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { type ActivationShape, vec4s } from "./shape.js";

export const pixelScaleKernel = defineKernel({
  name: "pixelScale",
  params: { pixels: "u32", scalePixels: "u32", c4: "u32", slope: "f32" },
  bindings: ["read", "read", "read", "read_write"],
  wgsl: ({ activated }: { readonly activated: boolean }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;        // [N,H,W,C]
@group(0) @binding(2) var<storage, read> scale: array<f32>;       // [Nm,H,W]
@group(0) @binding(3) var<storage, read> y: array<vec4f>;         // [N,H,W,C]
@group(0) @binding(4) var<storage, read_write> g: array<vec4f>;   // [N,H,W,C]
${linearMain(
  "p.pixels * p.c4",
  `  let s = scale[(id / p.c4) % p.scalePixels];
  if (s == 0.0) { g[id] = vec4f(); return; }
  g[id] = dy[id] * s${activated ? " * select(vec4f(p.slope), vec4f(1.0), y[id] > vec4f())" : ""};`,
)}
`,
});

export interface PixelScaleBuffers {
  readonly dy: Storage;
  readonly scale: Storage;
  /** What the layer gave, where an activation is part of it. */
  readonly activated?: { readonly y: Storage; readonly slope: number } | undefined;
  readonly g: Storage;
}

/** Records g; `scaleN` is the batch of `scale` (N or 1). */
export function pixelScale(gpu: Gpu, s: ActivationShape, scaleN: number, b: PixelScaleBuffers): void {
  const c4 = vec4s(s.c);
  const { y = b.dy, slope = 1 } = b.activated ?? {};
  forSlabs(gpu, s, c4 * 16, ({ pixels, part, mask }) => {
    const scale = mask(b.scale, scaleN);
    gpu.dispatch(
      pixelScaleKernel,
      { activated: b.activated !== undefined },
      { pixels, scalePixels: scale.pixels, c4, slope },
      [part(b.dy), scale.mask, part(y), part(b.g)],
      linearGrid(pixels * c4),
    );
  });
}

/** The same in float64, channels unpadded. */
export function pixelScaleRef(
  s: ActivationShape,
  dy: ArrayLike<number>,
  scale: ArrayLike<number>,
  scaleN: number,
  activated?: { readonly y: ArrayLike<number>; readonly slope: number },
): Float64Array {
  return Float64Array.from({ length: dy.length }, (_, i) => {
    const f = scale[Math.floor(i / s.c) % (scaleN * s.h * s.w)];
    return f === 0 ? 0 : dy[i] * f * (activated && !(activated.y[i] > 0) ? activated.slope : 1);
  });
}
