/** Filling the holes of a picture with a trained network. */
import { denormalizeImageNet, normalizeImageNet } from "../autograd/ops/channelAffine.js";
import { Tape } from "../autograd/tape.js";
import { ShapeError } from "../errors.js";
import type { MaskPicture, Picture } from "./picture.js";
import type { PConvUNet } from "./unet.js";

export interface Inpainted {
  /** The picture with its holes filled; pixels outside the hole are the input's, bit by bit. */
  readonly image: Picture;
  /** What the network drew everywhere, clamped to 0..1. */
  readonly output: Picture;
}

/**
 * Fills the holes of a picture of any size (the network pads it as needed).
 *
 * @param picture RGB in 0..1; what stands in the holes does not matter
 * @param mask the same size, 1 = valid, 0 = hole
 * @throws {ShapeError} when the sizes differ.
 */
export async function inpaint(model: PConvUNet, picture: Picture, mask: MaskPicture): Promise<Inpainted> {
  const { width, height } = picture;
  if (mask.width !== width || mask.height !== height) {
    throw new ShapeError(
      "inpaint",
      `expected a mask of ${width}x${height}, got ${mask.width}x${mask.height}`,
      "resize the mask to the picture",
    );
  }
  const wasTraining = model.training;
  const tape = new Tape(model.gpu, { grad: false });
  let drawn: Float32Array;
  try {
    model.eval();
    const shape = { n: 1, h: height, w: width, c: 3 };
    const raw = tape.upload(shape, picture.pixels, "picture");
    const imagenet = model.config.range === "imagenet";
    const input = imagenet ? normalizeImageNet(tape, raw) : raw;
    const { output } = model.forward(tape, input, tape.uploadMask({ n: 1, h: height, w: width }, mask.values));
    drawn = await (imagenet ? denormalizeImageNet(tape, output) : output).values();
  } finally {
    tape.dispose();
    model.train(wasTraining);
  }
  const output = drawn.map((v) => Math.min(1, Math.max(0, v)));
  const image = Float32Array.from(output, (v, i) => (mask.values[Math.floor(i / 3)] === 1 ? picture.pixels[i] : v));
  return { image: { width, height, pixels: image }, output: { width, height, pixels: output } };
}
