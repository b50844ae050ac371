/** Changes to masks that make many of few: binarising, dilating, and cutting a turned, mirrored square out of one. No Node here. */
import { UserError } from "../errors.js";
import type { MaskPicture, Picture } from "./picture.js";
import type { Rng } from "./rng.js";

/** Which side of the threshold is the hole in a mask picture. */
export type HoleColour = "white" | "black";

/** The paper's threshold ("binarised at 0.6"): brighter than this is white. */
export const MASK_THRESHOLD = 0.6;

/** A mask made from a picture, and how many of its pixels were neither black nor white. */
export interface BinarisedMask {
  readonly mask: MaskPicture;
  readonly greyPixels: number;
}

/**
 * Binarises a picture: its mean over the three channels is white above `threshold`, else black.
 *
 * @param holes the colour that marks the hole
 * @param threshold in 0..1; default {@link MASK_THRESHOLD}
 * @throws {UserError} a threshold outside [0, 1)
 */
export function binariseMask(picture: Picture, holes: HoleColour, threshold = MASK_THRESHOLD): BinarisedMask {
  checkThreshold(threshold);
  const { width, height, pixels } = picture;
  const values = new Uint8Array(width * height);
  const white = holes === "white" ? 0 : 1;
  let greyPixels = 0;
  // Half an 8-bit step from the ends still counts as black or white.
  const nearlyBlack = 0.5 / 255;
  // The 8-bit level 153 is 0.6 exactly, and not above it, but its float32 is.
  const limit = threshold + 1e-6;
  for (let i = 0; i < values.length; i++) {
    const v = (pixels[3 * i] + pixels[3 * i + 1] + pixels[3 * i + 2]) / 3;
    if (v > nearlyBlack && v < 1 - nearlyBlack) greyPixels++;
    values[i] = v > limit ? white : 1 - white;
  }
  return { mask: { width, height, values }, greyPixels };
}

/**
 * Refuses a threshold that no mask can be binarised with.
 *
 * @throws {UserError} outside [0, 1)
 */
export function checkThreshold(threshold: number): void {
  if (threshold >= 0 && threshold < 1) return;
  throw new UserError("mask threshold", `expected a number in [0, 1), got ${threshold}`, "the paper's is 0.6");
}

/**
 * Grows the holes by `pixels` in every direction, diagonals included (a square structuring element of 2 pixels + 1, as
 * OpenCV's dilate with a kernel of ones). What lies outside the mask grows nothing into it.
 */
export function dilateHoles(mask: MaskPicture, pixels: number): MaskPicture {
  if (pixels === 0) return mask;
  const { width, height } = mask;
  // A square is separable: along rows, then along columns. Each pass walks a line twice, counting since the last hole.
  const grown = Uint8Array.from(mask.values);
  const pass = (lines: number, length: number, lineStride: number, stride: number): void => {
    const source = Uint8Array.from(grown);
    for (let line = 0; line < lines; line++) {
      for (const direction of [1, -1]) {
        let since = Infinity;
        for (let k = 0; k < length; k++) {
          const at = line * lineStride + (direction === 1 ? k : length - 1 - k) * stride;
          since = source[at] === 0 ? 0 : since + 1;
          if (since <= pixels) grown[at] = 0;
        }
      }
    }
  };
  pass(height, width, width, 1);
  pass(width, height, 1, width);
  return { width, height, values: grown };
}

/** A square to cut out of a mask, in the mask's pixels. */
export interface MaskCut {
  /** Centre of the square; (0, 0) is the top left corner of the mask. */
  readonly centreX: number;
  readonly centreY: number;
  /** Side of the square. */
  readonly side: number;
  /** How far the square is turned, in radians. */
  readonly angle: number;
  /** Whether the result is mirrored left to right. */
  readonly flip: boolean;
}

/** Cuts a square out of a mask and resizes it to `size` x `size` by nearest neighbour; beyond its edges the mask is mirrored. */
export function cutMask(mask: MaskPicture, cut: MaskCut, size: number): MaskPicture {
  const { width, height } = mask;
  const values = new Uint8Array(size * size);
  const step = cut.side / size;
  const [c, s] = [Math.cos(cut.angle) * step, Math.sin(cut.angle) * step];
  for (let y = 0; y < size; y++) {
    const v = y + 0.5 - size / 2;
    for (let x = 0; x < size; x++) {
      const u = (x + 0.5 - size / 2) * (cut.flip ? -1 : 1);
      const sx = mirror(Math.floor(cut.centreX + u * c - v * s), width);
      const sy = mirror(Math.floor(cut.centreY + u * s + v * c), height);
      values[y * size + x] = mask.values[sy * width + sx];
    }
  }
  return { width: size, height: size, values };
}

/** Index `i` of a line of `length` that is continued by its mirror image on both sides: ... 1 0 | 0 1 2 | 2 1 0 0 1 ... */
function mirror(i: number, length: number): number {
  const period = 2 * length;
  const k = ((i % period) + period) % period;
  return k < length ? k : period - 1 - k;
}

/** The paper's dilation, as the side of OpenCV's square kernel, for masks of {@link PAPER_SIZE} pixels. */
const PAPER_DILATION = [9, 49] as const;
const PAPER_SIZE = 512;

/**
 * A square mask made of a larger one as the paper does: dilated, then a square of 0.6 to 1 of the short side cut out anywhere, turned
 * by any angle, mirrored or not.
 *
 * @param size side of the result in pixels
 * @param dilation least and most, as the side of a square kernel for masks of 512 pixels; default the paper's 9 to 49
 * @returns perhaps all hole or all valid: ask again with other numbers
 */
export function varyMask(
  mask: MaskPicture,
  size: number,
  rng: Rng,
  dilation: readonly [number, number] = PAPER_DILATION,
): MaskPicture {
  const shortSide = Math.min(mask.width, mask.height);
  const kernel = (rng.uniform(...dilation) * shortSide) / PAPER_SIZE;
  const side = shortSide * rng.uniform(0.6, 1);
  const cut = {
    centreX: rng.uniform(side / 2, mask.width - side / 2),
    centreY: rng.uniform(side / 2, mask.height - side / 2),
    side,
    angle: rng.uniform(0, 2 * Math.PI),
    flip: rng.uniform() < 0.5,
  };
  return cutMask(dilateHoles(mask, Math.floor(kernel / 2)), cut, size);
}
