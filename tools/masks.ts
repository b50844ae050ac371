/** `pconv masks`: writes random irregular masks, the ones that training draws. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { Command, InvalidArgumentError } from "commander";
import { UserError } from "../src/errors.js";
import { writeMaskPng } from "../src/io/png.js";
import { holeRatio, type MaskPicture } from "../src/pconv/picture.js";
import { generateMask, isMixed } from "../src/pconv/randomMask.js";
import { Rng } from "../src/pconv/rng.js";
import { integer } from "./command.js";
import { Progress } from "./progress.js";

/** Below this the shapes that are drawn cover everything; above it a mask does not fit into memory comfortably. */
const MIN_SIDE = 8;
const MAX_SIDE = 16384;
const MAX_COUNT = 1_000_000;
/** Of 2000 masks of 8x8 none needed a second. */
const MAX_REDRAWS = 100;

/** Hole-ratio bins of Liu et al. 2018: above the first number, up to the second. */
const BINS = [
  [0.01, 0.1],
  [0.1, 0.2],
  [0.2, 0.3],
  [0.3, 0.4],
  [0.4, 0.5],
  [0.5, 0.6],
] as const;

interface Size {
  readonly width: number;
  readonly height: number;
}

interface Options {
  readonly count: number;
  readonly size: Size;
  readonly out: string;
  readonly seed: number;
  readonly force?: true;
  readonly json?: true;
}

function parseSize(text: string): Size {
  const match = /^(\d+)x(\d+)$/i.exec(text.trim());
  const [width, height] = match ? [Number(match[1]), Number(match[2])] : [0, 0];
  if ([width, height].some((side) => side < MIN_SIDE || side > MAX_SIDE)) {
    throw new InvalidArgumentError(
      `expected WIDTHxHEIGHT in pixels, each ${MIN_SIDE} to ${MAX_SIDE}, such as 512x512, got ${text}`,
    );
  }
  return { width, height };
}

function parseCount(text: string): number {
  const count = integer(1)(text);
  if (count > MAX_COUNT) throw new InvalidArgumentError(`expected at most ${MAX_COUNT}, got ${text}`);
  return count;
}

/** Mask `index` of `seed`, the same however many are drawn; it has both hole and valid pixels. */
export function drawMask({ width, height }: Size, seed: number, index: number): MaskPicture {
  for (let attempt = 0; attempt < MAX_REDRAWS; attempt++) {
    const mask = generateMask(width, height, Rng.of(seed, index, attempt));
    if (isMixed(mask)) return mask;
  }
  throw new Error(`${MAX_REDRAWS} masks of ${width}x${height} were all hole or all valid`);
}

/** The bin's name, as in `pconv evaluate`. */
const binName = ([low, high]: readonly [number, number]): string => `${low}-${high}`;

/** How many ratios fall into each bin, and how many into none. */
export function countBins(ratios: readonly number[]) {
  const bins = BINS.map((bin) => ({
    bin: binName(bin),
    count: ratios.filter((ratio) => ratio > bin[0] && ratio <= bin[1]).length,
  }));
  return { bins, outside: ratios.length - bins.reduce((sum, { count }) => sum + count, 0) };
}

async function run({ count, size, out, seed, force, json }: Options): Promise<void> {
  // Padded, so that names sort like numbers; five digits at least, so that a larger count repeats the names.
  const width = Math.max(5, String(count - 1).length);
  const path = (index: number) => join(out, `mask-${String(index).padStart(width, "0")}.png`);
  const indices = Array.from({ length: count }, (_, index) => index);
  const taken = force ? undefined : indices.map(path).find((name) => existsSync(name));
  if (taken !== undefined) {
    throw new UserError(
      "pconv masks",
      `expected file names that are free, got ${taken}, which exists`,
      "choose another --out, or pass --force to replace files of the same names",
    );
  }
  const progress = new Progress(count);
  const ratios: number[] = [];
  try {
    progress.at(out);
    for (const index of indices) {
      const mask = drawMask(size, seed, index);
      await writeMaskPng(path(index), mask, "white");
      ratios.push(holeRatio(mask));
      progress.advance(1);
    }
  } finally {
    progress.stop();
  }
  const mean = ratios.reduce((sum, ratio) => sum + ratio, 0) / count;
  const { bins, outside } = countBins(ratios);
  if (json) {
    console.log(
      JSON.stringify({
        count,
        ...size,
        seed,
        holes: "white",
        folder: resolve(out),
        meanHoleRatio: mean,
        bins,
        outside,
      }),
    );
    return;
  }
  console.log(`${count} masks of ${size.width}x${size.height} in ${resolve(out)}; white = hole, black = valid`);
  console.log(`mean hole ratio ${mean.toFixed(4)}`);
  for (const { bin, count } of bins) console.log(`  ${bin.padEnd(8)} ${String(count).padStart(6)}`);
  if (outside > 0) console.log(`  outside  ${String(outside).padStart(6)}`);
}

export function masksCommand(): Command {
  return new Command("masks")
    .description(
      "Writes random masks of lines, circles and elliptic arcs as PNG files, mask-00000.png and so on: white = hole, black = " +
        "valid. Prints the mean hole ratio and how many masks fall into each of the six bins of the paper. The same seed " +
        "draws the same masks, whatever the count.",
    )
    .requiredOption("--count <n>", "how many", parseCount)
    .requiredOption("--size <WxH>", "width and height in pixels, such as 512x512", parseSize)
    .requiredOption("--out <dir>", "folder, made if missing; nothing is written when a file of a needed name exists")
    .option("--seed <n>", "which random numbers", integer(0), 0)
    .option("--force", "replace files of the same names; others in the folder stay")
    .option(
      "--json",
      "one JSON line on stdout: count, width, height, seed, holes, folder, meanHoleRatio, bins, outside",
    )
    .option("--debug", "show stack traces")
    .action(run);
}
