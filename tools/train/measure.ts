/** Validation PSNR and sample strips of a run. */
import { hstack, grid } from "../../src/pconv/contactSheet.js";
import { inpaint } from "../../src/pconv/inpaint.js";
import { psnr } from "../../src/pconv/metrics.js";
import type { MaskPicture, MaskSource, Picture, PictureSource } from "../../src/pconv/picture.js";
import type { PConvUNet } from "../../src/pconv/unet.js";

/** Pictures measured at each checkpoint, and shown in each strip. */
export const VALIDATION_IMAGES = 32;
export const SAMPLE_ROWS = 4;
/** Validation pictures and masks do not depend on the run's seed, so that runs can be compared. */
const FIXED_SEED = 20180418;

/** A picture whose holes are grey. */
export function masked(picture: Picture, mask: MaskPicture): Picture {
  return { ...picture, pixels: picture.pixels.map((v, i) => (mask.values[Math.floor(i / 3)] === 1 ? v : 0.5)) };
}

/** Mean PSNR of the composite over `count` pictures. */
export async function meanPsnr(model: PConvUNet, images: PictureSource, masks: MaskSource, size: number, count: number): Promise<number> {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const truth = await images.sample(FIXED_SEED, i, size);
    const { image } = await inpaint(model, truth, await masks.sample(FIXED_SEED, i, size));
    sum += psnr(image, truth);
  }
  return sum / count;
}

/** Rows of masked | output | composite | truth. */
export async function sampleStrip(model: PConvUNet, images: PictureSource, masks: MaskSource, size: number): Promise<Picture> {
  const rows: Picture[][] = [];
  for (let i = 0; i < Math.min(SAMPLE_ROWS, images.length); i++) {
    const truth = await images.sample(FIXED_SEED, i, size);
    const mask = await masks.sample(FIXED_SEED, i, size);
    const { image, output } = await inpaint(model, truth, mask);
    rows.push([masked(truth, mask), output, image, truth]);
  }
  return rows.length === 1 ? hstack(rows[0]) : grid(rows);
}
