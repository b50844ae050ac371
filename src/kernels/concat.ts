/**
 * Concatenation along channels, and its gradient (two slices).
 *
 *   y[n,h,w,:] = [a[n,h,w,:], b[n,h,w,:]]
 *
 * Source: the skip links of Liu et al. 2018, sec. 3.2. Layout: a [N,H,W,Ca], b [N,H,W,Cb] -> y [N,H,W,Ca+Cb]; each padded to 4,
 * so lanes move when Ca is not a multiple of 4: the kernels work on single floats.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { vec4s } from "./shape.js";

export const concatForwardKernel = defineKernel({
  name: "concatForward",
  params: { pixels: "u32", ca: "u32", cb: "u32", strideA: "u32", strideB: "u32", strideY: "u32" },
  bindings: ["read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> a: array<f32>;             // [N,H,W,Ca]
@group(0) @binding(2) var<storage, read> b: array<f32>;             // [N,H,W,Cb]
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;     // [N,H,W,Ca+Cb]
${linearMain(
  "p.pixels * (p.strideY / 4u)",
  `  let pixel = id / (p.strideY / 4u);
  let c0 = id % (p.strideY / 4u) * 4u;
  var v = vec4f();
  for (var l = 0u; l < 4u; l++) {
    let c = c0 + l;
    if (c < p.ca) { v[l] = a[pixel * p.strideA + c]; }
    else if (c < p.ca + p.cb) { v[l] = b[pixel * p.strideB + c - p.ca]; }
  }
  y[id] = v;`,
)}
`,
});

export const channelSliceKernel = defineKernel({
  name: "channelSlice",
  params: { pixels: "u32", first: "u32", count: "u32", strideX: "u32", strideY: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<f32>;             // [N,H,W,C]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;     // [N,H,W,count]
${linearMain(
  "p.pixels * (p.strideY / 4u)",
  `  let pixel = id / (p.strideY / 4u);
  let c0 = id % (p.strideY / 4u) * 4u;
  var v = vec4f();
  for (var l = 0u; l < 4u; l++) {
    if (c0 + l < p.count) { v[l] = x[pixel * p.strideX + p.first + c0 + l]; }
  }
  y[id] = v;`,
)}
`,
});

const stride = (c: number) => 4 * vec4s(c);

/** Records y = [a, b] for `pixels` pixels. */
export function concatForward(
  gpu: Gpu,
  s: { readonly pixels: number; readonly ca: number; readonly cb: number },
  buffers: { readonly a: Storage; readonly b: Storage; readonly y: Storage },
): void {
  const params = { ...s, strideA: stride(s.ca), strideB: stride(s.cb), strideY: stride(s.ca + s.cb) };
  const grid = linearGrid((s.pixels * params.strideY) / 4);
  gpu.dispatch(concatForwardKernel, undefined, params, [buffers.a, buffers.b, buffers.y], grid);
}

/** Records y = x[..., first : first + count], x having `c` channels. */
export function channelSlice(
  gpu: Gpu,
  s: { readonly pixels: number; readonly c: number; readonly first: number; readonly count: number },
  buffers: { readonly x: Storage; readonly y: Storage },
): void {
  const { pixels, first, count } = s;
  const params = { pixels, first, count, strideX: stride(s.c), strideY: stride(count) };
  gpu.dispatch(
    channelSliceKernel,
    undefined,
    params,
    [buffers.x, buffers.y],
    linearGrid((pixels * params.strideY) / 4),
  );
}

/** Forward in float64, channels unpadded. */
export function concatForwardRef(pixels: number, ca: number, cb: number, a: ArrayLike<number>, b: ArrayLike<number>) {
  return Float64Array.from({ length: pixels * (ca + cb) }, (_, i) => {
    const c = i % (ca + cb);
    const pixel = Math.floor(i / (ca + cb));
    return c < ca ? a[pixel * ca + c] : b[pixel * cb + c - ca];
  });
}

/** Slice in float64, channels unpadded. */
export function channelSliceRef(pixels: number, c: number, first: number, count: number, x: ArrayLike<number>) {
  return Float64Array.from({ length: pixels * count }, (_, i) => x[Math.floor(i / count) * c + first + (i % count)]);
}
