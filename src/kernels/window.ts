/**
 * A window into an image: pads with zeros or crops, depending on the offset's sign. Its gradient is the opposite window.
 *
 *   y[n,h,w,c] = x[n, h + top, w + left, c]   inside x, else 0
 *
 * Source: ours (sizes that are not multiples of 2^depth are padded as hole). Layout: x [N,H,W,C] -> y [N,P,Q,C], both
 * padded to 4 channels; with `vectors: false` the channels are single floats (masks).
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";

export const windowKernel = defineKernel({
  name: "window",
  params: { n: "u32", h: "u32", w: "u32", c: "u32", p: "u32", q: "u32", top: "i32", left: "i32" },
  bindings: ["read", "read_write"],
  wgsl: ({ vectors }: { readonly vectors: boolean }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<${vectors ? "vec4f" : "f32"}>;          // [N,H,W,C]
@group(0) @binding(2) var<storage, read_write> y: array<${vectors ? "vec4f" : "f32"}>;    // [N,P,Q,C]
${linearMain(
  "p.n * p.p * p.q * p.c",
  `  let c = id % p.c;
  let col = i32(id / p.c % p.q) + p.left;
  let row = i32(id / (p.c * p.q) % p.p) + p.top;
  let n = id / (p.c * p.q * p.p);
  let inside = row >= 0 && row < i32(p.h) && col >= 0 && col < i32(p.w);
  let at = select(0u, ((n * p.h + u32(row)) * p.w + u32(col)) * p.c + c, inside);
  y[id] = select(${vectors ? "vec4f()" : "0.0"}, x[at], inside);`,
)}
`,
});

export interface WindowShape {
  readonly n: number;
  readonly h: number;
  readonly w: number;
  /** vec4s, or floats when not `vectors`. */
  readonly c: number;
  readonly p: number;
  readonly q: number;
  readonly top: number;
  readonly left: number;
}

/** Records y. */
export function window2d(
  gpu: Gpu,
  s: WindowShape,
  vectors: boolean,
  b: { readonly x: Storage; readonly y: Storage },
): void {
  gpu.dispatch(windowKernel, { vectors }, s, [b.x, b.y], linearGrid(s.n * s.p * s.q * s.c));
}

/** The same in float64; `c` counts floats. */
export function window2dRef(s: WindowShape, x: ArrayLike<number>): Float64Array {
  const y = new Float64Array(s.n * s.p * s.q * s.c);
  for (let i = 0; i < y.length; i++) {
    const col = (Math.floor(i / s.c) % s.q) + s.left;
    const row = (Math.floor(i / (s.c * s.q)) % s.p) + s.top;
    const n = Math.floor(i / (s.c * s.q * s.p));
    if (row >= 0 && row < s.h && col >= 0 && col < s.w) y[i] = x[((n * s.h + row) * s.w + col) * s.c + (i % s.c)];
  }
  return y;
}
