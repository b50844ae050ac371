import type { Tape } from "../tape.js";
import type { Mask, Tensor } from "../tensor.js";
import { type BatchNormOptions, type BatchNormTensors, normalize, normalizeBackward, statistics } from "./normalize.js";

/**
 * Batch normalisation over n, h, w (see the kernels `batchNormStats` and `batchNorm`).
 * @throws {ShapeError} when the mask does not fit.
 */
export function batchNorm(
  tape: Tape,
  x: Tensor,
  mask: Mask | null,
  tensors: BatchNormTensors,
  options: BatchNormOptions,
): Tensor {
  mask?.checkSingle("batchNorm", x.shape);
  const n = { tensors, options, valid: mask && { mask: mask.storage, n: mask.n }, slope: 1 };
  const stats = statistics(tape, x, n);
  const y = normalize(tape, x, stats, n);
  if (mask && options.holes === "zero") y.zeroUnder = mask;
  return tape.record("batchNorm", [x, tensors.gamma, tensors.beta], y, [x, stats], (dy) => {
    const { dx, dgamma, dbeta } = normalizeBackward(tape, x, stats, n, dy);
    return [dx, dgamma, dbeta];
  });
}
