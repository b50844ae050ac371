/** Image quality measures. */
import { ShapeError } from "../errors.js";
import type { Picture } from "./picture.js";

/**
 * Peak signal-to-noise ratio in dB, peak 1: -10 log10(mean squared error over all channels); Infinity for equal pictures.
 * @throws {ShapeError} when the sizes differ.
 */
export function psnr(a: Picture, b: Picture): number {
  if (a.width !== b.width || a.height !== b.height) {
    const text = (p: Picture) => `${p.width}x${p.height}`;
    throw new ShapeError("psnr", `expected pictures of one size, got ${text(a)} and ${text(b)}`, "resize one of them");
  }
  let sum = 0;
  for (let i = 0; i < a.pixels.length; i++) sum += (a.pixels[i] - b.pixels[i]) ** 2;
  return -10 * Math.log10(sum / a.pixels.length);
}
