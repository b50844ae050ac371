import { ShapeError } from "../../errors.js";
import { channelSum } from "../../kernels/channelSum.js";
import { pconvForward } from "../../kernels/pconvForward.js";
import { convOutputSize, type ConvShape, vec4s } from "../../kernels/shape.js";
import type { Tape } from "../tape.js";
import { shapeText, type Tensor } from "../tensor.js";
import { convGradients } from "./convGradients.js";

/** Geometry as in PyTorch's `Conv2d`; pairs are [height, width]. */
export interface Conv2dOptions {
  readonly stride: readonly [number, number];
  readonly padding: readonly [number, number];
  readonly dilation: readonly [number, number];
}

/** @throws {ShapeError} when the weight does not fit the channels. */
export function convShape(where: string, x: Tensor, weight: Tensor, o: Conv2dOptions): ConvShape {
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
 * Ordinary 2D convolution of [n,h,w,c] with a weight [kh,kw,c,k]: y = W * x + b;
 * dx = W^T * dy,  dw = x (corr) dy,  db = sum(dy).
 * @throws {ShapeError} when channels or window do not fit.
 */
export function conv2d(tape: Tape, x: Tensor, weight: Tensor, bias: Tensor | null, options: Conv2dOptions): Tensor {
  const s = convShape("conv2d", x, weight, options);
  const [p, q] = convOutputSize("conv2d", s);
  const y = tape.alloc({ n: s.n, h: p, w: q, c: s.k }, "conv2d");
  pconvForward(tape.gpu, s, { x: x.storage, weight: weight.storage, bias: bias?.storage, y: y.storage });

  const saved = weight.requiresGrad ? [x] : [];
  return tape.record("conv2d", bias ? [x, weight, bias] : [x, weight], y, saved, (dy) => {
    const { dx, dw } = convGradients(tape, "conv2d", s, x, weight, dy);
    let db: Tensor | null = null;
    if (bias?.requiresGrad) {
      db = tape.alloc(bias.shape, "conv2d.db");
      channelSum(tape.gpu, dy.shape, { x: dy.storage, sum: db.storage });
    }
    return [dx, dw, db];
  });
}
