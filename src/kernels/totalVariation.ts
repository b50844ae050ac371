/**
 * Total variation of an image, over chosen pairs of neighbours, and its gradient.
 *
 *   value = sum over pairs (u, v) of  factor * pair(u, v) * |P(u) - P(v)|      factorX for horizontal, factorY for vertical pairs
 *   region "inside":   P = x,      pair = R(u) R(v)      both pixels in the region R (the paper)
 *   region "product":  P = R x,    pair = 1              PConv-Keras: false edges at the region's rim
 *   region "all":      P = x,      pair = 1              the whole image (naoto0804)
 *
 * Source: Liu et al. 2018, eq. 6 ("1-pixel dilation of the hole region"); variants as named in the loss.
 * Layout: x [N,H,W,C] padded to 4; R [Nr,H,W] of 0 and 1; value one vec4 (value, 0, 0, 0). sign(0) = 0.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { type ActivationShape, vec4s } from "./shape.js";
import { partialCount, reduceScalar } from "./reduceScalar.js";

/** Pairs of neighbours that are counted: all, those inside the hole, or those of the product with the mask. */
export type TvRegion = "all" | "inside" | "product";

const PARAMS = {
  pixels: "u32",
  h: "u32",
  w: "u32",
  c4: "u32",
  regionPixels: "u32",
  factorX: "f32",
  factorY: "f32",
} as const;

/** WGSL: P at a pixel, the weight of a pair, and the pixel's row and column. */
const helpers = (region: TvRegion) => /* wgsl */ `
fn r(pixel: u32) -> f32 { return region[pixel % p.regionPixels]; }
fn value_at(pixel: u32, c: u32) -> vec4f {
  let v = x[pixel * p.c4 + c];
  ${region === "product" ? "return select(vec4f(), v, r(pixel) != 0.0);" : "return v;"}
}
fn pair(u: u32, v: u32) -> f32 { return ${region === "inside" ? "r(u) * r(v)" : "1.0"}; }
`;

export const totalVariationForwardKernel = defineKernel({
  name: "totalVariationForward",
  params: { ...PARAMS, count: "u32" },
  bindings: ["read", "read", "read_write"],
  wgsl: ({ region }: { readonly region: TvRegion }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;                // [N,H,W,C]
@group(0) @binding(2) var<storage, read> region: array<f32>;             // [Nr,H,W]
@group(0) @binding(3) var<storage, read_write> partials: array<vec4f>;   // [count]
${helpers(region)}
${linearMain(
  "p.count",
  `  var sum = vec4f();
  for (var i = id; i < p.pixels * p.c4; i += p.count) {
    let pixel = i / p.c4;
    let c = i % p.c4;
    let v = value_at(pixel, c);
    if (pixel % p.w + 1u < p.w) {
      let weight = p.factorX * pair(pixel, pixel + 1u);
      if (weight != 0.0) { sum += weight * abs(value_at(pixel + 1u, c) - v); }
    }
    if (pixel / p.w % p.h + 1u < p.h) {
      let weight = p.factorY * pair(pixel, pixel + p.w);
      if (weight != 0.0) { sum += weight * abs(value_at(pixel + p.w, c) - v); }
    }
  }
  partials[id] = sum;`,
)}
`,
});

export const totalVariationBackwardKernel = defineKernel({
  name: "totalVariationBackward",
  params: PARAMS,
  bindings: ["read", "read", "read", "read_write"],
  wgsl: ({ region }: { readonly region: TvRegion }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;           // [N,H,W,C]
@group(0) @binding(2) var<storage, read> region: array<f32>;        // [Nr,H,W]
@group(0) @binding(3) var<storage, read> dvalue: array<vec4f>;      // [1]
@group(0) @binding(4) var<storage, read_write> dx: array<vec4f>;    // [N,H,W,C]
${helpers(region)}
${linearMain(
  "p.pixels * p.c4",
  `  let pixel = id / p.c4;
  let c = id % p.c4;
  let v = value_at(pixel, c);
  let col = pixel % p.w;
  let row = pixel / p.w % p.h;
  var g = vec4f();
  // Each of the four pairs that this pixel belongs to; a clamped one is the pixel itself: sign(0) = 0.
  let right = select(pixel, pixel + 1u, col + 1u < p.w);
  let left = select(pixel, pixel - 1u, col > 0u);
  let below = select(pixel, pixel + p.w, row + 1u < p.h);
  let above = select(pixel, pixel - p.w, row > 0u);
  let weight = vec4f(pair(pixel, right), pair(pixel, left), pair(pixel, below), pair(pixel, above))
    * vec4f(p.factorX, p.factorX, p.factorY, p.factorY);
  if (weight.x != 0.0) { g += weight.x * sign(v - value_at(right, c)); }
  if (weight.y != 0.0) { g += weight.y * sign(v - value_at(left, c)); }
  if (weight.z != 0.0) { g += weight.z * sign(v - value_at(below, c)); }
  if (weight.w != 0.0) { g += weight.w * sign(v - value_at(above, c)); }
  ${region === "product" ? "g = select(vec4f(), g, r(pixel) != 0.0);" : ""}
  dx[id] = dvalue[0].x * g;`,
)}
`,
});

export interface TotalVariationOptions {
  readonly region: TvRegion;
  readonly factorX: number;
  readonly factorY: number;
  /** Batch of the region (N or 1). */
  readonly regionN: number;
}

const paramsOf = (s: ActivationShape, o: TotalVariationOptions) => ({
  pixels: s.n * s.h * s.w,
  h: s.h,
  w: s.w,
  c4: vec4s(s.c),
  regionPixels: o.regionN * s.h * s.w,
  factorX: o.factorX,
  factorY: o.factorY,
});

/** Records value. */
export function totalVariationForward(
  gpu: Gpu,
  s: ActivationShape,
  o: TotalVariationOptions,
  b: { readonly x: Storage; readonly region?: Storage | undefined; readonly value: Storage },
): void {
  const params = paramsOf(s, o);
  const count = partialCount(params.pixels * params.c4);
  const partials = gpu.alloc(count * 16, "totalVariation partial sums");
  const buffers = [b.x, b.region ?? b.x, partials];
  gpu.dispatch(totalVariationForwardKernel, { region: o.region }, { ...params, count }, buffers, linearGrid(count));
  reduceScalar(gpu, count, { partials, value: b.value });
  gpu.free(partials);
}

/** Records dx. */
export function totalVariationBackward(
  gpu: Gpu,
  s: ActivationShape,
  o: TotalVariationOptions,
  b: { readonly x: Storage; readonly region?: Storage | undefined; readonly dvalue: Storage; readonly dx: Storage },
): void {
  const params = paramsOf(s, o);
  const grid = linearGrid(params.pixels * params.c4);
  gpu.dispatch(
    totalVariationBackwardKernel,
    { region: o.region },
    params,
    [b.x, b.region ?? b.x, b.dvalue, b.dx],
    grid,
  );
}

/** Every pair with its weight, for the references: indices into the unpadded activation. */
function forEachPair(
  s: ActivationShape,
  o: TotalVariationOptions,
  region: ArrayLike<number> | undefined,
  visit: (u: number, v: number, weight: number, ru: number, rv: number) => void,
): void {
  const pixels = s.h * s.w;
  const r = (pixel: number) => (region ? region[pixel % (o.regionN * pixels)] : 1);
  for (let pixel = 0; pixel < s.n * pixels; pixel++) {
    const neighbours: [number, number][] = [];
    if ((pixel % s.w) + 1 < s.w) neighbours.push([pixel + 1, o.factorX]);
    if ((Math.floor(pixel / s.w) % s.h) + 1 < s.h) neighbours.push([pixel + s.w, o.factorY]);
    for (const [other, factor] of neighbours) {
      const weight = factor * (o.region === "inside" ? r(pixel) * r(other) : 1);
      const [ru, rv] = o.region === "product" ? [r(pixel), r(other)] : [1, 1];
      if (weight !== 0) for (let c = 0; c < s.c; c++) visit(pixel * s.c + c, other * s.c + c, weight, ru, rv);
    }
  }
}

/** Forward in float64, channels unpadded. */
export function totalVariationForwardRef(
  s: ActivationShape,
  o: TotalVariationOptions,
  x: ArrayLike<number>,
  region?: ArrayLike<number>,
): number {
  let sum = 0;
  const at = (i: number, r: number) => (r === 0 ? 0 : x[i]);
  forEachPair(s, o, region, (u, v, weight, ru, rv) => (sum += weight * Math.abs(at(u, ru) - at(v, rv))));
  return sum;
}

/** Backward in float64, channels unpadded. */
export function totalVariationBackwardRef(
  s: ActivationShape,
  o: TotalVariationOptions,
  x: ArrayLike<number>,
  dvalue: number,
  region?: ArrayLike<number>,
): Float64Array {
  const dx = new Float64Array(x.length);
  const at = (i: number, r: number) => (r === 0 ? 0 : x[i]);
  forEachPair(s, o, region, (u, v, weight, ru, rv) => {
    const g = dvalue * weight * Math.sign(at(u, ru) - at(v, rv));
    if (ru !== 0) dx[u] += g;
    if (rv !== 0) dx[v] -= g;
  });
  return dx;
}
