import { compositeBackward, compositeForward } from "../../kernels/composite.js";
import type { Tape } from "../tape.js";
import type { Mask, Tensor } from "../tensor.js";

/**
 * m gt + (1 - m) out: the truth where it is known, the output in the hole; dout = (1 - m) dcomp. The truth is a constant.
 * @throws {ShapeError} when the mask does not fit.
 */
export function composite(tape: Tape, gt: Tensor, out: Tensor, mask: Mask): Tensor {
  mask.check("composite", out.shape);
  const comp = tape.alloc(out.shape, "composite");
  const buffers = { gt: gt.storage, out: out.storage, mask: mask.storage, comp: comp.storage };
  compositeForward(tape.gpu, out.shape, mask.n, buffers);
  return tape.record("composite", [out], comp, [], (dcomp) => {
    const dout = tape.alloc(out.shape, "composite.dout");
    compositeBackward(tape.gpu, out.shape, mask.n, { dcomp: dcomp.storage, mask: mask.storage, dout: dout.storage });
    return [dout];
  });
}
