/**
 * Nearest-neighbour upsampling by two, and its gradient.
 *
 *   y[n,h,w,c] = x[n, h/2, w/2, c]        dx[n,h,w,c] = sum of dy over the 2x2 block
 *
 * Source: Liu et al. 2018, sec. 3.2 (decoder). Layout: x [N,H,W,C] -> y [N,2H,2W,C], padded to 4.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { type ActivationShape, vec4s } from "./shape.js";

const params = { n: "u32", h: "u32", w: "u32", c4: "u32" } as const;

export const upsampleForwardKernel = defineKernel({
  name: "upsampleForward",
  params,
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [N,H,W,C]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [N,2H,2W,C]
${linearMain(
  "p.n * p.h * p.w * p.c4 * 4u",
  `  let c = id % p.c4;
  let col = id / p.c4 % (2u * p.w);
  let row = id / (p.c4 * 2u * p.w);    // of all images: n * 2H + y, and n * 2H is even
  y[id] = x[(row / 2u * p.w + col / 2u) * p.c4 + c];`,
)}
`,
});

export const upsampleBackwardKernel = defineKernel({
  name: "upsampleBackward",
  params,
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;          // [N,2H,2W,C]
@group(0) @binding(2) var<storage, read_write> dx: array<vec4f>;    // [N,H,W,C]
${linearMain(
  "p.n * p.h * p.w * p.c4",
  `  let c = id % p.c4;
  let col = id / p.c4 % p.w;
  let row = id / (p.c4 * p.w);
  let at = (row * 2u * 2u * p.w + col * 2u) * p.c4 + c;
  let below = at + 2u * p.w * p.c4;
  dx[id] = (dy[at] + dy[at + p.c4]) + (dy[below] + dy[below + p.c4]);`,
)}
`,
});

/** Records y; `s` is the shape of x. */
export function upsampleForward(gpu: Gpu, s: ActivationShape, b: { readonly x: Storage; readonly y: Storage }): void {
  const p = { n: s.n, h: s.h, w: s.w, c4: vec4s(s.c) };
  gpu.dispatch(upsampleForwardKernel, undefined, p, [b.x, b.y], linearGrid(4 * s.n * s.h * s.w * p.c4));
}

/** Records dx; `s` is the shape of x. */
export function upsampleBackward(
  gpu: Gpu,
  s: ActivationShape,
  b: { readonly dy: Storage; readonly dx: Storage },
): void {
  const p = { n: s.n, h: s.h, w: s.w, c4: vec4s(s.c) };
  gpu.dispatch(upsampleBackwardKernel, undefined, p, [b.dy, b.dx], linearGrid(s.n * s.h * s.w * p.c4));
}

/** Forward in float64, channels unpadded. */
export function upsampleForwardRef(s: ActivationShape, x: ArrayLike<number>): Float64Array {
  const y = new Float64Array(x.length * 4);
  for (let i = 0; i < y.length; i++) {
    const col = Math.floor(i / s.c) % (2 * s.w);
    const row = Math.floor(i / (s.c * 2 * s.w));
    y[i] = x[((row >> 1) * s.w + (col >> 1)) * s.c + (i % s.c)];
  }
  return y;
}

/** Backward in float64, channels unpadded; `s` is the shape of x. */
export function upsampleBackwardRef(s: ActivationShape, dy: ArrayLike<number>): Float64Array {
  const dx = new Float64Array(s.n * s.h * s.w * s.c);
  for (let i = 0; i < dy.length; i++) {
    const col = Math.floor(i / s.c) % (2 * s.w);
    const row = Math.floor(i / (s.c * 2 * s.w));
    dx[((row >> 1) * s.w + (col >> 1)) * s.c + (i % s.c)] += dy[i];
  }
  return dx;
}
