/** What every convolution's backward does once the gradient of its bare sums is known. */
import { pconvBackwardInput } from "../../kernels/pconvBackwardInput.js";
import { pconvBackwardWeight } from "../../kernels/pconvBackwardWeight.js";
import type { ConvShape } from "../../kernels/shape.js";
import { weightTransposed } from "../../kernels/transposeWeight.js";
import type { PixelMask } from "../../kernels/slabs.js";
import type { Tape } from "../tape.js";
import type { Tensor } from "../tensor.js";

/** A mask of pixels that matter; elsewhere the tensor that it goes with is zero, or need not be known. */
export type Live = PixelMask;

/** Nothing trains the weight meanwhile: the forms of it that kernels take are worth keeping. */
export const isConstant = (tape: Tape, weight: Tensor): boolean => !tape.options.grad || !weight.requiresGrad;

/**
 * With g the gradient of W * x: dx = W^T * g and dw = x (corr) g, each where it is wanted.
 * `liveX` pixels of dx are wanted, the others become zeros by the tile; `liveY` pixels of g are not zero.
 */
export function convGradients(
  tape: Tape,
  name: string,
  s: ConvShape,
  x: Tensor,
  weight: Tensor,
  g: Tensor,
  { liveX, liveY }: { readonly liveX?: Live | undefined; readonly liveY?: Live | undefined } = {},
): { dx: Tensor | null; dw: Tensor | null } {
  const { gpu } = tape;
  let dx: Tensor | null = null;
  if (x.requiresGrad) {
    const made = tape.like(x, `${name}.dx`);
    const constantWeight = isConstant(tape, weight);
    gpu.derived(weightTransposed(gpu, s, weight.storage), constantWeight, (weightT) => {
      pconvBackwardInput(gpu, s, { dy: g.storage, weightT, dx: made.storage, live: liveX, constantWeight });
    });
    dx = made;
  }
  let dw: Tensor | null = null;
  if (weight.requiresGrad) {
    dw = tape.alloc(weight.shape, `${name}.dw`);
    pconvBackwardWeight(gpu, s, { x: x.storage, dy: g.storage, dw: dw.storage, live: liveY });
  }
  return { dx, dw };
}
