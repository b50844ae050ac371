/** Pictures side by side, for samples that people look at. No Node here. */
import { ShapeError } from "../errors.js";
import type { MaskPicture, Picture } from "./picture.js";

/** A mask as a picture to look at: valid black, holes white (the colour that most mask files use). */
export function maskToPicture(mask: MaskPicture): Picture {
  const pixels = new Float32Array(mask.values.length * 3);
  for (let i = 0; i < mask.values.length; i++) pixels.fill(1 - mask.values[i], 3 * i, 3 * i + 3);
  return { width: mask.width, height: mask.height, pixels };
}

/**
 * Joins pictures left to right.
 *
 * @param gap pixels of white between two pictures
 * @returns as high as the highest picture; lower ones are at the top, white below
 * @throws {ShapeError} no pictures, or one whose pixels are not width x height x 3
 */
export function hstack(pictures: readonly Picture[], gap = 4): Picture {
  return paste("hstack", [pictures], gap);
}

/** Rows of pictures, one {@link hstack} below the other. */
export function grid(rows: readonly (readonly Picture[])[], gap = 4): Picture {
  return paste("grid", rows, gap);
}

function paste(where: string, rows: readonly (readonly Picture[])[], gap: number): Picture {
  const all = rows.flat();
  if (all.length === 0) throw new ShapeError(where, "expected one picture or more, got none", "pass pictures");
  for (const { width, height, pixels } of all) {
    if (pixels.length !== width * height * 3) {
      throw new ShapeError(
        where,
        `expected ${width * height * 3} values for a ${width}x${height} RGB picture, got ${pixels.length}`,
        "pixels are [height, width, 3]",
      );
    }
  }
  const sum = (lengths: number[]): number => lengths.reduce((a, b) => a + b, 0) + gap * Math.max(0, lengths.length - 1);
  const rowHeights = rows.map((row) => Math.max(0, ...row.map((p) => p.height)));
  const width = Math.max(...rows.map((row) => sum(row.map((p) => p.width))));
  const height = sum(rowHeights);
  const pixels = new Float32Array(width * height * 3).fill(1);
  let top = 0;
  rows.forEach((row, r) => {
    let left = 0;
    for (const picture of row) {
      for (let y = 0; y < picture.height; y++) {
        const line = picture.pixels.subarray(y * picture.width * 3, (y + 1) * picture.width * 3);
        pixels.set(line, ((top + y) * width + left) * 3);
      }
      left += picture.width + gap;
    }
    top += rowHeights[r] + gap;
  });
  return { width, height, pixels };
}
