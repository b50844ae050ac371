/**
 * The composite image: the truth where it is known, the output in the hole; and its gradient in the output.
 *
 *   comp = m gt + (1 - m) out,   dout = (1 - m) dcomp       m = mask[n mod Nm, h, w]
 *
 * Source: I_comp of Liu et al. 2018, sec. 3.3. Layout: gt, out, comp [N,H,W,C] padded to 4; mask [Nm,H,W].
 * Where m is exactly 1 the output is not read (NaN there does not spread), where it is 0 the truth is not.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { type ActivationShape, vec4s } from "./shape.js";

const params = { vec4s: "u32", c4: "u32", maskPixels: "u32" } as const;

export const compositeForwardKernel = defineKernel({
  name: "compositeForward",
  params,
  bindings: ["read", "read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> gt: array<vec4f>;            // [N,H,W,C]
@group(0) @binding(2) var<storage, read> out: array<vec4f>;           // [N,H,W,C]
@group(0) @binding(3) var<storage, read> mask: array<f32>;            // [Nm,H,W]
@group(0) @binding(4) var<storage, read_write> comp: array<vec4f>;    // [N,H,W,C]
${linearMain(
  "p.vec4s",
  `  let m = mask[(id / p.c4) % p.maskPixels];
  comp[id] = select(vec4f(), m * gt[id], m != 0.0) + select(vec4f(), (1.0 - m) * out[id], m != 1.0);`,
)}
`,
});

export const compositeBackwardKernel = defineKernel({
  name: "compositeBackward",
  params,
  bindings: ["read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> dcomp: array<vec4f>;         // [N,H,W,C]
@group(0) @binding(2) var<storage, read> mask: array<f32>;            // [Nm,H,W]
@group(0) @binding(3) var<storage, read_write> dout: array<vec4f>;    // [N,H,W,C]
${linearMain("p.vec4s", `  dout[id] = (1.0 - mask[(id / p.c4) % p.maskPixels]) * dcomp[id];`)}
`,
});

const paramsOf = (s: ActivationShape, maskN: number) => {
  const c4 = vec4s(s.c);
  return { vec4s: s.n * s.h * s.w * c4, c4, maskPixels: maskN * s.h * s.w };
};

/** Records comp; `maskN` is the mask's batch (N or 1). */
export function compositeForward(
  gpu: Gpu,
  s: ActivationShape,
  maskN: number,
  b: { readonly gt: Storage; readonly out: Storage; readonly mask: Storage; readonly comp: Storage },
): void {
  const params = paramsOf(s, maskN);
  gpu.dispatch(compositeForwardKernel, undefined, params, [b.gt, b.out, b.mask, b.comp], linearGrid(params.vec4s));
}

/** Records dout. */
export function compositeBackward(
  gpu: Gpu,
  s: ActivationShape,
  maskN: number,
  b: { readonly dcomp: Storage; readonly mask: Storage; readonly dout: Storage },
): void {
  const params = paramsOf(s, maskN);
  gpu.dispatch(compositeBackwardKernel, undefined, params, [b.dcomp, b.mask, b.dout], linearGrid(params.vec4s));
}

/** Forward in float64, channels unpadded. */
export function compositeForwardRef(
  s: ActivationShape,
  maskN: number,
  gt: ArrayLike<number>,
  out: ArrayLike<number>,
  mask: ArrayLike<number>,
): Float64Array {
  return Float64Array.from({ length: gt.length }, (_, i) => {
    const m = mask[Math.floor(i / s.c) % (maskN * s.h * s.w)];
    return (m !== 0 ? m * gt[i] : 0) + (m !== 1 ? (1 - m) * out[i] : 0);
  });
}

/** Backward in float64, channels unpadded. */
export function compositeBackwardRef(
  s: ActivationShape,
  maskN: number,
  dcomp: ArrayLike<number>,
  mask: ArrayLike<number>,
) {
  return Float64Array.from({ length: dcomp.length }, (_, i) => {
    return (1 - mask[Math.floor(i / s.c) % (maskN * s.h * s.w)]) * dcomp[i];
  });
}
