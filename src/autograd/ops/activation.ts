import { type Activation, activationBackward, activationForward } from "../../kernels/activation.js";
import { ShapeError } from "../../errors.js";
import type { Tape } from "../tape.js";
import type { Tensor } from "../tensor.js";

/**
 * The derivative is read from the sign of the result, which a negative slope would turn.
 * @throws {ShapeError} for a slope that is not 0 or above.
 */
export function checkSlope(where: string, slope: number | undefined): void {
  if (slope !== undefined && !(slope >= 0))
    throw new ShapeError(where, `expected a slope of at least 0, got ${slope}`, "pass 0 for ReLU");
}

function activation(tape: Tape, name: Activation, x: Tensor, slope: number): Tensor {
  const y = tape.like(x, name);
  activationForward(tape.gpu, name, { vec4s: x.vec4s, c: x.shape.c, slope }, { x: x.storage, y: y.storage });
  if (name !== "sigmoid") y.zeroUnder = x.zeroUnder; // relu and leakyRelu keep 0 at 0
  return tape.record(name, [x], y, [y], (dy) => {
    const dx = tape.like(x, `${name}.dx`);
    const buffers = { y: y.storage, dy: dy.storage, dx: dx.storage };
    activationBackward(tape.gpu, name, { vec4s: x.vec4s, slope }, buffers);
    return [dx];
  });
}

/** max(x, 0); the gradient at 0 is 0. */
export const relu = (tape: Tape, x: Tensor): Tensor => activation(tape, "relu", x, 0);

/**
 * x where x > 0, else slope x; the gradient at 0 is `slope`.
 * @throws {ShapeError} for a negative slope.
 */
export function leakyRelu(tape: Tape, x: Tensor, slope = 0.2): Tensor {
  checkSlope("leakyRelu", slope);
  return activation(tape, "leakyRelu", x, slope);
}

/** 1 / (1 + exp(-x)). */
export const sigmoid = (tape: Tape, x: Tensor): Tensor => activation(tape, "sigmoid", x, 0);
