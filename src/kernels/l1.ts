/**
 * Weighted L1 distance, and its gradient.
 *
 *   value = factor * sum_{n,h,w,c} weight |a - b|,   weight = 1, m or 1 - m with m = mask[n mod Nm, h, w]
 *   da = dvalue * factor * weight * sign(a - b),     sign(0) = 0
 *
 * Source: the hole, valid, perceptual and style terms of Liu et al. 2018, eq. 2-5; `factor` carries 1/N.
 * Layout: a, b [N,H,W,C] padded to 4; mask [Nm,H,W]; value one vec4 (value, 0, 0, 0). NaN outside the weight never counts.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { type ActivationShape, vec4s } from "./shape.js";
import { partialCount, reduceScalar } from "./reduceScalar.js";

/** Which pixels count: all, those of the mask (`valid`), or the others (`hole`). Fractional masks weigh. */
export type L1Region = "all" | "valid" | "hole";

const weightOf = (region: L1Region) =>
  region === "all" ? "1.0" : `${region === "hole" ? "1.0 - " : ""}mask[(i / p.c4) % p.maskPixels]`;

export const l1ForwardKernel = defineKernel({
  name: "l1Forward",
  params: { vec4s: "u32", c4: "u32", maskPixels: "u32", count: "u32", factor: "f32" },
  bindings: ["read", "read", "read", "read_write"],
  wgsl: ({ region }: { readonly region: L1Region }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> a: array<vec4f>;                // [N,H,W,C]
@group(0) @binding(2) var<storage, read> b: array<vec4f>;                // [N,H,W,C]
@group(0) @binding(3) var<storage, read> mask: array<f32>;               // [Nm,H,W]
@group(0) @binding(4) var<storage, read_write> partials: array<vec4f>;   // [count]
${linearMain(
  "p.count",
  `  var sum = vec4f();
  for (var i = id; i < p.vec4s; i += p.count) {
    let weight = ${weightOf(region)};
    if (weight != 0.0) { sum += weight * abs(a[i] - b[i]); }
  }
  partials[id] = sum * p.factor;`,
)}
`,
});

export const l1BackwardKernel = defineKernel({
  name: "l1Backward",
  params: { vec4s: "u32", c4: "u32", maskPixels: "u32", factor: "f32" },
  bindings: ["read", "read", "read", "read", "read_write"],
  wgsl: ({ region }: { readonly region: L1Region }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> a: array<vec4f>;           // [N,H,W,C]
@group(0) @binding(2) var<storage, read> b: array<vec4f>;           // [N,H,W,C]
@group(0) @binding(3) var<storage, read> mask: array<f32>;          // [Nm,H,W]
@group(0) @binding(4) var<storage, read> dvalue: array<vec4f>;      // [1]
@group(0) @binding(5) var<storage, read_write> da: array<vec4f>;    // [N,H,W,C]
${linearMain(
  "p.vec4s",
  `  let i = id;
  let weight = ${weightOf(region)};
  da[i] = select(vec4f(), dvalue[0].x * p.factor * weight * sign(a[i] - b[i]), weight != 0.0);`,
)}
`,
});

export interface L1Options {
  readonly region: L1Region;
  readonly factor: number;
  /** Batch of the mask (N or 1). */
  readonly maskN: number;
}

/** Records value. */
export function l1Forward(
  gpu: Gpu,
  s: ActivationShape,
  o: L1Options,
  b: { readonly a: Storage; readonly b: Storage; readonly mask?: Storage | undefined; readonly value: Storage },
): void {
  const c4 = vec4s(s.c);
  const total = s.n * s.h * s.w * c4;
  const count = partialCount(total);
  const partials = gpu.alloc(count * 16, "l1 partial sums");
  const params = { vec4s: total, c4, maskPixels: o.maskN * s.h * s.w, count, factor: o.factor };
  gpu.dispatch(l1ForwardKernel, { region: o.region }, params, [b.a, b.b, b.mask ?? b.a, partials], linearGrid(count));
  reduceScalar(gpu, count, { partials, value: b.value });
  gpu.free(partials);
}

/** Records da; db is its negative. */
export function l1Backward(
  gpu: Gpu,
  s: ActivationShape,
  o: L1Options,
  b: {
    readonly a: Storage;
    readonly b: Storage;
    readonly mask?: Storage | undefined;
    readonly dvalue: Storage;
    readonly da: Storage;
  },
): void {
  const c4 = vec4s(s.c);
  const params = { vec4s: s.n * s.h * s.w * c4, c4, maskPixels: o.maskN * s.h * s.w, factor: o.factor };
  const buffers = [b.a, b.b, b.mask ?? b.a, b.dvalue, b.da];
  gpu.dispatch(l1BackwardKernel, { region: o.region }, params, buffers, linearGrid(params.vec4s));
}

function weightRef(s: ActivationShape, o: L1Options, mask: ArrayLike<number> | undefined, i: number): number {
  if (o.region === "all") return 1;
  const m = mask![Math.floor(i / s.c) % (o.maskN * s.h * s.w)];
  return o.region === "hole" ? 1 - m : m;
}

/** Forward in float64, channels unpadded. */
export function l1ForwardRef(
  s: ActivationShape,
  o: L1Options,
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  mask?: ArrayLike<number>,
): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) {
    const weight = weightRef(s, o, mask, i);
    if (weight !== 0) sum += weight * Math.abs(a[i] - b[i]);
  }
  return sum * o.factor;
}

/** Backward in float64, channels unpadded. */
export function l1BackwardRef(
  s: ActivationShape,
  o: L1Options,
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  dvalue: number,
  mask?: ArrayLike<number>,
): Float64Array {
  return Float64Array.from({ length: a.length }, (_, i) => {
    const weight = weightRef(s, o, mask, i);
    return weight === 0 ? 0 : dvalue * o.factor * weight * Math.sign(a[i] - b[i]);
  });
}
