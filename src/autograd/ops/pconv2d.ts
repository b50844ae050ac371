import type { Storage } from "../../gpu/pool.js";
import { activationBackward } from "../../kernels/activation.js";
import { batchNormFolded } from "../../kernels/batchNormFold.js";
import { channelSum } from "../../kernels/channelSum.js";
import type { PConvConvention } from "../../kernels/maskUpdate.js";
import { pixelScale } from "../../kernels/pixelScale.js";
import type { Tape } from "../tape.js";
import type { Mask, MaskRatio, Tensor } from "../tensor.js";
import { checkSlope } from "./activation.js";
import type { Conv2dOptions } from "./conv2d.js";
import { type BatchNormOptions, type BatchNormTensors, normalize, normalizeBackward, statistics } from "./normalize.js";
import { type MaskedSource, type PConvSums, sumsOf, sumsOfTwo, sumsSize } from "./pconvSums.js";

/** The layer's convention, beside its geometry. */
export interface PConvRule {
  readonly convention: PConvConvention;
  /** S counts every channel of the mask (the paper); false: one shared channel, NVIDIA's `multi_channel=False`. */
  readonly multiChannel: boolean;
}

/** What follows the convolution in one level of a network; fused with it. */
export interface PConvTail {
  /** Batch norm over the new mask's valid pixels or all, with exact zeros in its holes. */
  readonly batchNorm?: { readonly tensors: BatchNormTensors; readonly options: BatchNormOptions } | null;
  /** Activation max(v, 0) + slope min(v, 0): 0 is ReLU; none by default. A slope of an activation is 0 or positive. */
  readonly slope?: number | undefined;
  /** The result is an image: float32 on every tape. */
  readonly image?: boolean | undefined;
}

export interface PConv2dOptions extends Conv2dOptions, PConvRule, PConvTail {}

type Normalized = NonNullable<PConvTail["batchNorm"]>;

interface Layer {
  readonly sums: PConvSums;
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  readonly ratio: MaskRatio;
  /** Precision of the result. */
  readonly half: boolean;
}

/** Sums, ratio and bias into a new tensor. */
function convolve(tape: Tape, { sums, bias, ratio, half }: Layer, slope?: number): Tensor {
  const [h, w] = sumsSize(sums);
  const y = tape.alloc({ n: sums.shape.n, h, w, c: sums.shape.k }, "pconv2d", half);
  sums.forward(tape.gpu, { y: y.storage, bias: bias?.storage, ratio, slope });
  return y;
}

/** Gradient of the bias: sum(dy * biasScale). */
function biasGradient(tape: Tape, { bias, ratio }: Layer, dy: Tensor): Tensor | null {
  if (!bias?.requiresGrad) return null;
  const db = tape.alloc(bias.shape, "pconv2d.db");
  channelSum(tape.gpu, dy.shape, { x: dy.storage, weight: ratio.biasScale, sum: db.storage }, ratio.n);
  return db;
}

/** g = scale * f'(v) * dy, the gradient of the bare sums. */
function sumsGradient(tape: Tape, { ratio }: Layer, dy: Tensor, activated?: { y: Storage; slope: number }): Tensor {
  const g = tape.like(dy, "pconv2d.g");
  pixelScale(tape.gpu, dy.shape, ratio.n, { dy: dy.storage, scale: ratio.scale, activated, g: g.storage });
  return g;
}

/** y = f(scale sums + biasScale b). */
function withActivation(tape: Tape, layer: Layer, slope: number | undefined): Tensor {
  const { sums, weight, bias, ratio } = layer;
  const y = convolve(tape, layer, slope);
  const inputs = [...sums.sources, weight, ...(bias ? [bias] : [])];
  const saved = [...(weight.requiresGrad ? sums.sources : []), ...(slope === undefined ? [] : [y])];
  return tape.record("pconv2d", inputs, y, saved, (dy) => {
    let dv = dy;
    if (bias?.requiresGrad && slope !== undefined) {
      dv = tape.like(dy, "pconv2d.dv");
      const buffers = { y: y.storage, dy: dy.storage, dx: dv.storage };
      activationBackward(tape.gpu, "leakyRelu", { vec4s: y.vec4s, slope }, buffers);
    }
    const fused = dv === dy && slope !== undefined ? { y: y.storage, slope } : undefined;
    const g = sumsGradient(tape, layer, dv, fused);
    const { dx, dw } = sums.backward(g, ratio);
    const db = biasGradient(tape, layer, dv);
    tape.release(g.storage);
    if (dv !== dy) tape.release(dv.storage);
    return [...dx, dw, db];
  });
}

/**
 * The same where nothing asks for a gradient and the statistics are fixed: batch norm is then a gain and a bias of each channel, and needs
 * no pass of its own.
 */
function withFoldedBatchNorm(tape: Tape, layer: Layer, batchNorm: Normalized, slope: number | undefined): Tensor {
  const { sums, bias, ratio, half } = layer;
  const { gamma, beta, runningMean, runningVar } = batchNorm.tensors;
  const { k } = sums.shape;
  const constants = {
    runningMean: runningMean.storage,
    runningVar: runningVar.storage,
    gamma: gamma.storage,
    beta: beta.storage,
    bias: bias?.storage,
  };
  const [h, w] = sumsSize(sums);
  const y = tape.alloc({ n: sums.shape.n, h, w, c: k }, "pconv2d", half);
  tape.gpu.derived(batchNormFolded(tape.gpu, { c: k, eps: batchNorm.options.eps }, constants), true, (folded) => {
    sums.forward(tape.gpu, { y: y.storage, bias: folded, gained: true, ratio, slope });
  });
  return tape.record("pconv2d", sums.sources, y, [], () => {
    throw new Error("pconv2d: expected no gradient through a folded batch norm");
  });
}

/** Whether {@link withFoldedBatchNorm} gives the same: holes must be zeros and the ratio's mask without fractions. */
function isFoldable(tape: Tape, layer: Layer, { tensors, options }: Normalized, convention: PConvConvention): boolean {
  const { sums, weight, bias, ratio } = layer;
  if (options.mode !== "fixed" || options.holes !== "zero" || !ratio.mask.binary || convention === "keras")
    return false;
  const inputs = [...sums.sources, weight, ...(bias ? [bias] : []), tensors.gamma, tensors.beta];
  return !tape.options.grad || inputs.every((t) => !t.requiresGrad);
}

/**
 * y = f(batchNorm(scale sums + biasScale b)). What stands between convolution and batch norm is kept for the backward pass, or
 * with `checkpoint` computed again there: the same passes over the same numbers, and so the same bits.
 */
function withBatchNorm(tape: Tape, layer: Layer, batchNorm: Normalized, slope = 1): Tensor {
  const { sums, weight, bias, ratio } = layer;
  const { tensors, options } = batchNorm;
  // The ratio is 0 exactly in the holes of the new mask: it serves as their mask, and as the factor of the gradient.
  const n = { tensors, options, valid: { mask: ratio.scale, n: ratio.n }, slope };
  const z = convolve(tape, layer);
  const stats = statistics(tape, z, n);
  const y = normalize(tape, z, stats, n);
  const inputs = [...sums.sources, weight, ...(bias ? [bias] : []), tensors.gamma, tensors.beta];
  const { checkpoint = false } = tape.options;
  if (checkpoint) tape.release(z.storage);
  const saved = [...(weight.requiresGrad || checkpoint ? sums.sources : []), ...(checkpoint ? [] : [z.storage]), stats];
  return tape.record("pconv2d", inputs, y, saved, (dy) => {
    const scaled = !bias?.requiresGrad;
    const again = checkpoint ? convolve(tape, layer) : z;
    const { dx: dz, dgamma, dbeta } = normalizeBackward(tape, again, stats, n, dy, scaled);
    if (checkpoint) tape.release(again.storage);
    const g = scaled ? dz : sumsGradient(tape, layer, dz);
    const db = biasGradient(tape, layer, dz);
    const { dx, dw } = sums.backward(g, ratio);
    if (g !== dz) tape.release(g.storage);
    tape.release(dz.storage);
    return [...dx, dw, ...(bias ? [db] : []), dgamma, dbeta];
  });
}

function finish(
  tape: Tape,
  sums: PConvSums,
  weight: Tensor,
  bias: Tensor | null,
  o: PConvRule & PConvTail,
): { y: Tensor; mask: Mask } {
  checkSlope("pconv2d", o.slope);
  const ratio = sums.ratio({ ...o, biased: bias !== null });
  const layer = { sums, weight, bias, ratio, half: tape.half && !o.image };
  const { batchNorm } = o;
  const folds = batchNorm && isFoldable(tape, layer, batchNorm, o.convention);
  const record = folds ? withFoldedBatchNorm : withBatchNorm;
  const y = batchNorm ? record(tape, layer, batchNorm, o.slope) : withActivation(tape, layer, o.slope);
  // With PConv-Keras' convention the bias fills the holes; batch norm empties them again if it is asked to.
  const empty = batchNorm ? batchNorm.options.holes === "zero" : !bias || o.convention !== "keras";
  if (empty) y.zeroUnder = ratio.mask;
  return { y, mask: ratio.mask };
}

/**
 * Partial convolution (Liu et al. 2018, eq. 1-2): y = (W * (x.M)) sum(1)/sum(M) + b where any input is valid, else 0, and the
 * new mask; then batch norm and activation where the options ask for them. Without a mask every pixel inside the image is
 * valid and only the padding is hole ("partial convolution based padding", Liu et al. 2018b); x is then used as it is.
 * @throws {ShapeError} when channels, window or mask do not fit, or the slope is negative.
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
 * @throws {ShapeError} when the sizes, channels or masks do not fit, or the slope is negative.
 */
export function pconv2dUp(
  tape: Tape,
  low: MaskedSource,
  skip: MaskedSource,
  order: "up-skip" | "skip-up",
  weight: Tensor,
  bias: Tensor | null,
  options: PConvRule & PConvTail,
): { y: Tensor; mask: Mask } {
  return finish(tape, sumsOfTwo(tape, low, skip, order, weight), weight, bias, options);
}
