/**
 * One factor and one offset per channel: y[n,h,w,c] = scale[c] * x[n,h,w,c] + shift[c]; gradient dx = scale dy (shift = 0).
 * With scale = 1/std and shift = -mean/std it is ImageNet's normalisation.
 *
 * Source: the input convention of torchvision's VGG16. Layout: x, y [N,H,W,C] padded to 4; scale, shift [C] padded with zeros.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";

export const channelAffineKernel = defineKernel({
  name: "channelAffine",
  params: { vec4s: "u32", c4: "u32" },
  bindings: ["read", "read", "read", "read_write"],
  wgsl: ({ shifted }: { readonly shifted: boolean }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [N,H,W,C]
@group(0) @binding(2) var<storage, read> scale: array<vec4f>;      // [C]
@group(0) @binding(3) var<storage, read> shift: array<vec4f>;      // [C]
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;    // [N,H,W,C]
${linearMain("p.vec4s", `  y[id] = x[id] * scale[id % p.c4]${shifted ? " + shift[id % p.c4]" : ""};`)}
`,
});

/** Records y; without `shift` (the gradient) it only scales. */
export function channelAffine(
  gpu: Gpu,
  s: { readonly vec4s: number; readonly c4: number },
  b: { readonly x: Storage; readonly scale: Storage; readonly shift?: Storage | undefined; readonly y: Storage },
): void {
  const spec = { shifted: b.shift !== undefined };
  gpu.dispatch(channelAffineKernel, spec, s, [b.x, b.scale, b.shift ?? b.scale, b.y], linearGrid(s.vec4s));
}

/** The same in float64, channels unpadded. */
export function channelAffineRef(
  x: ArrayLike<number>,
  scale: ArrayLike<number>,
  shift?: ArrayLike<number>,
): Float64Array {
  const c = scale.length;
  return Float64Array.from({ length: x.length }, (_, i) => x[i] * scale[i % c] + (shift ? shift[i % c] : 0));
}
