import { ShapeError } from "../../errors.js";
import { activationBackwardInPlace } from "../../kernels/activation.js";
import { channelSum } from "../../kernels/channelSum.js";
import { pconvForward } from "../../kernels/pconvForward.js";
import { positiveBits, positiveBytes, positiveGate } from "../../kernels/positiveBits.js";
import { convOutputSize, type ConvShape, vec4s } from "../../kernels/shape.js";
import type { Storage } from "../../gpu/pool.js";
import type { Tape } from "../tape.js";
import { shapeText, type Tensor } from "../tensor.js";
import { checkSlope } from "./activation.js";
import { convGradients, isConstant, type Live } from "./convGradients.js";

/** Geometry as in PyTorch's `Conv2d`; pairs are [height, width]. */
export interface Conv2dOptions {
  readonly stride: readonly [number, number];
  readonly padding: readonly [number, number];
  readonly dilation: readonly [number, number];
}

/** A convolution most of whose result is known. */
export interface KnownElsewhere {
  /** Pixels of the result that are to be computed; the others equal `base`. */
  readonly live: Live;
  /** A constant of the result's shape, activation included. */
  readonly base: Tensor;
  /** Pixels of x whose gradient is wanted; elsewhere it is zero, or not to be relied on. */
  readonly liveX: Live;
}

export interface FusedConv2dOptions extends Conv2dOptions {
  /** Applies max(y, 0) + slope min(y, 0) to the result: 0 is ReLU. Without it there is no activation. */
  readonly slope?: number | undefined;
  /** The result is an image: float32 on every tape. */
  readonly image?: boolean | undefined;
  /** Where only part of the result needs computing; weight and bias must be constants then. */
  readonly known?: KnownElsewhere | undefined;
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

/** @throws {ShapeError} for options that the result or the parameters do not fit. */
function checkFused(o: FusedConv2dOptions, y: Tensor, parameters: readonly (Tensor | null)[]): void {
  checkSlope("conv2d", o.slope);
  if (!o.known) return;
  const { base } = o.known;
  if (base.requiresGrad || shapeText(base.shape) !== shapeText(y.shape)) {
    const got = `${shapeText(base.shape)}${base.requiresGrad ? " that requires a gradient" : ""}`;
    throw new ShapeError("conv2d", `expected a constant base of ${shapeText(y.shape)}, got ${got}`, "pass the result");
  }
  if (parameters.some((p) => p?.requiresGrad)) {
    throw new ShapeError(
      "conv2d",
      "expected constant weights with a known result, got some that require a gradient",
      "leave `known` out",
    );
  }
}

/** What the backward pass keeps of an activation's result, and the gradient in dy's place: dy is that op's alone. */
interface Gate {
  readonly saved: Tensor | Storage;
  apply(dy: Tensor): void;
}

/**
 * With trained weights the next layer keeps y anyway; with constant ones nobody does, and its signs are all that is needed.
 */
function gateOf(tape: Tape, y: Tensor, slope: number, trained: boolean): Gate {
  const { gpu } = tape;
  const s = { vec4s: y.vec4s, slope };
  if (trained) {
    const activation = slope === 0 ? "relu" : "leakyRelu";
    return {
      saved: y,
      apply: (dy) => activationBackwardInPlace(gpu, activation, s, { y: y.storage, gradient: dy.storage }),
    };
  }
  const bits = tape.storage(positiveBytes(y.vec4s), "conv2d.signs");
  positiveBits(gpu, y.vec4s, { y: y.storage, bits });
  return { saved: bits, apply: (dy) => positiveGate(gpu, s, { bits, gradient: dy.storage }) };
}

/**
 * Ordinary 2D convolution of [n,h,w,c] with a weight [kh,kw,c,k], and optionally an activation: y = act(W * x + b).
 * With g = dy act'(y): dx = W^T * g,  dw = x (corr) g,  db = sum(g).
 * @throws {ShapeError} when channels or window do not fit, or the options do not.
 */
export function conv2d(
  tape: Tape,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  options: FusedConv2dOptions,
): Tensor {
  const { gpu } = tape;
  const { slope, known } = options;
  const s = convShape("conv2d", x, weight, options);
  const [p, q] = convOutputSize("conv2d", s);
  const y = tape.alloc({ n: s.n, h: p, w: q, c: s.k }, "conv2d", tape.half && !options.image);
  checkFused(options, y, [weight, bias]);
  pconvForward(gpu, s, {
    x: x.storage,
    weight: weight.storage,
    bias: bias?.storage,
    y: y.storage,
    live: known?.live,
    base: known?.base.storage,
    slope,
    constantWeight: isConstant(tape, weight),
  });

  const inputs = bias ? [x, weight, bias] : [x, weight];
  const recorded = tape.options.grad && inputs.some((t) => t.requiresGrad);
  const gate = recorded && slope !== undefined ? gateOf(tape, y, slope, weight.requiresGrad) : null;
  const saved = [...(weight.requiresGrad ? [x] : []), ...(gate ? [gate.saved] : [])];
  return tape.record("conv2d", inputs, y, saved, (dy) => {
    gate?.apply(dy);
    const { dx, dw } = convGradients(tape, "conv2d", s, x, weight, dy, { liveX: known?.liveX });
    let db: Tensor | null = null;
    if (bias?.requiresGrad) {
      db = tape.alloc(bias.shape, "conv2d.db");
      channelSum(gpu, y.shape, { x: dy.storage, sum: db.storage });
    }
    return [dx, dw, db];
  });
}
