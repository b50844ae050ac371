/**
 * Convolution, gradient with respect to the input.
 *
 *   dx[n,y,x,c] = sum_{i,j,k} weight[i,j,c,k] * dy[n, (y+pad-i*d)/s, (x+pad-j*d)/s, k]     over taps where both divide
 *
 * For a partial convolution dy is first multiplied by the layer's `scale` (kernel `pixelScale`), and dx by the mask.
 *
 * Source: transpose of pconvForward in x.
 * Layout: dy [N,P,Q,K], weightT [kh,kw,K,C] (kernel `transposeWeight`) -> dx [N,H,W,C]; channels padded to 4.
 * @throws ShapeError when the window does not fit.
 *
 * Versions: `simple` and `tile` as in pconvForward; pixels of a tile belong to one parity class of the stride.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { CONV_PARAMS, convOutputSize, convParams, type ConvShape, vec4s } from "./shape.js";
import { type ConvVariant, TILE_PARAMS, tileMain, tileParams, tileOf, type TileSpec } from "./convTile.js";
import { forEachTap } from "./pconvForward.js";

export const pconvBackwardInputKernel = defineKernel({
  name: "pconvBackwardInput",
  params: { ...CONV_PARAMS, ...TILE_PARAMS },
  bindings: ["read", "read", "read_write"],
  wgsl: (spec: TileSpec) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> src: array<vec4f>;          // dy [N,P,Q,K]
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;       // [kh,kw,K,C], transposed
@group(0) @binding(3) var<storage, read_write> dst: array<vec4f>;    // dx [N,H,W,C]

fn store(n: u32, y: u32, x: u32, c: u32, sum: vec4f) {
  dst[((n * p.h + y) * p.w + x) * p.c4 + c] = sum;
}
${tileMain(spec, { source: ["p", "q", "k4"], output: ["h", "w", "c4"], direction: "backwardInput" })}
`,
});

export interface PConvBackwardInputBuffers {
  readonly dy: Storage;
  readonly weightT: Storage;
  readonly dx: Storage;
}

/** Records one input gradient. */
export function pconvBackwardInput(
  gpu: Gpu,
  s: ConvShape,
  b: PConvBackwardInputBuffers,
  variant: ConvVariant = "tile",
): void {
  const size = convOutputSize("pconvBackwardInput", s);
  const spec = tileOf(variant, vec4s(s.c));
  const tiles = tileParams(spec, s.n, s.h, s.w, vec4s(s.c), s.stride[1]);
  gpu.dispatch(
    pconvBackwardInputKernel,
    spec,
    { ...convParams(s, size), ...tiles },
    [b.dy, b.weightT, b.dx],
    linearGrid(tiles.items),
  );
}

/** The same in float64, channels unpadded; `weight` is not transposed. `only` restricts it to outputs that touch chosen inputs. */
export function pconvBackwardInputRef(
  s: ConvShape,
  dy: ArrayLike<number>,
  weight: ArrayLike<number>,
  only?: (input: number) => boolean,
): Float64Array {
  const dx = new Float64Array(s.n * s.h * s.w * s.c);
  forEachTap(s, (output, input, tap) => {
    if (only && !only(input)) return;
    for (let c = 0; c < s.c; c++) {
      const row = (tap * s.c + c) * s.k;
      let sum = 0;
      for (let k = 0; k < s.k; k++) sum += weight[row + k] * dy[output * s.k + k];
      dx[input * s.c + c] += sum;
    }
  });
  return dx;
}
