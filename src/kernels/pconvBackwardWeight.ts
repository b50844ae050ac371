/**
 * Convolution, gradient with respect to the weight.
 *
 *   dw[i,j,c,k] = sum_{n,p,q} x[n, p*s+i*d-pad, q*s+j*d-pad, c] * dy[n,p,q,k]
 *
 * For a partial convolution x holds zeros in holes and dy is first multiplied by the layer's `scale`.
 *
 * Source: transpose of pconvForward in weight.
 * Layout: x [N,H,W,C], dy [N,P,Q,K] -> dw [kh,kw,C,K]; channels padded to 4.
 * @throws ShapeError when the window does not fit.
 *
 * Backends: `weightPass.ts` and its neighbours in `conv/`.
 */
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";
import { type ConvAlgorithm, convolveWeight } from "./conv/engine.js";
import { forEachTap } from "./pconvForward.js";
import type { ConvShape } from "./shape.js";
import type { PixelMask } from "./slabs.js";

/** What {@link pconvBackwardWeight} reads and writes. */
export interface PConvBackwardWeightBuffers {
  readonly x: Storage;
  readonly dy: Storage;
  readonly dw: Storage;
  /** Where this is 0, dy is known to be 0 and is not read: the layer's `scale`. */
  readonly live?: PixelMask | undefined;
}

/** Records one weight gradient; partial sums live in a buffer that is back in the pool when this returns. */
export function pconvBackwardWeight(
  gpu: Gpu,
  s: ConvShape,
  b: PConvBackwardWeightBuffers,
  algorithm?: ConvAlgorithm,
): void {
  convolveWeight(gpu, s, b, algorithm);
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
