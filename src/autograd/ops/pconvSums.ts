/**
 * The bare sums W * (x.M) of a partial convolution, from one source or from the two of a decoder level: how they are
 * computed, and how the gradients of sources and weight follow from g, the gradient of the sums.
 */
import { ShapeError } from "../../errors.js";
import type { Gpu } from "../../gpu/gpu.js";
import type { Storage } from "../../gpu/pool.js";
import { pconvForward } from "../../kernels/pconvForward.js";
import { pconvUpBackward, pconvUpForward, type UpShape } from "../../kernels/pconvUp.js";
import { convOutputSize, type ConvShape, vec4s } from "../../kernels/shape.js";
import type { Tape } from "../tape.js";
import { type Mask, type MaskRatio, shapeText, type Tensor } from "../tensor.js";
import { type Conv2dOptions, convShape } from "./conv2d.js";
import { convGradients, isConstant, type Live } from "./convGradients.js";
import { maskMultiply } from "./maskMultiply.js";
import { pconvRatio, pconvRatioUp, type RatioOptions } from "./pconvRatio.js";

/** What the layer does with the sums: y = f(scale sums + biasScale bias), f(v) = max(v, 0) + slope min(v, 0). */
export interface SumsTarget {
  readonly y: Storage;
  /** [K], or where it is `gained` [2,K]: bias, then a gain that the sums are multiplied by. */
  readonly bias: Storage | undefined;
  readonly gained?: boolean;
  readonly ratio: MaskRatio;
  readonly slope: number | undefined;
}

export interface PConvSums {
  /** The convolution as one layer over all its channels; decides output size and ratio. */
  readonly shape: ConvShape;
  readonly sources: readonly Tensor[];
  /** Ratio and new mask, from the masks of all sources together. */
  ratio(options: RatioOptions): MaskRatio;
  forward(gpu: Gpu, target: SumsTarget): void;
  /** Gradients of the sources, in order, and of the weight, each where it is wanted. */
  backward(g: Tensor, ratio: MaskRatio): { readonly dx: readonly (Tensor | null)[]; readonly dw: Tensor | null };
}

/** What made x has no use for its gradient in holes: there dx is not wanted. */
const wanted = ({ zeroUnder }: Tensor): Live | undefined =>
  zeroUnder?.groups === 1 && !zeroUnder.uniform ? { mask: zeroUnder.storage, n: zeroUnder.n } : undefined;

/** Pixels of the output that are no holes, where there may be holes. */
const liveOutputs = ({ mask, scale, n }: MaskRatio): Live | undefined =>
  mask.uniform ? undefined : { mask: scale, n };

/** One source. Without a mask every pixel inside the image is valid and x is used as it is. */
export function sumsOf(tape: Tape, x: Tensor, mask: Mask | null, weight: Tensor, options: Conv2dOptions): PConvSums {
  const shape = convShape("pconv2d", x, weight, options);
  const valid = mask ?? tape.uploadMask({ n: 1, h: shape.h, w: shape.w }, new Float32Array(shape.h * shape.w).fill(1));
  const source = mask ? maskMultiply(tape, x, mask) : x;
  const constantWeight = isConstant(tape, weight);
  return {
    shape,
    sources: [source],
    ratio: (o) => pconvRatio(tape, valid, shape, o),
    forward: (gpu, target) =>
      pconvForward(gpu, shape, { x: source.storage, weight: weight.storage, constantWeight, ...target }),
    backward(g, ratio) {
      const live = { liveX: wanted(source), liveY: liveOutputs(ratio) };
      const { dx, dw } = convGradients(tape, "pconv2d", shape, source, weight, g, live);
      return { dx: [dx], dw };
    },
  };
}

/** One source of a decoder level and its mask. */
export interface MaskedSource {
  readonly x: Tensor;
  readonly mask: Mask;
}

/**
 * The two sources of a decoder level: 3x3 over [upsample(low), skip] or the other order, without either tensor (see `pconvUp`).
 * @throws {ShapeError} when the sizes, channels or masks do not fit.
 */
export function sumsOfTwo(
  tape: Tape,
  low: MaskedSource,
  skip: MaskedSource,
  order: "up-skip" | "skip-up",
  weight: Tensor,
): PConvSums {
  const { n, h, w, c } = skip.x.shape;
  if (low.x.shape.n !== n || 2 * low.x.shape.h !== h || 2 * low.x.shape.w !== w) {
    throw new ShapeError(
      "pconv2dUp",
      `expected a skip source of twice the size, got ${shapeText(low.x.shape)} and ${shapeText(skip.x.shape)}`,
      "check the levels",
    );
  }
  const { n: kh, h: kw, w: ci, c: k } = weight.shape;
  const channels = low.x.shape.c + c;
  if (kh !== 3 || kw !== 3 || ci !== 4 * vec4s(channels)) {
    throw new ShapeError(
      "pconv2dUp",
      `expected a 3x3 weight for ${channels} input channels, got one of ${shapeText(weight.shape)}`,
      "use a layer made for that number of channels",
    );
  }
  const [lowX, skipX] = [maskMultiply(tape, low.x, low.mask), maskMultiply(tape, skip.x, skip.mask)];
  const up: UpShape = { n, h, w, low: low.x.shape.c, skip: c, k, lowFirst: order === "up-skip" };
  const one = [1, 1] as const;
  const shape: ConvShape = { n, h, w, c: channels, k, kernel: [3, 3], stride: one, padding: one, dilation: one };
  const masks = [low, skip].map(({ x, mask }) => ({ mask, channels: x.shape.c }));
  return {
    shape,
    sources: [lowX, skipX],
    ratio: (o) => pconvRatioUp(tape, masks[0], masks[1], order, shape, o),
    forward: (gpu, target) =>
      pconvUpForward(gpu, up, {
        low: lowX.storage,
        skip: skipX.storage,
        weight: weight.storage,
        constantWeight: isConstant(tape, weight),
        live: liveOutputs(target.ratio),
        ...target,
      }),
    backward(g, ratio) {
      const gradient = (x: Tensor) => (x.requiresGrad ? tape.like(x, "pconv2dUp.dx") : null);
      const [dLow, dSkip] = [gradient(lowX), gradient(skipX)];
      const dw = weight.requiresGrad ? tape.alloc(weight.shape, "pconv2dUp.dw") : null;
      pconvUpBackward(tape.gpu, up, {
        g: g.storage,
        low: lowX.storage,
        skip: skipX.storage,
        weight: weight.storage,
        dLow: dLow?.storage,
        dSkip: dSkip?.storage,
        dw: dw?.storage,
        liveLow: wanted(lowX),
        liveSkip: wanted(skipX),
        liveY: liveOutputs(ratio),
      });
      return { dx: [dLow, dSkip], dw };
    },
  };
}

/** Height and width of the output. */
export const sumsSize = (s: PConvSums): readonly [number, number] => convOutputSize("pconv2d", s.shape);
