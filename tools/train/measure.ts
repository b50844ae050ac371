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
/** What a picture that is filled without any error counts as; its PSNR has no value. */
const LARGEST_PSNR = 100;

/** A picture whose holes are grey. */
export function masked(picture: Picture, mask: MaskPicture): Picture {
  return { ...picture, pixels: picture.pixels.map((v, i) => (mask.values[Math.floor(i / 3)] === 1 ? v : 0.5)) };
}

export interface PsnrRequest {
  readonly model: PConvUNet;
  readonly images: PictureSource;
  readonly masks: MaskSource;
  /** Side of the square pictures in pixels. */
  readonly size: number;
  readonly count: number;
  /** Asked before each picture. */
  readonly stopped: () => boolean;
}

/** Mean PSNR of the composite in dB; null when it was stopped before the end. */
export async function meanPsnr({ model, images, masks, size, count, stopped }: PsnrRequest): Promise<number | null> {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    if (stopped()) return null;
    const truth = await images.sample(FIXED_SEED, i, size);
    const { image } = await inpaint(model, truth, await masks.sample(FIXED_SEED, i, size));
    sum += Math.min(LARGEST_PSNR, psnr(image, truth));
  }
  return sum / count;
}

/** Rows of masked | output | composite | truth. */
export async function sampleStrip(
  model: PConvUNet,
  images: PictureSource,
  masks: MaskSource,
  size: number,
): Promise<Picture> {
  const rows: Picture[][] = [];
  for (let i = 0; i < Math.min(SAMPLE_ROWS, images.length); i++) {
    const truth = await images.sample(FIXED_SEED, i, size);
    const mask = await masks.sample(FIXED_SEED, i, size);
    const { image, output } = await inpaint(model, truth, mask);
    rows.push([masked(truth, mask), output, image, truth]);
  }
  return rows.length === 1 ? hstack(rows[0]) : grid(rows);
}
