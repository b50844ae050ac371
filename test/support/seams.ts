/** A measure of seams, and the tiling that ours is compared with. */
import { inpaint } from "../../src/pconv/inpaint.js";
import type { MaskPicture, Picture } from "../../src/pconv/picture.js";
import type { PConvUNet } from "../../src/pconv/unet.js";

/** Cuts a w x h window out of a picture or mask. */
export function crop(picture: Picture, mask: MaskPicture, x: number, y: number, w: number, h: number) {
  const pixels = new Float32Array(w * h * 3);
  const values = new Uint8Array(w * h);
  for (let j = 0; j < h; j++) {
    const from = (y + j) * picture.width + x;
    pixels.set(picture.pixels.subarray(3 * from, 3 * (from + w)), 3 * j * w);
    values.set(mask.values.subarray(from, from + w), j * w);
  }
  return { picture: { width: w, height: h, pixels }, mask: { width: w, height: h, values } };
}

/** Tiles' starts of PConv-Keras: from 0 by tile - overlap, the last moved back to end at the edge. */
export function chunkStarts(length: number, tile: number, overlap: number): number[] {
  const starts = [0];
  while (starts.at(-1)! + tile < length) starts.push(Math.min(length - tile, starts.at(-1)! + tile - overlap));
  return starts;
}

/** The scheme of PConv-Keras' chunker: tiles on their own, and the plain mean where they overlap (30 pixels of 512). */
export async function averagedTiles(
  model: PConvUNet,
  picture: Picture,
  mask: MaskPicture,
  tile: number,
  overlap: number,
): Promise<Picture> {
  const { width, height } = picture;
  const sums = new Float32Array(width * height * 3);
  const counts = new Float32Array(width * height);
  for (const y of chunkStarts(height, tile, overlap)) {
    for (const x of chunkStarts(width, tile, overlap)) {
      const part = crop(picture, mask, x, y, tile, tile);
      const { output } = await inpaint(model, part.picture, part.mask, { tile });
      for (let j = 0; j < tile; j++) {
        for (let i = 0; i < tile; i++) {
          const to = (y + j) * width + x + i;
          counts[to]++;
          for (let k = 0; k < 3; k++) sums[3 * to + k] += output.pixels[3 * (j * tile + i) + k];
        }
      }
    }
  }
  const pixels = sums.map((v, i) =>
    mask.values[Math.floor(i / 3)] ? picture.pixels[i] : v / counts[Math.floor(i / 3)],
  );
  return { width, height, pixels };
}

/**
 * Mean |gradient| across the borders of tiles over its mean elsewhere, both inside holes and of vertical and horizontal
 * borders together. 1 = no seam. A border is where a tile starts or ends: between pixels s - 1 and s.
 */
export function seamRatio(image: Picture, mask: MaskPicture, bordersX: readonly number[], bordersY: readonly number[]) {
  const { width, height, pixels } = image;
  const sums = { border: 0, elsewhere: 0 };
  const counts = { border: 0, elsewhere: 0 };
  const add = (a: number, b: number, kind: "border" | "elsewhere"): void => {
    if (mask.values[a] || mask.values[b]) return;
    for (let k = 0; k < 3; k++) sums[kind] += Math.abs(pixels[3 * a + k] - pixels[3 * b + k]);
    counts[kind] += 3;
  };
  for (let y = 1; y < height; y++) {
    for (let x = 1; x < width; x++) {
      const at = y * width + x;
      add(at - 1, at, bordersX.includes(x) ? "border" : "elsewhere");
      add(at - width, at, bordersY.includes(y) ? "border" : "elsewhere");
    }
  }
  return sums.border / counts.border / (sums.elsewhere / counts.elsewhere);
}

/** Where tiles of these starts begin and end inside a side. */
export const borders = (starts: readonly number[], tile: number, length: number): number[] =>
  starts.flatMap((s) => [s, s + tile]).filter((s) => s > 0 && s < length);
