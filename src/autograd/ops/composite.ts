import { ShapeError } from "../../errors.js";
import { compositeBackward, compositeForward } from "../../kernels/composite.js";
import type { Tape } from "../tape.js";
import { type Mask, shapeText, type Tensor } from "../tensor.js";

/**
 * m gt + (1 - m) out: the truth where it is known, the output in the hole; dout = (1 - m) dcomp. The truth is a constant.
 * @throws {ShapeError} when the shapes or the mask do not fit, or the truth requires a gradient.
 */
export function composite(tape: Tape, gt: Tensor, out: Tensor, mask: Mask): Tensor {
  if (shapeText(gt.shape) !== shapeText(out.shape)) {
    throw new ShapeError(
      "composite",
      `expected equal shapes, got ${shapeText(gt.shape)} and ${shapeText(out.shape)}`,
      "resize one of them",
    );
  }
  if (gt.requiresGrad)
    throw new ShapeError(
      "composite",
      "expected a constant truth, got one that requires a gradient",
      "swap the arguments",
    );
  mask.checkSingle("composite", out.shape);
  const comp = tape.like(out, "composite");
  const buffers = { gt: gt.storage, out: out.storage, mask: mask.storage, comp: comp.storage };
  compositeForward(tape.gpu, out.shape, mask.n, buffers);
  return tape.record("composite", [out], comp, [], (dcomp) => {
    const dout = tape.like(out, "composite.dout");
    compositeBackward(tape.gpu, out.shape, mask.n, { dcomp: dcomp.storage, mask: mask.storage, dout: dout.storage });
    return [dout];
  });
}
