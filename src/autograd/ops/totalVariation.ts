import { dilateHole as dilateKernel } from "../../kernels/dilateHole.js";
import { totalVariationBackward, totalVariationForward, type TvRegion } from "../../kernels/totalVariation.js";
import type { Tape } from "../tape.js";
import type { Mask } from "../tensor.js";
import { type Tensor } from "../tensor.js";

/** Options of {@link totalVariation}. */
export interface TotalVariationOpOptions {
  readonly region: TvRegion;
  /** The region R (1 inside); `all` needs none. */
  readonly mask?: Mask;
  readonly factorX: number;
  readonly factorY: number;
}

/**
 * factorX sum |x(i,j+1) - x(i,j)| + factorY sum |x(i+1,j) - x(i,j)| over the pairs of a region (see the kernel).
 * @throws {ShapeError} when the region does not fit.
 */
export function totalVariation(tape: Tape, x: Tensor, o: TotalVariationOpOptions): Tensor {
  o.mask?.checkSingle("totalVariation", x.shape);
  const options = { region: o.region, factorX: o.factorX, factorY: o.factorY, regionN: o.mask?.n ?? 1 };
  const value = tape.alloc({ n: 1, h: 1, w: 1, c: 1 }, "totalVariation");
  const buffers = { x: x.storage, region: o.mask?.storage };
  totalVariationForward(tape.gpu, x.shape, options, { ...buffers, value: value.storage });
  return tape.record("totalVariation", [x], value, [x], (dvalue) => {
    const dx = tape.like(x, "totalVariation.dx");
    totalVariationBackward(tape.gpu, x.shape, options, { ...buffers, dvalue: dvalue.storage, dx: dx.storage });
    return [dx];
  });
}

/**
 * The hole and its one-pixel rim (3x3 box): 1 inside. Masks carry no gradient.
 * @throws {ShapeError} when the mask has several groups.
 */
export function dilateHole(tape: Tape, mask: Mask): Mask {
  mask.checkSingle("dilateHole", { n: mask.n, h: mask.h, w: mask.w, c: 1 });
  const region = tape.allocMask(mask, null, mask.binary);
  dilateKernel(tape.gpu, { n: mask.n, h: mask.h, w: mask.w }, { mask: mask.storage, region: region.storage });
  return region;
}
