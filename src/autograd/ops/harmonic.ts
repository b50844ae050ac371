import { harmonic as kernel } from "../../kernels/harmonic.js";
import type { Mask, Tensor } from "../tensor.js";
import type { Tape } from "../tape.js";

/**
 * The picture [N,H,W,3] with its holes interpolated smoothly (see the kernel `harmonic`), in float32. Carries no gradient: it is what
 * a network adds to, and depends on nothing that is trained.
 * @throws {ShapeError} when the mask does not fit, or has several groups.
 */
export function harmonic(tape: Tape, x: Tensor, mask: Mask): Tensor {
  mask.check("harmonic", x.shape);
  const { n, h, w } = x.shape;
  const u = tape.alloc(x.shape, "harmonic");
  kernel(tape.gpu, { n, h, w, masks: mask.n }, { x: x.storage, mask: mask.storage, u: u.storage });
  return u;
}
