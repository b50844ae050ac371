import { ShapeError } from "../../errors.js";
import { channelAffine as kernel } from "../../kernels/channelAffine.js";
import { vec4s } from "../../kernels/shape.js";
import type { Tape } from "../tape.js";
import type { Tensor } from "../tensor.js";

/**
 * scale[c] x + shift[c] with constants; dx = scale dy.
 * @throws {ShapeError} unless there is one pair of constants per channel.
 */
export function channelAffine(tape: Tape, x: Tensor, scale: readonly number[], shift: readonly number[]): Tensor {
  const { c } = x.shape;
  if (scale.length !== c || shift.length !== c) {
    throw new ShapeError(
      "channelAffine",
      `expected ${c} factors and offsets, got ${scale.length} and ${shift.length}`,
      "pass one per channel",
    );
  }
  const sizes = { vec4s: x.vec4s, c4: vec4s(c) };
  const factors = tape.gpu.constant(scale);
  const y = tape.like(x, "channelAffine");
  kernel(tape.gpu, sizes, { x: x.storage, scale: factors, shift: tape.gpu.constant(shift), y: y.storage });
  return tape.record("channelAffine", [x], y, [], (dy) => {
    const dx = tape.like(x, "channelAffine.dx");
    kernel(tape.gpu, sizes, { x: dy.storage, scale: factors, y: dx.storage });
    return [dx];
  });
}

/** Mean and standard deviation of ImageNet in RGB 0..1, the input convention of torchvision's networks. */
export const IMAGENET = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] } as const;

/** (x - mean) / std of an RGB image in 0..1. */
export function normalizeImageNet(tape: Tape, x: Tensor): Tensor {
  const scale = IMAGENET.std.map((s) => 1 / s);
  return channelAffine(tape, x, scale, IMAGENET.mean.map((m, i) => -m * scale[i])); // prettier-ignore
}

/** The inverse of {@link normalizeImageNet}. */
export function denormalizeImageNet(tape: Tape, x: Tensor): Tensor {
  return channelAffine(tape, x, IMAGENET.std, IMAGENET.mean);
}
