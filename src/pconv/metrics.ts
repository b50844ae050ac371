/** Image quality measures; SSIM is in ssim.ts, the distance by VGG features in vggDistance.ts. */
import { ShapeError } from "../errors.js";
import type { Picture } from "./picture.js";

/**
 * Peak signal-to-noise ratio in dB, peak 1: -10 log10(mean squared error over all channels); Infinity for equal pictures.
 * @throws {ShapeError} when the sizes differ.
 */
export function psnr(a: Picture, b: Picture): number {
  checkSameSize("psnr", a, b);
  let sum = 0;
  for (let i = 0; i < a.pixels.length; i++) sum += (a.pixels[i] - b.pixels[i]) ** 2;
  return -10 * Math.log10(sum / a.pixels.length);
}

/**
 * Mean absolute difference over all pixels and channels, in percent of the full range: the paper's l1 (%).
 * @throws {ShapeError} when the sizes differ.
 */
export function l1Percent(a: Picture, b: Picture): number {
  checkSameSize("l1Percent", a, b);
  let sum = 0;
  for (let i = 0; i < a.pixels.length; i++) sum += Math.abs(a.pixels[i] - b.pixels[i]);
  return (100 * sum) / a.pixels.length;
}

/**
 * Refuses pictures that cannot be compared pixel by pixel.
 * @throws {ShapeError} when the sizes differ.
 */
export function checkSameSize(where: string, a: Picture, b: Picture): void {
  if (a.width === b.width && a.height === b.height) return;
  const text = (p: Picture) => `${p.width}x${p.height}`;
  throw new ShapeError(where, `expected pictures of one size, got ${text(a)} and ${text(b)}`, "resize one of them");
}
