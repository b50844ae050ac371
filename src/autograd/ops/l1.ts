import { ShapeError } from "../../errors.js";
import { l1Backward, l1Forward, type L1Region } from "../../kernels/l1.js";
import type { Tape } from "../tape.js";
import { type Mask, shapeText, type Tensor } from "../tensor.js";

/** Options of {@link l1}. */
export interface L1OpOptions {
  /** What the sum is multiplied with; 1 / (number of elements) makes it a mean. */
  readonly factor: number;
  /** Pixels that count; anything but `all` needs the mask. */
  readonly region?: L1Region;
  readonly mask?: Mask;
}

/**
 * factor * sum |prediction - target| over a region; the gradient is factor * sign(prediction - target) there. The target is
 * a constant: it must not require a gradient.
 * @throws {ShapeError} when the shapes differ, the region lacks its mask, or the target requires a gradient.
 */
export function l1(tape: Tape, prediction: Tensor, target: Tensor, o: L1OpOptions): Tensor {
  const { shape } = prediction;
  const { region = "all", mask } = o;
  if (shapeText(shape) !== shapeText(target.shape)) {
    throw new ShapeError(
      "l1",
      `expected equal shapes, got ${shapeText(shape)} and ${shapeText(target.shape)}`,
      "compare like with like",
    );
  }
  if (target.requiresGrad)
    throw new ShapeError("l1", "expected a constant target, got one that requires a gradient", "swap the arguments");
  if (region !== "all") {
    if (!mask) throw new ShapeError("l1", `expected a mask for region ${region}, got none`, "pass the mask");
    mask.checkSingle("l1", shape);
  }
  const options = { region, factor: o.factor, maskN: mask?.n ?? 1 };
  const value = tape.alloc({ n: 1, h: 1, w: 1, c: 1 }, "l1");
  const buffers = { a: prediction.storage, b: target.storage, mask: mask?.storage };
  l1Forward(tape.gpu, shape, options, { ...buffers, value: value.storage });
  return tape.record("l1", [prediction], value, [prediction, target], (dvalue) => {
    const da = tape.like(prediction, "l1.da");
    l1Backward(tape.gpu, shape, options, { ...buffers, dvalue: dvalue.storage, da: da.storage });
    return [da];
  });
}
