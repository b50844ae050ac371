/**
 * Gram matrix of features, and its gradient.
 *
 *   G[n,a,b] = sum_{h,w} F[n,h,w,a] F[n,h,w,b] / (C H W)
 *   dF[n,h,w,a] = sum_b (dG[n,a,b] + dG[n,b,a]) F[n,h,w,b] / (C H W)
 *
 * Source: the autocorrelation of the style terms, Liu et al. 2018, eq. 4-5 (K_p = 1/(C H W)).
 * Layout: F [N,H,W,C] padded to 4 -> G [N,C,C], each row padded to 4 (as an activation it is [N,1,C,C]).
 * Pixels are split into chunks that are added in a fixed order.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { type ActivationShape, vec4s } from "./shape.js";
import { sumPartials } from "./sumPartials.js";

/** Pixels in one float32 sum, and the most chunks made: enough invocations for few channels, short sums for large images. */
const MIN_CHUNK = 64;
const MAX_CHUNKS = 32;

export const gramForwardKernel = defineKernel({
  name: "gramForward",
  params: { n: "u32", pixels: "u32", c: "u32", c4: "u32", chunks: "u32", chunkPixels: "u32", factor: "f32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> f: array<vec4f>;                // [N,HW,C]
@group(0) @binding(2) var<storage, read_write> partials: array<vec4f>;   // [chunks,N,C,C]
// One 4x4 block of G per invocation: two loaded vec4s serve sixteen products.
${linearMain(
  "p.chunks * p.n * p.c4 * p.c4",
  `  let b = id % p.c4;
  let a = id / p.c4 % p.c4;
  let n = id / (p.c4 * p.c4) % p.n;
  let chunk = id / (p.c4 * p.c4 * p.n);
  let end = min((chunk + 1u) * p.chunkPixels, p.pixels);
  var r0 = vec4f(); var r1 = vec4f(); var r2 = vec4f(); var r3 = vec4f();
  for (var i = chunk * p.chunkPixels; i < end; i++) {
    let at = (n * p.pixels + i) * p.c4;
    let fa = f[at + a];
    let fb = f[at + b];
    r0 = fma(vec4f(fa.x), fb, r0); r1 = fma(vec4f(fa.y), fb, r1); r2 = fma(vec4f(fa.z), fb, r2); r3 = fma(vec4f(fa.w), fb, r3);
  }
  let to = (chunk * p.n + n) * p.c * p.c4 + b;
  if (4u * a < p.c) { partials[to + 4u * a * p.c4] = r0 * p.factor; }
  if (4u * a + 1u < p.c) { partials[to + (4u * a + 1u) * p.c4] = r1 * p.factor; }
  if (4u * a + 2u < p.c) { partials[to + (4u * a + 2u) * p.c4] = r2 * p.factor; }
  if (4u * a + 3u < p.c) { partials[to + (4u * a + 3u) * p.c4] = r3 * p.factor; }`,
)}
`,
});

export const gramBackwardKernel = defineKernel({
  name: "gramBackward",
  params: { n: "u32", pixels: "u32", c: "u32", c4: "u32", tiles: "u32", factor: "f32" },
  bindings: ["read", "read", "read_write"],
  wgsl: () => {
    const T = [0, 1, 2, 3, 4, 5, 6, 7];
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> f: array<vec4f>;            // [N,HW,C]
@group(0) @binding(2) var<storage, read> dg: array<f32>;             // [N,C,C]
@group(0) @binding(3) var<storage, read_write> df: array<vec4f>;     // [N,HW,C]
// Eight pixels times one vec4 of channels per invocation.
${linearMain(
  "p.n * p.tiles * p.c4",
  `  let a = id % p.c4;
  let tile = id / p.c4 % p.tiles;
  let n = id / (p.c4 * p.tiles);
  ${T.map((t) => `let at_${t} = (n * p.pixels + min(tile * 8u + ${t}u, p.pixels - 1u)) * p.c4; var s_${t} = vec4f();`).join("\n  ")}
  let g_at = n * p.c * 4u * p.c4;
  for (var b = 0u; b < p.c; b++) {
    var g = vec4f();
    for (var l = 0u; l < 4u; l++) {
      let c = 4u * a + l;
      if (c < p.c) { g[l] = dg[g_at + c * 4u * p.c4 + b] + dg[g_at + b * 4u * p.c4 + c]; }
    }
    ${T.map((t) => `s_${t} += g * f[at_${t} + b / 4u][b % 4u];`).join("\n    ")}
  }
  ${T.map((t) => `if (tile * 8u + ${t}u < p.pixels) { df[at_${t} + a] = s_${t} * p.factor; }`).join("\n  ")}`,
)}
`;
  },
});

const factorOf = (s: ActivationShape) => 1 / (s.c * s.h * s.w);

/** Records G. */
export function gramForward(gpu: Gpu, s: ActivationShape, b: { readonly f: Storage; readonly g: Storage }): void {
  const pixels = s.h * s.w;
  const c4 = vec4s(s.c);
  const chunkPixels = Math.max(MIN_CHUNK, Math.ceil(pixels / MAX_CHUNKS));
  const chunks = Math.ceil(pixels / chunkPixels);
  const entries = s.n * s.c * c4;
  const partials = gpu.alloc(chunks * entries * 16, "gram partial sums");
  const params = { n: s.n, pixels, c: s.c, c4, chunks, chunkPixels, factor: factorOf(s) };
  gpu.dispatch(gramForwardKernel, undefined, params, [b.f, partials], linearGrid(chunks * s.n * c4 * c4));
  sumPartials(gpu, { partials, sum: b.g, chunks, vec4s: entries });
  gpu.free(partials);
}

/** Records dF. */
export function gramBackward(
  gpu: Gpu,
  s: ActivationShape,
  b: { readonly f: Storage; readonly dg: Storage; readonly df: Storage },
): void {
  const pixels = s.h * s.w;
  const tiles = Math.ceil(pixels / 8);
  const params = { n: s.n, pixels, c: s.c, c4: vec4s(s.c), tiles, factor: factorOf(s) };
  gpu.dispatch(gramBackwardKernel, undefined, params, [b.f, b.dg, b.df], linearGrid(s.n * tiles * params.c4));
}

/** Forward in float64, channels unpadded: [N,C,C]. */
export function gramForwardRef(s: ActivationShape, f: ArrayLike<number>): Float64Array {
  const g = new Float64Array(s.n * s.c * s.c);
  for (let i = 0; i < s.n * s.h * s.w; i++) {
    const n = Math.floor(i / (s.h * s.w));
    for (let a = 0; a < s.c; a++)
      for (let b = 0; b < s.c; b++) g[(n * s.c + a) * s.c + b] += f[i * s.c + a] * f[i * s.c + b] * factorOf(s);
  }
  return g;
}

/** Backward in float64, channels unpadded. */
export function gramBackwardRef(s: ActivationShape, f: ArrayLike<number>, dg: ArrayLike<number>): Float64Array {
  const df = new Float64Array(f.length);
  for (let i = 0; i < s.n * s.h * s.w; i++) {
    const n = Math.floor(i / (s.h * s.w));
    for (let a = 0; a < s.c; a++)
      for (let b = 0; b < s.c; b++) {
        const both = dg[(n * s.c + a) * s.c + b] + dg[(n * s.c + b) * s.c + a];
        df[i * s.c + a] += both * f[i * s.c + b] * factorOf(s);
      }
  }
  return df;
}
