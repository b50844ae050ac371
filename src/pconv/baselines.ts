/** Fills without a network, to compare one with. No Node and no GPU here. */
import { ShapeError } from "../errors.js";
import type { MaskPicture, Picture } from "./picture.js";

/** What stands in a picture that has no valid pixel to fill from. */
const MIDDLE_GREY = 0.5;

/** Sweeps end when no value changes by more than this any more; a 40th of an 8-bit step. */
const TOLERANCE = 1e-4;

/** Below this side a coarser level would say nothing new. */
const COARSEST_SIDE = 4;

/**
 * Each hole pixel is the mean colour of the valid pixels; middle grey when there are none.
 * @throws {ShapeError} when the sizes differ.
 */
export function meanFill(picture: Picture, mask: MaskPicture): Picture {
  checkMask("meanFill", picture, mask);
  const mean = validMean(picture.pixels, mask.values);
  const pixels = Float32Array.from(picture.pixels);
  for (let i = 0; i < mask.values.length; i++) if (mask.values[i] === 0) pixels.set(mean, 3 * i);
  return { ...picture, pixels };
}

/**
 * Each hole pixel is the mean of its four neighbours: the stationary heat equation (harmonic, membrane), with the valid
 * pixels held fixed and no flow through the picture's border.
 *
 * Solved from coarse to fine by successive over-relaxation, to a 40th of an 8-bit step. Deterministic.
 * @throws {ShapeError} when the sizes differ.
 */
export function diffusionFill(picture: Picture, mask: MaskPicture): Picture {
  checkMask("diffusionFill", picture, mask);
  if (!mask.values.includes(1)) return meanFill(picture, mask);
  const { width, height } = picture;
  const solution = Float64Array.from(picture.pixels);
  // Whatever stands in the holes, NaN included, has no say.
  for (let i = 0; i < mask.values.length; i++) if (mask.values[i] === 0) solution.fill(0, 3 * i, 3 * i + 3);
  solve({ width, height, pixels: solution, valid: mask.values });
  const pixels = Float32Array.from(picture.pixels, (v, i) =>
    mask.values[Math.floor(i / 3)] === 1 ? v : Math.fround(solution[i]),
  );
  return { width, height, pixels };
}

/** A picture on the way to its solution; `pixels` is changed in place. */
interface Level {
  readonly width: number;
  readonly height: number;
  readonly pixels: Float64Array;
  /** 1 where pixels are held fixed. */
  readonly valid: Uint8Array;
}

function solve(level: Level): void {
  const { width, height, pixels, valid } = level;
  const holes = holeList(valid);
  if (holes.length === 0) return;
  if (Math.min(width, height) > COARSEST_SIDE) {
    const coarse = halve(level);
    solve(coarse);
    for (const i of holes) {
      const x = Math.floor((i % width) / 2);
      const at = (Math.floor(Math.floor(i / width) / 2) * coarse.width + x) * 3;
      for (let c = 0; c < 3; c++) pixels[3 * i + c] = coarse.pixels[at + c];
    }
  } else {
    const mean = validMean(pixels, valid);
    for (const i of holes) pixels.set(mean, 3 * i);
  }
  relax(level, holes);
}

/** Over-relaxation; the factor is the best one for a strip as wide as the widest part of the holes. */
function relax({ width, height, pixels, valid }: Level, holes: Int32Array): void {
  // A hole that reaches the border is as wide as with its mirror image.
  const span = 4 * deepest(width, height, valid) + 2;
  const factor = 2 / (1 + Math.sin(Math.PI / (span + 1)));
  for (let change = Infinity; change > TOLERANCE;) {
    change = 0;
    for (let k = 0; k < holes.length; k++) {
      const i = holes[k];
      const x = i % width;
      const left = x > 0;
      const right = x < width - 1;
      const above = i >= width;
      const below = i < width * (height - 1);
      const share = 1 / (Number(left) + Number(right) + Number(above) + Number(below));
      for (let at = 3 * i; at < 3 * i + 3; at++) {
        let sum = 0;
        if (left) sum += pixels[at - 3];
        if (right) sum += pixels[at + 3];
        if (above) sum += pixels[at - 3 * width];
        if (below) sum += pixels[at + 3 * width];
        const step = factor * (sum * share - pixels[at]);
        pixels[at] += step;
        if (Math.abs(step) > change) change = Math.abs(step);
      }
    }
  }
}

/** The largest distance of a hole pixel from the nearest valid one, in steps along the axes. */
function deepest(width: number, height: number, valid: Uint8Array): number {
  const distance = Int32Array.from(valid, (v) => (v === 1 ? 0 : width + height));
  for (let i = 0; i < distance.length; i++) {
    if (i % width > 0) distance[i] = Math.min(distance[i], distance[i - 1] + 1);
    if (i >= width) distance[i] = Math.min(distance[i], distance[i - width] + 1);
  }
  let largest = 0;
  for (let i = distance.length - 1; i >= 0; i--) {
    if (i % width < width - 1) distance[i] = Math.min(distance[i], distance[i + 1] + 1);
    if (i < width * (height - 1)) distance[i] = Math.min(distance[i], distance[i + width] + 1);
    largest = Math.max(largest, distance[i]);
  }
  return largest;
}

/** Half as large: each pixel is the mean of the valid ones among its four; a hole where there are none. */
function halve({ width, height, pixels, valid }: Level): Level {
  const half = { width: Math.ceil(width / 2), height: Math.ceil(height / 2) };
  const counts = new Uint8Array(half.width * half.height);
  const sums = new Float64Array(counts.length * 3);
  for (let i = 0; i < valid.length; i++) {
    if (valid[i] === 0) continue;
    const at = Math.floor(Math.floor(i / width) / 2) * half.width + Math.floor((i % width) / 2);
    counts[at]++;
    for (let c = 0; c < 3; c++) sums[3 * at + c] += pixels[3 * i + c];
  }
  return {
    ...half,
    pixels: sums.map((sum, i) => sum / Math.max(1, counts[Math.floor(i / 3)])),
    valid: counts.map((count) => Math.min(1, count)),
  };
}

function holeList(valid: Uint8Array): Int32Array {
  const holes: number[] = [];
  for (let i = 0; i < valid.length; i++) if (valid[i] === 0) holes.push(i);
  return Int32Array.from(holes);
}

function validMean(pixels: ArrayLike<number>, valid: Uint8Array): number[] {
  const sums = [0, 0, 0];
  let count = 0;
  for (let i = 0; i < valid.length; i++) {
    if (valid[i] === 0) continue;
    count++;
    for (let c = 0; c < 3; c++) sums[c] += pixels[3 * i + c];
  }
  return count === 0 ? [MIDDLE_GREY, MIDDLE_GREY, MIDDLE_GREY] : sums.map((sum) => sum / count);
}

function checkMask(where: string, picture: Picture, mask: MaskPicture): void {
  if (mask.width === picture.width && mask.height === picture.height) return;
  throw new ShapeError(
    where,
    `expected a mask of ${picture.width}x${picture.height}, got ${mask.width}x${mask.height}`,
    "resize the mask to the picture",
  );
}
