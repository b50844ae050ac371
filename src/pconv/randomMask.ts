/**
 * Irregular masks drawn from lines, circles and elliptic arcs, in the manner of the MaskGenerator of PConv-Keras
 * (M. Gruber, 2018), which draws with OpenCV. Same counts, sizes and angles, so the same hole-ratio statistics
 * (mean 0.27, standard deviation 0.093 at 512x512); the pixels differ because the random numbers do.
 */
import { ShapeError, UserError } from "../errors.js";
import { type MaskPicture, type MaskSource, resizeMask } from "./picture.js";
import { Rng } from "./rng.js";

/** A range of integers, both ends included. */
export type IntegerRange = readonly [low: number, high: number];

/** What {@link generateMask} draws; every field may be left out. */
export interface RandomMaskOptions {
  /** How many lines; default 1 to 20. */
  readonly lines?: IntegerRange;
  /** How many filled circles; default 1 to 20. */
  readonly circles?: IntegerRange;
  /** How many elliptic arcs; default 1 to 20. */
  readonly ellipses?: IntegerRange;
  /**
   * Stroke thickness and circle radius in pixels; default 3 to floor(0.03 (width + height)), as the original. Below 100
   * pixels of width + height, where that range is empty, both ends are the upper one, and at least 1.
   */
  readonly thickness?: IntegerRange;
}

/** Key of this file's random streams, so that no other user of the same seed draws the same numbers ("mask" in ASCII). */
const STREAM = 0x6d61736b;

/** After so many masks that are all hole or all valid, one pixel is flipped instead: at 2x2 nearly every drawing covers everything. */
const MAX_REDRAWS = 32;

/**
 * One random mask, [height, width], 1 = valid, 0 = hole. It may be all hole or all valid when the picture is tiny;
 * {@link RandomMaskSource} never returns such a one.
 *
 * @param width pixels, 1 or more
 * @param height pixels, 1 or more
 * @param rng where the numbers come from; the mask is a pure function of its state
 * @throws {ShapeError} a size that is not a positive integer
 * @throws {UserError} an option that is not a range of non-negative integers
 */
export function generateMask(width: number, height: number, rng: Rng, options: RandomMaskOptions = {}): MaskPicture {
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0)) {
    throw new ShapeError(
      "generateMask",
      `expected a width and height of whole pixels from 1 up, got ${width}x${height}`,
      "pass the size of the picture that the mask is for",
    );
  }
  const largest = Math.max(1, Math.floor((width + height) * 0.03));
  const thickness = range("thickness", options.thickness ?? [Math.min(3, largest), largest], 1);
  const lines = range("lines", options.lines ?? [1, 20], 0);
  const circles = range("circles", options.circles ?? [1, 20], 0);
  const ellipses = range("ellipses", options.ellipses ?? [1, 20], 0);

  const mask: MaskPicture = { width, height, values: new Uint8Array(width * height).fill(1) };
  // Coordinates run from 1 to the size, as in the original, although pixel indices run from 0 to size - 1.
  for (let i = rng.integer(...lines); i > 0; i--) {
    const [x1, x2] = [rng.integer(1, width), rng.integer(1, width)];
    const [y1, y2] = [rng.integer(1, height), rng.integer(1, height)];
    strokeSegment(mask, x1, y1, x2, y2, strokeRadius(rng.integer(...thickness)));
  }
  for (let i = rng.integer(...circles); i > 0; i--) {
    const [x, y] = [rng.integer(1, width), rng.integer(1, height)];
    strokeSegment(mask, x, y, x, y, rng.integer(...thickness));
  }
  for (let i = rng.integer(...ellipses); i > 0; i--) {
    const [x, y] = [rng.integer(1, width), rng.integer(1, height)];
    const [halfWidth, halfHeight] = [rng.integer(1, width), rng.integer(1, height)];
    const [rotation, from, to] = [rng.integer(3, 180), rng.integer(3, 180), rng.integer(3, 180)];
    strokeArc(mask, x, y, halfWidth, halfHeight, rotation, from, to, strokeRadius(rng.integer(...thickness)));
  }
  return mask;
}

/**
 * Smaller masks are drawn at this size and reduced: drawn at their own, strokes of 3 pixels and more would cover half of a
 * 64x64 mask, where the original covers 27 % at 512x512.
 */
const DRAWN_SIZE = 512;

/**
 * {@link generateMask} with the hole ratios of a 512x512 mask at smaller sizes too: what is smaller is drawn as large as that, in
 * the wanted shape, and reduced.
 */
export function generateScaledMask(width: number, height: number, rng: Rng, options?: RandomMaskOptions): MaskPicture {
  const scale = Math.max(1, (2 * DRAWN_SIZE) / (width + height));
  const drawn = generateMask(Math.round(width * scale), Math.round(height * scale), rng, options);
  return drawn.width === width && drawn.height === height ? drawn : resizeMask(drawn, width, height);
}

/**
 * An endless supply of {@link generateMask}, each with at least one hole pixel and one valid pixel. Hole ratios are those of
 * 512x512 masks at every size up to it; `thickness` counts pixels at 512x512 too.
 */
export class RandomMaskSource implements MaskSource {
  readonly description = "random masks (lines, circles, ellipses)";
  readonly length = Infinity;

  constructor(private readonly options: RandomMaskOptions = {}) {}

  /**
   * Mask `index` of `seed`, `size` x `size`.
   *
   * @throws {ShapeError} a size below 2: one pixel cannot be both hole and valid
   */
  sample(seed: number, index: number, size: number): Promise<MaskPicture> {
    return Promise.resolve().then(() => this.draw(seed, index, size));
  }

  private draw(seed: number, index: number, size: number): MaskPicture {
    if (!(Number.isInteger(size) && size >= 2)) {
      throw new ShapeError(
        "RandomMaskSource.sample",
        `expected a size of 2 pixels or more, got ${size}`,
        "one pixel cannot be both hole and valid; ask for larger masks",
      );
    }
    let mask: MaskPicture | undefined;
    for (let attempt = 0; attempt < MAX_REDRAWS; attempt++) {
      mask = generateScaledMask(size, size, Rng.of(seed, STREAM, index, attempt), this.options);
      if (isMixed(mask)) return mask;
    }
    const values = mask!.values;
    const flipped = Rng.of(seed, STREAM, index, MAX_REDRAWS).integer(0, values.length - 1);
    values[flipped] = 1 - values[flipped];
    return mask!;
  }
}

/** Whether a mask has both hole and valid pixels: only then is there something to fill, and something to fill it from. */
export function isMixed(mask: MaskPicture): boolean {
  const first = mask.values[0];
  return mask.values.some((v) => v !== first);
}

/**
 * Half the width of a stroke of `thickness` pixels, as OpenCV 4 really draws it: measured on its lines, 3 pixels wide for
 * thickness 2, 5 for 3 and 4, 7 for 5 and 6, and so on. A literal thickness / 2 makes the mean hole ratio 6% too small.
 */
function strokeRadius(thickness: number): number {
  return thickness === 1 ? 0.5 : Math.ceil(thickness / 2) + 0.5;
}

/** Makes a hole of all pixels whose centre is at most `radius` from the segment: a line with round caps, or a disc. */
export function strokeSegment(mask: MaskPicture, x1: number, y1: number, x2: number, y2: number, radius: number): void {
  const { width, height, values } = mask;
  const [dx, dy] = [x2 - x1, y2 - y1];
  const lengthSquared = dx * dx + dy * dy;
  const firstRow = Math.max(0, Math.ceil(Math.min(y1, y2) - radius));
  const lastRow = Math.min(height - 1, Math.floor(Math.max(y1, y2) + radius));
  for (let y = firstRow; y <= lastRow; y++) {
    // The part of the segment that can reach this row bounds the columns to look at.
    let [lo, hi] = [Math.min(x1, x2), Math.max(x1, x2)];
    if (dy !== 0) {
      const a = clamp((y - radius - y1) / dy, 0, 1);
      const b = clamp((y + radius - y1) / dy, 0, 1);
      lo = Math.min(x1 + a * dx, x1 + b * dx);
      hi = Math.max(x1 + a * dx, x1 + b * dx);
    }
    const firstColumn = Math.max(0, Math.ceil(lo - radius));
    const lastColumn = Math.min(width - 1, Math.floor(hi + radius));
    for (let x = firstColumn; x <= lastColumn; x++) {
      const t = lengthSquared === 0 ? 0 : clamp(((x - x1) * dx + (y - y1) * dy) / lengthSquared, 0, 1);
      const ex = x - x1 - t * dx;
      const ey = y - y1 - t * dy;
      if (ex * ex + ey * ey <= radius * radius) values[y * width + x] = 0;
    }
  }
}

/**
 * The arc of an ellipse as the polyline that OpenCV's ellipse2Poly makes of it: vertices every 5 degrees (more for small
 * ellipses), rounded to whole pixels. Angles in degrees; `from` and `to` may come in either order.
 */
function strokeArc(
  mask: MaskPicture,
  cx: number,
  cy: number,
  halfWidth: number,
  halfHeight: number,
  rotation: number,
  from: number,
  to: number,
  radius: number,
): void {
  const longest = Math.max(halfWidth, halfHeight);
  const step = longest < 3 ? 90 : longest < 10 ? 30 : longest < 15 ? 18 : 5;
  const [start, end] = [Math.min(from, to), Math.max(from, to)];
  const [c, s] = [Math.cos((rotation * Math.PI) / 180), Math.sin((rotation * Math.PI) / 180)];
  const vertex = (degrees: number): [number, number] => {
    const u = halfWidth * Math.cos((degrees * Math.PI) / 180);
    const v = halfHeight * Math.sin((degrees * Math.PI) / 180);
    return [Math.round(cx + u * c - v * s), Math.round(cy + u * s + v * c)];
  };
  let previous = vertex(start);
  strokeSegment(mask, ...previous, ...previous, radius); // an arc of no length is a dot
  for (let angle = start + step; angle < end + step; angle += step) {
    const next = vertex(Math.min(angle, end));
    strokeSegment(mask, ...previous, ...next, radius);
    previous = next;
  }
}

function range(name: string, [low, high]: IntegerRange, least: number): IntegerRange {
  if (Number.isInteger(low) && Number.isInteger(high) && least <= low && low <= high) return [low, high];
  throw new UserError(
    `generateMask option ${name}`,
    `expected two whole numbers, the first at least ${least} and not above the second, got [${low}, ${high}]`,
    "pass [low, high]",
  );
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value));
}
