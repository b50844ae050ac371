/** Pictures and masks at the size that they are evaluated at. No Node here. */
import { ShapeError } from "../errors.js";
import { type MaskPicture, type Picture, resizeMask } from "./picture.js";

/** What one output pixel is made of along one axis: `weights[k]` of input pixel `first + k`; they add up to 1. */
interface Taps {
  readonly first: number;
  readonly weights: readonly number[];
}

/**
 * The middle square of a picture, scaled so that the short side is `size`, rounded to 256 levels.
 *
 * Shrinking takes the mean of what each output pixel covers; enlarging interpolates between the two nearest such means. Both
 * are what OpenCV's INTER_AREA does, whose numbers this library is compared with. The long side is rounded to whole
 * pixels, the crop's offset down.
 *
 * @param size side of the result in pixels
 * @throws {ShapeError} `size` is not a positive integer
 */
export function evaluationPicture(picture: Picture, size: number): Picture {
  checkSize("evaluationPicture", size);
  const { width, height } = picture;
  const scale = size / Math.min(width, height);
  const scaled = [width, height].map((side) => Math.max(size, Math.round(side * scale)));
  return eightBit(middleOfScaled(picture, scaled, [size, size]));
}

/**
 * A picture shrunk by the mean of what each output pixel covers, so that its long side is at most `longest` pixels; as it is
 * where that is so already.
 *
 * @throws {ShapeError} `longest` is not a positive integer
 */
export function shrunkPicture(picture: Picture, longest: number): Picture {
  checkSize("shrunkPicture", longest);
  const scale = longest / Math.max(picture.width, picture.height);
  if (scale >= 1) return picture;
  const scaled = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
  return middleOfScaled(picture, scaled, scaled);
}

/** Scales a picture, and computes the middle of the result only. */
function middleOfScaled(picture: Picture, scaled: readonly number[], size: readonly number[]): Picture {
  const { width, height, pixels } = picture;
  const shrinks = width >= scaled[0] && height >= scaled[1];
  const [columns, rows] = [width, height].map((side, axis) => {
    const start = Math.floor((scaled[axis] - size[axis]) / 2);
    const taps = shrinks ? areaTaps : enlargingTaps;
    return Array.from({ length: size[axis] }, (_, i) => taps(start + i, side, scaled[axis]));
  });
  // Rows first: what is left then is small.
  const lines = new Float64Array(width * 3);
  const result = new Float32Array(size[0] * size[1] * 3);
  rows.forEach((row, y) => {
    lines.fill(0);
    row.weights.forEach((weight, k) => {
      const at = (row.first + k) * width * 3;
      for (let i = 0; i < lines.length; i++) lines[i] += weight * pixels[at + i];
    });
    columns.forEach((column, x) => {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0; k < column.weights.length; k++) sum += column.weights[k] * lines[(column.first + k) * 3 + c];
        result[(y * size[0] + x) * 3 + c] = sum;
      }
    });
  });
  return { width: size[0], height: size[1], pixels: result };
}

/** A picture as an 8-bit file holds it: clamped to 0..1, rounded to multiples of 1/255. */
export function eightBit({ width, height, pixels }: Picture): Picture {
  return { width, height, pixels: pixels.map((v) => Math.round(Math.min(1, Math.max(0, v)) * 255) / 255) };
}

/**
 * A mask resized to a square by nearest neighbour as OpenCV's INTER_NEAREST does: output pixel x is input pixel
 * floor(x width / size). Its shape is not kept.
 *
 * @param size side of the result in pixels
 * @throws {ShapeError} `size` is not a positive integer
 */
export function evaluationMask(mask: MaskPicture, size: number): MaskPicture {
  checkSize("evaluationMask", size);
  return resizeMask(mask, size, size, 0);
}

/** Output pixel `index` of `to` covers [index, index + 1) * from / to of the input. */
function areaTaps(index: number, from: number, to: number): Taps {
  const step = from / to;
  const [start, end] = [index * step, Math.min(from, (index + 1) * step)];
  const first = Math.floor(start);
  const weights: number[] = [];
  for (let k = first; k < end; k++) weights.push((Math.min(end, k + 1) - Math.max(start, k)) / (end - start));
  return { first, weights };
}

/** Where enlarging, output pixels that lie within one input pixel take its value, others a mean of two by their shares. */
function enlargingTaps(index: number, from: number, to: number): Taps {
  const first = Math.min(from - 1, Math.floor((index * from) / to));
  const beyond = index + 1 - ((first + 1) * to) / from;
  if (beyond <= 0 || first === from - 1) return { first, weights: [1] };
  const share = beyond - Math.floor(beyond);
  return { first, weights: [1 - share, share] };
}

function checkSize(where: string, size: number): void {
  if (Number.isInteger(size) && size > 0) return;
  throw new ShapeError(where, `expected a size of 1 pixel or more, got ${size}`, "pass the side in pixels");
}
