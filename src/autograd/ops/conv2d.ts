import { ShapeError } from "../../errors.js";
import { channelSum } from "../../kernels/channelSum.js";
import { type PConvConvention, maskUpdate } from "../../kernels/maskUpdate.js";
import { pconvBackwardInput } from "../../kernels/pconvBackwardInput.js";
import { pconvBackwardWeight } from "../../kernels/pconvBackwardWeight.js";
import { pconvForward } from "../../kernels/pconvForward.js";
import { pixelScale } from "../../kernels/pixelScale.js";
import { convOutputSize, type ConvShape, vec4s } from "../../kernels/shape.js";
import { transposeWeight } from "../../kernels/transposeWeight.js";
import type { Tape } from "../tape.js";
import type { Mask, Tensor } from "../tensor.js";
import { type MaskRatio, shapeText } from "../tensor.js";
import { maskMultiply } from "./maskMultiply.js";

/** Geometry as in PyTorch's `Conv2d`; pairs are [height, width]. */
export interface Conv2dOptions {
  readonly stride: readonly [number, number];
  readonly padding: readonly [number, number];
  readonly dilation: readonly [number, number];
}

export interface PConv2dOptions extends Conv2dOptions {
  readonly convention: PConvConvention;
  /** S counts every channel of the mask (the paper); false: one shared channel, NVIDIA's `multi_channel=False`. */
  readonly multiChannel: boolean;
}

function convShape(where: string, x: Tensor, weight: Tensor, o: Conv2dOptions): ConvShape {
  const { n: kh, h: kw, w: ci, c: k } = weight.shape;
  if (ci !== 4 * vec4s(x.shape.c)) {
    throw new ShapeError(
      where,
      `expected a weight for ${x.shape.c} input channels, got one of ${shapeText(weight.shape)}`,
      "use a layer made for that number of channels",
    );
  }
  return { ...x.shape, k, kernel: [kh, kw], stride: o.stride, padding: o.padding, dilation: o.dilation };
}

/**
 * y = ratio.scale * (W * x) + ratio.biasScale * b, without a ratio an ordinary convolution. With g = dy * scale:
 * dx = W^T * g,  dw = x (corr) g,  db = sum(dy * biasScale).
 */
function convolve(
  tape: Tape,
  s: ConvShape,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  ratio: MaskRatio | undefined,
): Tensor {
  const { gpu } = tape;
  const name = ratio ? "pconv2d" : "conv2d";
  const [p, q] = convOutputSize(name, s);
  const y = tape.alloc({ n: s.n, h: p, w: q, c: s.k }, name);
  pconvForward(gpu, s, { x: x.storage, weight: weight.storage, bias: bias?.storage, ratio, y: y.storage });

  const saved = weight.requiresGrad ? [x] : [];
  return tape.record(name, bias ? [x, weight, bias] : [x, weight], y, saved, (dy) => {
    let g = dy;
    if (ratio) {
      g = tape.alloc(dy.shape, `${name}.g`);
      pixelScale(gpu, dy.shape, ratio.n, { x: dy.storage, scale: ratio.scale, y: g.storage });
    }
    let dx: Tensor | null = null;
    if (x.requiresGrad) {
      dx = tape.alloc(x.shape, `${name}.dx`);
      const weightT = tape.storage(weight.storage.bytes, `${name}.weightT`); // both channel counts are padded: equal sizes
      transposeWeight(gpu, s, weight.storage, weightT);
      pconvBackwardInput(gpu, s, { dy: g.storage, weightT, dx: dx.storage });
      tape.release(weightT);
    }
    let dw: Tensor | null = null;
    if (weight.requiresGrad) {
      dw = tape.alloc(weight.shape, `${name}.dw`);
      pconvBackwardWeight(gpu, s, { x: x.storage, dy: g.storage, dw: dw.storage });
    }
    let db: Tensor | null = null;
    if (bias?.requiresGrad) {
      db = tape.alloc(bias.shape, `${name}.db`);
      channelSum(gpu, dy.shape, { x: dy.storage, weight: ratio?.biasScale, sum: db.storage }, ratio?.n);
    }
    if (g !== dy) tape.release(g.storage);
    return [dx, dw, db];
  });
}

/**
 * Ordinary 2D convolution of [n,h,w,c] with a weight [kh,kw,c,k].
 * @throws {ShapeError} when channels or window do not fit.
 */
export function conv2d(tape: Tape, x: Tensor, weight: Tensor, bias: Tensor | null, options: Conv2dOptions): Tensor {
  return convolve(tape, convShape("conv2d", x, weight, options), x, weight, bias, undefined);
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
