/** Reduced copies of pictures with holes, for a first pass over holes that no tile sees the whole of. No GPU in here. */
import type { MaskPicture, Picture } from "./picture.js";

/** A reduced picture and mask. */
export interface Reduced {
  readonly picture: Picture;
  readonly mask: MaskPicture;
}

/**
 * Reduces a picture and its mask: each pixel is the mean of the valid pixels of its block, and valid if there is one. Thin
 * holes vanish, so that what is left is the part of the holes that needs the wider view.
 *
 * @param width of the result, at most the picture's; the same for `height`
 */
export function reduceMasked(picture: Picture, mask: MaskPicture, width: number, height: number): Reduced {
  const sums = new Float64Array(width * height * 3);
  const counts = new Uint32Array(width * height);
  for (let y = 0; y < picture.height; y++) {
    const line = Math.floor((y * height) / picture.height) * width;
    for (let x = 0; x < picture.width; x++) {
      const from = y * picture.width + x;
      if (mask.values[from] === 0) continue;
      const to = line + Math.floor((x * width) / picture.width);
      counts[to]++;
      for (let k = 0; k < 3; k++) sums[3 * to + k] += picture.pixels[3 * from + k];
    }
  }
  const pixels = Float32Array.from(sums, (v, i) => v / Math.max(1, counts[Math.floor(i / 3)]));
  const values = Uint8Array.from(counts, (n) => (n > 0 ? 1 : 0));
  return { picture: { width, height, pixels }, mask: { width, height, values } };
}

/**
 * Where a coarse picture stands for a pixel of the full one: reads it by bilinear interpolation between pixel centres.
 *
 * @param width of the full picture; the same for `height`
 */
export class Enlarged {
  private readonly scaleX: number;
  private readonly scaleY: number;

  constructor(
    private readonly coarse: Picture,
    width: number,
    height: number,
  ) {
    this.scaleX = coarse.width / width;
    this.scaleY = coarse.height / height;
  }

  /** Writes the three values at pixel (x, y) of the full picture to `pixels` from `at`. */
  read(x: number, y: number, pixels: Float32Array, at: number): void {
    const { width, height, pixels: from } = this.coarse;
    const u = Math.min(width - 1, Math.max(0, (x + 0.5) * this.scaleX - 0.5));
    const v = Math.min(height - 1, Math.max(0, (y + 0.5) * this.scaleY - 0.5));
    const [left, top] = [Math.floor(u), Math.floor(v)];
    const [right, bottom] = [Math.min(width - 1, left + 1), Math.min(height - 1, top + 1)];
    const [fx, fy] = [u - left, v - top];
    for (let k = 0; k < 3; k++) {
      const above = from[3 * (top * width + left) + k] * (1 - fx) + from[3 * (top * width + right) + k] * fx;
      const below = from[3 * (bottom * width + left) + k] * (1 - fx) + from[3 * (bottom * width + right) + k] * fx;
      pixels[at + k] = above * (1 - fy) + below * fy;
    }
  }
}
