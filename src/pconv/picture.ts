/** Pixels on the CPU side: what image files, generators and samples exchange. No GPU and no Node in here. */

/** An RGB picture: `pixels` is [height, width, 3], row by row, each value in 0..1 (sRGB as stored in files, not linearised). */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly pixels: Float32Array;
}

/** A mask: `values` is [height, width], row by row, exactly **1 = valid, 0 = hole**. */
export interface MaskPicture {
  readonly width: number;
  readonly height: number;
  readonly values: Uint8Array;
}

/** Share of hole pixels, 0..1. */
export function holeRatio(mask: MaskPicture): number {
  let holes = 0;
  for (const v of mask.values) if (v === 0) holes++;
  return holes / mask.values.length;
}

/**
 * A mask of another size by nearest neighbour; its shape is not kept. Output pixel x is the input pixel under its point
 * x + `anchor`: its centre, or its corner, as OpenCV's INTER_NEAREST takes it.
 */
export function resizeMask(mask: MaskPicture, width: number, height: number, anchor: 0 | 0.5 = 0.5): MaskPicture {
  const values = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.floor(((y + anchor) * mask.height) / height) * mask.width;
    for (let x = 0; x < width; x++)
      values[y * width + x] = mask.values[row + Math.floor(((x + anchor) * mask.width) / width)];
  }
  return { width, height, values };
}

/**
 * A supply of training pictures. Sample `index` of `seed` is always the same picture, whatever was drawn before, so that a
 * run can resume anywhere.
 */
export interface PictureSource {
  /** One line for logs: what it is and how many pictures it has. */
  readonly description: string;
  /** How many distinct pictures there are; `Infinity` for generators. */
  readonly length: number;
  /** A `size` x `size` picture. */
  sample(seed: number, index: number, size: number): Promise<Picture>;
}

/** A supply of training masks, with the same promise as {@link PictureSource}. */
export interface MaskSource {
  readonly description: string;
  readonly length: number;
  /** A `size` x `size` mask. */
  sample(seed: number, index: number, size: number): Promise<MaskPicture>;
}
