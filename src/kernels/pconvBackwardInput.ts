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
 * Backends: `gather.ts` and its neighbours in `conv/`.
 */
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";
import { type ConvAlgorithm, convolve } from "./conv/engine.js";
import { forEachTap } from "./pconvForward.js";
import type { ConvShape } from "./shape.js";
import type { PixelMask } from "./slabs.js";

/** What {@link pconvBackwardInput} reads and writes. */
export interface PConvBackwardInputBuffers {
  readonly dy: Storage;
  readonly weightT: Storage;
  readonly dx: Storage;
  /** Mask of x: tiles without a valid pixel are zeros. */
  readonly live?: PixelMask | undefined;
  /** As in `PConvForwardBuffers`. */
  readonly constantWeight?: boolean | undefined;
}

/** Records one input gradient. */
export function pconvBackwardInput(
  gpu: Gpu,
  s: ConvShape,
  b: PConvBackwardInputBuffers,
  algorithm?: ConvAlgorithm,
): void {
  const { dy, weightT, dx, live, constantWeight } = b;
  const buffers = { src: dy, weight: weightT, dst: dx, live, constantWeight };
  convolve(gpu, s, "backwardInput", buffers, {}, algorithm);
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
