/**
 * Convolution, gradient with respect to the weight.
 *
 *   dw[i,j,c,k] = sum_{n,p,q} x[n, p*s+i*d-pad, q*s+j*d-pad, c] * dy[n,p,q,k]
 *
 * For a partial convolution x holds zeros in holes and dy is first multiplied by the layer's `scale`.
 * The rows (n, p) are split into chunks that are summed separately and then added in a fixed order: enough invocations for
 * small kernels, and shorter float32 sums (256x256 outputs add 65,536 products an entry).
 *
 * Source: transpose of pconvForward in weight.
 * Layout: x [N,H,W,C], dy [N,P,Q,K] -> dw [kh,kw,C,K]; channels padded to 4.
 * @throws ShapeError when the window does not fit.
 *
 * Versions: `simple` one 4x4 block of (c, k) per invocation; `tile` 8x8: eight loaded values serve 64 products.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { CONV_PARAMS, convOutputSize, convParams, type ConvShape, vec4s } from "./shape.js";
import type { ConvVariant } from "./convTile.js";
import { forEachTap } from "./pconvForward.js";
import { sumPartials } from "./sumPartials.js";

interface WeightSpec {
  /** vec4s of input and of output channels per invocation. */
  readonly in4: number;
  readonly out4: number;
}

/** Invocations wanted before rows are split no further: fills small GPUs, and keeps partial sums small. */
const ENOUGH_INVOCATIONS = 16384;
/** Rows of one chunk are added in one float32 sum; more chunks than this would only cost memory. */
const MAX_CHUNKS = 64;

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

export const pconvBackwardWeightKernel = defineKernel({
  name: "pconvBackwardWeight",
  params: { ...CONV_PARAMS, chunks: "u32", chunkRows: "u32", tilesC: "u32", tilesK: "u32", items: "u32" },
  bindings: ["read", "read", "read_write"],
  wgsl: ({ in4, out4 }: WeightSpec) => {
    const I = range(in4);
    const O = range(out4);
    const L = range(4);
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;            // [N,H,W,C]
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;           // [N,P,Q,K]
@group(0) @binding(3) var<storage, read_write> dw: array<vec4f>;     // [chunks,kh,kw,C,K]
${linearMain(
  "p.items",
  `  var rest = id;
  let k0 = (rest % p.tilesK) * ${out4}u; rest /= p.tilesK;
  let c0 = (rest % p.tilesC) * ${in4}u; rest /= p.tilesC;
  let tap = rest % (p.kh * p.kw);
  let chunk = rest / (p.kh * p.kw);
  let i = i32(tap / p.kw);
  let j = i32(tap % p.kw);
  ${I.map((c) => `let c_${c} = min(c0 + ${c}u, p.c4 - 1u);`).join(" ")}
  ${O.map((k) => `let k_${k} = min(k0 + ${k}u, p.k4 - 1u);`).join(" ")}
  ${I.flatMap((c) => L.flatMap((l) => O.map((k) => `var a_${c}_${l}_${k} = vec4f();`))).join(" ")}
  // Columns whose source lies inside the image: q*stride + offset in [0, w).
  let offset = j * p.dilW - p.padW;
  let first = select(0, (-offset + p.strideW - 1) / p.strideW, offset < 0);
  let past = select(0, (i32(p.w) - 1 - offset) / p.strideW + 1, i32(p.w) - 1 >= offset);
  let last = min(i32(p.q), past);
  let rows = min((chunk + 1u) * p.chunkRows, p.n * p.p);
  for (var row = chunk * p.chunkRows; row < rows; row++) {
    let y = i32(row % p.p) * p.strideH + i * p.dilH - p.padH;
    if (y < 0 || y >= i32(p.h)) { continue; }
    let source = (row / p.p * p.h + u32(y)) * p.w;
    for (var q = first; q < last; q++) {
      let x_at = (source + u32(q * p.strideW + offset)) * p.c4;
      let dy_at = (row * p.q + u32(q)) * p.k4;
      ${I.map((c) => `let x_${c} = x[x_at + c_${c}];`).join(" ")}
      ${O.map((k) => `let d_${k} = dy[dy_at + k_${k}];`).join(" ")}
      ${I.flatMap((c) => L.flatMap((l) => O.map((k) => `a_${c}_${l}_${k} = fma(vec4f(x_${c}.${"xyzw"[l]}), d_${k}, a_${c}_${l}_${k});`))).join(" ")}
    }
  }
  let to = ((chunk * p.kh * p.kw + tap) * p.c4 + c0) * 4u;
  ${I.map((c) => {
    const stores = L.flatMap((l) =>
      O.map((k) => `if (k0 + ${k}u < p.k4) { dw[(to + ${4 * c + l}u) * p.k4 + k0 + ${k}u] = a_${c}_${l}_${k}; }`),
    );
    return `if (c0 + ${c}u < p.c4) { ${stores.join(" ")} }`;
  }).join("\n  ")}`,
)}
`;
  },
});

export interface PConvBackwardWeightBuffers {
  readonly x: Storage;
  readonly dy: Storage;
  readonly dw: Storage;
}

/** Records one weight gradient; partial sums live in a buffer that is back in the pool when this returns. */
export function pconvBackwardWeight(
  gpu: Gpu,
  s: ConvShape,
  b: PConvBackwardWeightBuffers,
  variant: ConvVariant = "tile",
): void {
  const size = convOutputSize("pconvBackwardWeight", s);
  const [c4, k4] = [vec4s(s.c), vec4s(s.k)];
  const spec = variant === "simple" ? { in4: 1, out4: 1 } : { in4: Math.min(2, c4), out4: Math.min(2, k4) };
  const taps = s.kernel[0] * s.kernel[1];
  const tilesC = Math.ceil(c4 / spec.in4);
  const tilesK = Math.ceil(k4 / spec.out4);
  const blocks = taps * tilesC * tilesK;
  const rows = s.n * size[0];
  const entries = taps * c4 * 4 * k4; // vec4s of dw
  const { maxStorageBufferBindingSize } = gpu.limits;
  const wanted = Math.min(Math.ceil(ENOUGH_INVOCATIONS / blocks), MAX_CHUNKS, rows);
  const affordable = Math.floor(maxStorageBufferBindingSize / (entries * 16));
  const chunkRows = Math.ceil(rows / Math.max(1, Math.min(wanted, affordable)));
  const chunks = Math.ceil(rows / chunkRows);
  const params = { ...convParams(s, size), chunks, chunkRows, tilesC, tilesK, items: chunks * blocks };
  const grid = linearGrid(params.items);
  if (chunks === 1) {
    gpu.dispatch(pconvBackwardWeightKernel, spec, params, [b.x, b.dy, b.dw], grid);
    return;
  }
  const partials = gpu.alloc(chunks * entries * 16, "pconvBackwardWeight partial sums");
  gpu.dispatch(pconvBackwardWeightKernel, spec, params, [b.x, b.dy, partials], grid);
  sumPartials(gpu, { partials, sum: b.dw, chunks, vec4s: entries });
  gpu.free(partials);
}

/** The same in float64, channels unpadded. `only` restricts it to some (tap, c) rows of the weight. */
export function pconvBackwardWeightRef(
  s: ConvShape,
  x: ArrayLike<number>,
  dy: ArrayLike<number>,
  only?: (tap: number, c: number) => boolean,
): Float64Array {
  const dw = new Float64Array(s.kernel[0] * s.kernel[1] * s.c * s.k);
  forEachTap(s, (output, input, tap) => {
    for (let c = 0; c < s.c; c++) {
      if (only && !only(tap, c)) continue;
      const v = x[input * s.c + c];
      const row = (tap * s.c + c) * s.k;
      for (let k = 0; k < s.k; k++) dw[row + k] += v * dy[output * s.k + k];
    }
  });
  return dw;
}
