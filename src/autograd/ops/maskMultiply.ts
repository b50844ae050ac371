import { maskMultiply as kernel } from "../../kernels/maskMultiply.js";
import type { Mask, Tensor } from "../tensor.js";
import type { Tape } from "../tape.js";

/**
 * x . M: exact zeros in holes, whatever stood there; dx = dy . M. Returns `x` itself when that is known to change nothing.
 * @throws {ShapeError} when the mask does not fit.
 */
export function maskMultiply(tape: Tape, x: Tensor, mask: Mask): Tensor {
  if (x.zeroUnder === mask && mask.binary) return x;
  mask.check("maskMultiply", x.shape);
  const { gpu } = tape;
  const groupOf = gpu.constant(
    mask.channelsFor("maskMultiply", x.shape.c).flatMap((count, g) => Array<number>(count).fill(g)),
  );
  const apply = (from: Tensor) => {
    const to = tape.like(x, "maskMultiply");
    const buffers = { x: from.storage, mask: mask.storage, groupOf, y: to.storage };
    kernel(gpu, x.shape, mask.n, mask.groups, buffers);
    return to;
  };
  const y = apply(x);
  y.zeroUnder = mask;
  return tape.record("maskMultiply", [x], y, [], (dy) => [apply(dy)]);
}
