/**
 * Gram matrix of features, and its gradient.
 *
 *   G[n,a,b] = sum_{h,w} F[n,h,w,a] F[n,h,w,b] / (C H W)
 *   dF[n,h,w,a] = sum_b (dG[n,a,b] + dG[n,b,a]) F[n,h,w,b] / (C H W)
 *
 * Source: the autocorrelation of the style terms, Liu et al. 2018, eq. 4-5 (K_p = 1/(C H W)).
 * Layout: F [N,H,W,C] padded to 4 -> G [N,C,C], each row padded to 4 (as an activation it is [N,1,C,C]).
 * Both are products of the convolution engine, one matrix product per image: G is the weight gradient of a 1x1 convolution
 * with x = dy = F, dF the 1x1 convolution of F with W = (dG + dG^T) / (C H W).
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { gather, weightPass } from "./conv/backend.js";
import { counted, plainFlops } from "./conv/flopCounter.js";
import { type ActivationShape, type ConvShape, squareWindow, vec4s } from "./shape.js";

export const gramForwardKernel = defineKernel({
  name: "gramForward",
  params: { n: "u32", c: "u32", c4: "u32", factor: "f32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> product: array<vec4f>;    // [N,C,C], rows padded too
@group(0) @binding(2) var<storage, read_write> g: array<vec4f>;    // [N,C,C]
${linearMain(
  "p.n * p.c * p.c4",
  `  let a = id / p.c4 % p.c;
  let n = id / (p.c4 * p.c);
  g[id] = p.factor * product[(n * 4u * p.c4 + a) * p.c4 + id % p.c4];`,
)}
`,
});

export const gramBackwardKernel = defineKernel({
  name: "gramBackward",
  params: { n: "u32", c: "u32", c4: "u32", factor: "f32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> dg: array<f32>;               // [N,C,C]
@group(0) @binding(2) var<storage, read_write> weight: array<f32>;     // W [N,C,C], rows padded too
${linearMain(
  "p.n * 16u * p.c4 * p.c4",
  `  let width = 4u * p.c4;
  let b = id % width;
  let a = id / width % width;
  let image = id / (width * width) * p.c * width;
  var both = 0.0;
  if (a < p.c && b < p.c) { both = dg[image + a * width + b] + dg[image + b * width + a]; }
  weight[id] = p.factor * both;`,
)}
`,
});

const factorOf = (s: ActivationShape) => 1 / (s.c * s.h * s.w);

/** The 1x1 convolution from the features to as many channels. */
const pixelwise = (s: ActivationShape): ConvShape => ({ ...s, k: s.c, ...squareWindow(1) });

/** Bytes of one square matrix per image, rows and columns padded. */
const squareBytes = (s: ActivationShape) => s.n * 16 * vec4s(s.c) ** 2 * 4;

/** Records G. */
export function gramForward(gpu: Gpu, s: ActivationShape, b: { readonly f: Storage; readonly g: Storage }): void {
  const product = gpu.alloc(squareBytes(s), "gram product");
  counted(gpu, "gramForward", plainFlops(pixelwise(s)), () =>
    weightPass(gpu, pixelwise(s), { x: b.f, dy: b.f, dw: product }, { imagePerTap: true, half: b.f.half ?? false }),
  );
  const params = { n: s.n, c: s.c, c4: vec4s(s.c), factor: factorOf(s) };
  gpu.dispatch(gramForwardKernel, undefined, params, [product, b.g], linearGrid(s.n * s.c * params.c4));
  gpu.free(product);
}

/** Records dF. */
export function gramBackward(
  gpu: Gpu,
  s: ActivationShape,
  b: { readonly f: Storage; readonly dg: Storage; readonly df: Storage },
): void {
  const weight = gpu.alloc(squareBytes(s), "gram weight");
  const params = { n: s.n, c: s.c, c4: vec4s(s.c), factor: factorOf(s) };
  gpu.dispatch(gramBackwardKernel, undefined, params, [b.dg, weight], linearGrid(squareBytes(s) / 4));
  counted(gpu, "gramBackward", plainFlops(pixelwise(s)), () =>
    gather(
      gpu,
      pixelwise(s),
      "forward",
      { src: b.f, weight, dst: b.df },
      { weightPerImage: true, half: b.f.half ?? false },
    ),
  );
  gpu.free(weight);
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
