import { ShapeError } from "../../errors.js";
import { channelSum } from "../../kernels/channelSum.js";
import { type PConvConvention, maskUpdate } from "../../kernels/maskUpdate.js";
import { pconvForward } from "../../kernels/pconvForward.js";
import { pixelScale } from "../../kernels/pixelScale.js";
import { convOutputSize, type ConvShape } from "../../kernels/shape.js";
import type { Tape } from "../tape.js";
import type { Mask, MaskRatio, Tensor } from "../tensor.js";
import { type Conv2dOptions, convShape } from "./conv2d.js";
import { convGradients } from "./convGradients.js";
import { maskMultiply } from "./maskMultiply.js";

export interface PConv2dOptions extends Conv2dOptions {
  readonly convention: PConvConvention;
  /** S counts every channel of the mask (the paper); false: one shared channel, NVIDIA's `multi_channel=False`. */
  readonly multiChannel: boolean;
}

/**
 * y = ratio.scale * (W * x) + ratio.biasScale * b. With g = dy * scale: dx = W^T * g,  dw = x (corr) g,  db = sum(dy * biasScale).
 */
function convolve(tape: Tape, s: ConvShape, x: Tensor, weight: Tensor, bias: Tensor | null, ratio: MaskRatio): Tensor {
  const { gpu } = tape;
  const [p, q] = convOutputSize("pconv2d", s);
  const y = tape.alloc({ n: s.n, h: p, w: q, c: s.k }, "pconv2d");
  pconvForward(gpu, s, { x: x.storage, weight: weight.storage, bias: bias?.storage, ratio, y: y.storage });

  // dx is wanted where x is not a hole: what made x has no use for the rest.
  const { zeroUnder } = x;
  const liveX = zeroUnder?.groups === 1 ? { mask: zeroUnder.storage, n: zeroUnder.n } : undefined;
  const liveY = { mask: ratio.scale, n: ratio.n };
  const saved = weight.requiresGrad ? [x] : [];
  return tape.record("pconv2d", bias ? [x, weight, bias] : [x, weight], y, saved, (dy) => {
    const g = tape.alloc(dy.shape, "pconv2d.g");
    pixelScale(gpu, dy.shape, ratio.n, { x: dy.storage, scale: ratio.scale, y: g.storage });
    const { dx, dw } = convGradients(tape, "pconv2d", s, x, weight, g, { liveX, liveY });
    tape.release(g.storage);
    let db: Tensor | null = null;
    if (bias?.requiresGrad) {
      db = tape.alloc(bias.shape, "pconv2d.db");
      channelSum(gpu, dy.shape, { x: dy.storage, weight: ratio.biasScale, sum: db.storage }, ratio.n);
    }
    return [dx, dw, db];
  });
}

/** The ratio and new mask of a layer; computed once per tape, mask and geometry. */
function ratioOf(tape: Tape, mask: Mask, s: ConvShape, o: PConv2dOptions, biased: boolean): MaskRatio {
  const counted = o.multiChannel ? mask.channelsFor("pconv2d", s.c) : [1];
  const key = JSON.stringify([s.kernel, s.stride, s.padding, s.dilation, o.convention, counted, biased]);
  const ofMask = tape.ratios.get(mask) ?? new Map<string, MaskRatio>();
  const known = ofMask.get(key);
  if (known) return known;
  if (!o.multiChannel && mask.groups !== 1) {
    throw new ShapeError(
      "pconv2d",
      `expected one mask group without multiChannel, got ${mask.groups}`,
      "set multiChannel",
    );
  }
  const shape = { ...s, n: mask.n, c: mask.groups, k: 1, channels: counted.reduce((a, b) => a + b, 0) };
  const [h, w] = convOutputSize("pconv2d", s);
  // u = clamp(S, 0, 1) of fractions may be a fraction; of integers it is not.
  const out = tape.allocMask({ n: mask.n, h, w }, null, mask.binary || o.convention === "pytorch");
  const scale = tape.storage(mask.n * h * w * 4, "pconv2d.scale");
  const biasScale = tape.storage(mask.n * h * w * 4, "pconv2d.biasScale");
  maskUpdate(
    tape.gpu,
    shape,
    { convention: o.convention, biased },
    { mask: mask.storage, weight: tape.gpu.constant(counted), scale, biasScale, maskOut: out.storage },
  );
  const ratio = { scale, biasScale, n: mask.n, mask: out };
  tape.ratios.set(mask, ofMask.set(key, ratio));
  return ratio;
}

/**
 * Partial convolution (Liu et al. 2018, eq. 1-2): y = (W * (x.M)) sum(1)/sum(M) + b where any input is valid, else 0, and the
 * new mask. Without a mask every pixel inside the image is valid and only the padding is hole ("partial convolution based
 * padding", Liu et al. 2018b); x is then used as it is.
 * @throws {ShapeError} when channels, window or mask do not fit.
 */
export function pconv2d(
  tape: Tape,
  x: Tensor,
  mask: Mask | null,
  weight: Tensor,
  bias: Tensor | null,
  options: PConv2dOptions,
): { y: Tensor; mask: Mask } {
  const s = convShape("pconv2d", x, weight, options);
  const valid = mask ?? tape.uploadMask({ n: 1, h: s.h, w: s.w }, new Float32Array(s.h * s.w).fill(1));
  const masked = mask ? maskMultiply(tape, x, mask) : x;
  const ratio = ratioOf(tape, valid, s, options, bias !== null);
  const y = convolve(tape, s, masked, weight, bias, ratio);
  // With PConv-Keras' convention the bias fills the holes.
  if (!bias || options.convention !== "keras") y.zeroUnder = ratio.mask;
  return { y, mask: ratio.mask };
}
