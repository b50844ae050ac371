import { channelSum } from "../../kernels/channelSum.js";
import { pixelScale } from "../../kernels/pixelScale.js";
import type { PConvConvention } from "../../kernels/maskUpdate.js";
import type { Tape } from "../tape.js";
import type { Mask, Tensor } from "../tensor.js";
import type { Conv2dOptions } from "./conv2d.js";
import { pconvRatio } from "./pconvRatio.js";
import { type MaskedSource, type PConvSums, sumsOf, sumsOfTwo, sumsSize } from "./pconvSums.js";

/** The layer's convention, beside its geometry. */
export interface PConvRule {
  readonly convention: PConvConvention;
  /** S counts every channel of the mask (the paper); false: one shared channel, NVIDIA's `multi_channel=False`. */
  readonly multiChannel: boolean;
}

export interface PConv2dOptions extends Conv2dOptions, PConvRule {}

/**
 * y = scale sums + biasScale b. With g = dy * scale the gradient of the sums; db = sum(dy * biasScale).
 */
function finish(
  tape: Tape,
  sums: PConvSums,
  weight: Tensor,
  bias: Tensor | null,
  rule: PConvRule,
): { y: Tensor; mask: Mask } {
  const { gpu } = tape;
  const ratio = pconvRatio(tape, sums.mask, sums.shape, { ...rule, biased: bias !== null });
  const [h, w] = sumsSize(sums);
  const y = tape.alloc({ n: sums.shape.n, h, w, c: sums.shape.k }, "pconv2d");
  sums.forward(gpu, { y: y.storage, bias: bias?.storage, ratio });
  // With PConv-Keras' convention the bias fills the holes.
  if (!bias || rule.convention !== "keras") y.zeroUnder = ratio.mask;

  const inputs = [...sums.sources, weight, ...(bias ? [bias] : [])];
  const saved = weight.requiresGrad ? sums.sources : [];
  tape.record("pconv2d", inputs, y, saved, (dy) => {
    const g = tape.alloc(dy.shape, "pconv2d.g");
    pixelScale(gpu, dy.shape, ratio.n, { x: dy.storage, scale: ratio.scale, y: g.storage });
    const { dx, dw } = sums.backward(g, ratio);
    tape.release(g.storage);
    let db: Tensor | null = null;
    if (bias?.requiresGrad) {
      db = tape.alloc(bias.shape, "pconv2d.db");
      channelSum(gpu, dy.shape, { x: dy.storage, weight: ratio.biasScale, sum: db.storage }, ratio.n);
    }
    return [...dx, dw, db];
  });
  return { y, mask: ratio.mask };
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
  return finish(tape, sumsOf(tape, x, mask, weight, options), weight, bias, options);
}

/**
 * A decoder level's partial convolution, 3x3 over `concat([upsampleNearest(low), skip])` (or the other order), equal to the three
 * ops in real arithmetic and without the tensors between them.
 * @throws {ShapeError} when the sizes, channels or masks do not fit.
 */
export function pconv2dUp(
  tape: Tape,
  low: MaskedSource,
  skip: MaskedSource,
  order: "up-skip" | "skip-up",
  weight: Tensor,
  bias: Tensor | null,
  rule: PConvRule,
): { y: Tensor; mask: Mask } {
  return finish(tape, sumsOfTwo(tape, low, skip, order, weight), weight, bias, rule);
}
