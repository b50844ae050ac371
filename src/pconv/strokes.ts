/** Free-form masks: strokes of a brush that turns this way and that. No Node here. */
import { ShapeError } from "../errors.js";
import type { MaskPicture } from "./picture.js";
import { strokeSegment } from "./randomMask.js";
import type { Rng } from "./rng.js";

/** The authors draw at this size; brushes are scaled with the short side. */
const AUTHORS_SIZE = 256;
const STROKES = [1, 3] as const;
const VERTICES = [4, 11] as const;
const BRUSH_WIDTH = [12, 40] as const;
/** Turns are 72 degrees, give or take 24, to alternate sides. */
const MEAN_ANGLE = (2 * Math.PI) / 5;
const ANGLE_RANGE = (2 * Math.PI) / 15;

/**
 * One free-form mask: 1 to 3 strokes of 4 to 11 segments with round ends. Segments are normally distributed in length (mean an
 * eighth of the diagonal) and turn alternately; a stroke keeps its width of 12 to 39 pixels (at 256x256). Mirrored at random.
 *
 * Source: Yu et al., "Free-Form Image Inpainting with Gated Convolution", 2019, algorithm 1, with the numbers of the authors' program.
 * @param width pixels, 1 or more
 * @param height pixels, 1 or more
 * @param rng where the numbers come from; the mask is a pure function of its state
 * @returns [height, width], 1 = valid, 0 = hole; where the picture is tiny, perhaps all hole
 * @throws {ShapeError} a size that is not a positive integer
 */
export function generateStrokes(width: number, height: number, rng: Rng): MaskPicture {
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0)) {
    throw new ShapeError(
      "generateStrokes",
      `expected a width and height of whole pixels from 1 up, got ${width}x${height}`,
      "pass the size of the picture that the mask is for",
    );
  }
  const mask: MaskPicture = { width, height, values: new Uint8Array(width * height).fill(1) };
  const scale = Math.min(width, height) / AUTHORS_SIZE;
  const meanLength = Math.hypot(width, height) / 8;
  const clamp = (v: number, high: number): number => Math.min(high, Math.max(0, v));
  for (let stroke = rng.integer(...STROKES); stroke > 0; stroke--) {
    const segments = rng.integer(...VERTICES);
    const least = MEAN_ANGLE - rng.uniform(0, ANGLE_RANGE);
    const most = MEAN_ANGLE + rng.uniform(0, ANGLE_RANGE);
    const radius = Math.max(0.5, (Math.floor(rng.uniform(...BRUSH_WIDTH)) / 2) * scale);
    let [x, y] = [rng.uniform(0, width), rng.uniform(0, height)];
    for (let i = 0; i < segments; i++) {
      const turn = rng.uniform(least, most);
      const angle = i % 2 === 0 ? 2 * Math.PI - turn : turn;
      const length = clamp(meanLength * (1 + 0.5 * rng.normal()), 2 * meanLength);
      const toX = clamp(x + length * Math.cos(angle), width);
      const toY = clamp(y + length * Math.sin(angle), height);
      strokeSegment(mask, x, y, toX, toY, radius);
      [x, y] = [toX, toY];
    }
  }
  return mirrored(mask, rng.uniform() < 0.5, rng.uniform() < 0.5);
}

function mirrored({ width, height, values }: MaskPicture, acrossX: boolean, acrossY: boolean): MaskPicture {
  const result = new Uint8Array(values.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (acrossY ? height - 1 - y : y) * width + (acrossX ? width - 1 - x : x);
      result[y * width + x] = values[from];
    }
  }
  return { width, height, values: result };
}
