/**
 * Convolution and partial convolution, forward.
 *
 *   y[n,p,q,k] = scale[n,p,q] * sum_{i,j,c} weight[i,j,c,k] * x[n, p*s+i*d-pad, q*s+j*d-pad, c]  +  biasScale[n,p,q] * bias[k]
 *
 * Without a mask scale = biasScale = 1: an ordinary convolution. Outside the image x counts as 0.
 *
 * Source: Liu et al. 2018, eq. 1; scale and biasScale come from `maskUpdate`.
 * Layout: x [N,H,W,C], weight [kh,kw,C,K], bias [K], scale and biasScale [Nm,P,Q] (Nm = N or 1) -> y [N,P,Q,K]; channels padded to 4.
 * Units: x must hold exact zeros in holes, so that x*M = x and NaN under a hole never gets here (see `maskMultiply`).
 * @throws ShapeError when the window does not fit.
 *
 * Backends: `gather.ts` and its neighbours in `conv/`.
 */
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";
import { type ConvAlgorithm, convolve } from "./conv/engine.js";
import { convOutputSize, type ConvShape } from "./shape.js";
import type { PixelMask } from "./slabs.js";

/** What {@link pconvForward} reads and writes. */
export interface PConvForwardBuffers {
  readonly x: Storage;
  readonly weight: Storage;
  readonly y: Storage;
  readonly bias?: Storage | undefined;
  /** `bias` is [2,K], a bias and a gain: the sums are multiplied by the latter (see `batchNormFold`). Default false. */
  readonly gained?: boolean | undefined;
  /** What `maskUpdate` made; absent for an ordinary convolution. */
  readonly ratio?: { readonly scale: Storage; readonly biasScale: Storage; readonly n: number } | undefined;
  /** Pixels of y that are wanted, where not all are: [n,P,Q], not 0 there; `n` is the batch or 1. */
  readonly live?: PixelMask | undefined;
  /** What tiles of y without a live pixel hold instead, [N,P,Q,K]; needs `live`. */
  readonly base?: Storage | undefined;
  /** Fused activation of y: max(y, 0) + slope min(y, 0); 0 is ReLU. */
  readonly slope?: number | undefined;
  /** Nobody trains the weight: what is made of it is kept for the next time. Default false. */
  readonly constantWeight?: boolean | undefined;
}

/** Records one forward convolution. */
export function pconvForward(gpu: Gpu, s: ConvShape, b: PConvForwardBuffers, algorithm?: ConvAlgorithm): void {
  const { ratio, base, slope, gained = false, constantWeight } = b;
  // Where the ratio is 0 nothing was valid, and the sum is 0 whatever the weights are.
  const live = b.live ?? (ratio && { mask: ratio.scale, n: ratio.n });
  const buffers = { src: b.x, weight: b.weight, dst: b.y, bias: b.bias, scale: ratio, live, base, constantWeight };
  convolve(gpu, s, "forward", buffers, { slope, gained }, algorithm);
}

/** Loops over every (output, tap) pair inside the image; shared by the three references. */
export function forEachTap(
  s: ConvShape,
  visit: (output: number, input: number, tap: number) => void,
  only?: (output: number) => boolean,
): void {
  const [P, Q] = convOutputSize("pconv reference", s);
  for (let n = 0; n < s.n; n++)
    for (let p = 0; p < P; p++)
      for (let q = 0; q < Q; q++) {
        const output = (n * P + p) * Q + q;
        if (only && !only(output)) continue;
        for (let i = 0; i < s.kernel[0]; i++) {
          const y = p * s.stride[0] + i * s.dilation[0] - s.padding[0];
          if (y < 0 || y >= s.h) continue;
          for (let j = 0; j < s.kernel[1]; j++) {
            const x = q * s.stride[1] + j * s.dilation[1] - s.padding[1];
            if (x < 0 || x >= s.w) continue;
            visit(output, (n * s.h + y) * s.w + x, i * s.kernel[1] + j);
          }
        }
      }
}

export interface RatioRef {
  readonly scale: ArrayLike<number>;
  readonly biasScale: ArrayLike<number>;
  /** Batch of the mask: N or 1. */
  readonly n: number;
}

/**
 * The same equation in float64, channels unpadded. `only` restricts it to some output pixels (the others stay 0), so that large
 * layers can be checked on samples.
 */
export function pconvForwardRef(
  s: ConvShape,
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  bias: ArrayLike<number> | undefined,
  ratio?: RatioRef,
  only?: (output: number) => boolean,
): Float64Array {
  const [P, Q] = convOutputSize("pconvForward", s);
  const y = new Float64Array(s.n * P * Q * s.k);
  forEachTap(
    s,
    (output, input, tap) => {
      for (let c = 0; c < s.c; c++) {
        const v = x[input * s.c + c];
        const row = (tap * s.c + c) * s.k;
        for (let k = 0; k < s.k; k++) y[output * s.k + k] += weight[row + k] * v;
      }
    },
    only,
  );
  for (let output = 0; output < s.n * P * Q; output++) {
    if (only && !only(output)) continue;
    const at = output % ((ratio?.n ?? s.n) * P * Q);
    for (let k = 0; k < s.k; k++) {
      const scaled = y[output * s.k + k] * (ratio ? ratio.scale[at] : 1);
      y[output * s.k + k] = scaled + (bias ? bias[k] * (ratio ? ratio.biasScale[at] : 1) : 0);
    }
  }
  return y;
}
