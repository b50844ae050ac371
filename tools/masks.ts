/** `pconv masks`: writes random irregular masks: the ones that training draws, free-form strokes, or what hides in a video. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { UserError } from "../src/errors.js";
import { readPicture } from "../src/io/imageFile.js";
import { writeMaskPng } from "../src/io/png.js";
import { shrunkPicture } from "../src/pconv/evaluationSize.js";
import { holeBin, HOLE_BINS } from "../src/pconv/evaluate.js";
import { varyMask } from "../src/pconv/maskAugment.js";
import { occlusionMasks } from "../src/pconv/occlusion.js";
import { holeRatio, type MaskPicture, type Picture } from "../src/pconv/picture.js";
import { generateScaledMask, isMixed } from "../src/pconv/randomMask.js";
import { Rng } from "../src/pconv/rng.js";
import { generateStrokes } from "../src/pconv/strokes.js";
import { integer, path } from "./command.js";
import { Progress } from "./progress.js";

/** Below this the shapes that are drawn cover everything; above it a mask does not fit into memory comfortably. */
const MIN_SIDE = 8;
const MAX_SIDE = 16384;
const MAX_COUNT = 1_000_000;
/** Of 2000 masks of 8x8 none needed a second. */
const MAX_REDRAWS = 100;

/** Frames are shrunk to this long side: masks are coarse anyway, and finding the motion takes 20 microseconds a pixel. */
const FRAME_SIDE = 512;

const KINDS = ["lines", "strokes", "occlusion"] as const;

interface Size {
  readonly width: number;
  readonly height: number;
}

interface Options {
  readonly count: number;
  readonly size: Size;
  readonly out: string;
  readonly seed: number;
  readonly kind: (typeof KINDS)[number];
  readonly from?: readonly string[];
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

/** Draws one mask of a size; it may be all hole or all valid. */
export type Draw = (size: Size, rng: Rng) => MaskPicture;

const DRAWN: Readonly<Record<"lines" | "strokes", Draw>> = {
  lines: ({ width, height }, rng) => generateScaledMask(width, height, rng),
  strokes: ({ width, height }, rng) => generateStrokes(width, height, rng),
};

/** Mask `index` of `seed`, the same however many are drawn; it has both hole and valid pixels. */
export function drawMask(size: Size, seed: number, index: number, draw: Draw = DRAWN.lines): MaskPicture {
  for (let attempt = 0; attempt < MAX_REDRAWS; attempt++) {
    const mask = draw(size, Rng.of(seed, index, attempt));
    if (isMixed(mask)) return mask;
  }
  throw new UserError(
    "pconv masks",
    `expected masks with holes and valid pixels, got ${MAX_REDRAWS} in a row that are all the one or all the other`,
    "choose a larger --size, or frames that hide more",
  );
}

/** What hides between two frames, varied as in the paper. */
async function drawOcclusions(paths: readonly string[]): Promise<Draw> {
  const [first, second] = await Promise.all(paths.map((path) => readPicture(path)));
  const shrunk = (frame: Picture): Picture => shrunkPicture(frame, FRAME_SIDE);
  if (first.width !== second.width || first.height !== second.height) {
    const text = ({ width, height }: Picture) => `${width}x${height}`;
    throw new UserError(
      paths[1],
      `expected a frame of ${text(first)} as the first one, got ${text(second)}`,
      "take two frames of one video",
    );
  }
  const found = occlusionMasks(shrunk(first), shrunk(second));
  return ({ width, height }, rng) => {
    const hidden = found[rng.integer(0, found.length - 1)];
    return middle(varyMask(hidden, Math.max(width, height), rng), width, height);
  };
}

/** The middle of a square mask. */
function middle({ width: side, values }: MaskPicture, width: number, height: number): MaskPicture {
  const [left, top] = [Math.floor((side - width) / 2), Math.floor((side - height) / 2)];
  const result = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const start = (top + y) * side + left;
    result.set(values.subarray(start, start + width), y * width);
  }
  return { width, height, values: result };
}

function checkFrames({ kind, from }: Options): void {
  if (kind === "occlusion" ? from?.length === 2 : from === undefined) return;
  throw new UserError(
    "--from",
    kind === "occlusion"
      ? `expected two frames with --kind occlusion, got ${from?.length ?? "none"}`
      : `expected it with --kind occlusion only, got --kind ${kind}`,
    "pass --kind occlusion --from FRAME1 FRAME2, two consecutive frames of a video",
  );
}

/** How many ratios fall into each bin, and how many into none. */
export function countBins(ratios: readonly number[]) {
  const bins = HOLE_BINS.map(({ name }, i) => ({
    bin: name,
    count: ratios.filter((ratio) => holeBin(ratio) === i).length,
  }));
  return { bins, outside: ratios.length - bins.reduce((sum, { count }) => sum + count, 0) };
}

async function run(options: Options): Promise<void> {
  const { count, size, out, seed, kind, from, force, json } = options;
  checkFrames(options);
  // Padded, so that names sort like numbers; five digits at least, so that a larger count repeats the names.
  const width = Math.max(5, String(count - 1).length);
  const file = (index: number) => join(out, `mask-${String(index).padStart(width, "0")}.png`);
  const indices = Array.from({ length: count }, (_, index) => index);
  const taken = force ? undefined : indices.map(file).find((name) => existsSync(name));
  if (taken !== undefined) {
    throw new UserError(
      "pconv masks",
      `expected file names that are free, got ${taken}, which exists`,
      "choose another --out, or pass --force to replace files of the same names",
    );
  }
  const draw = kind === "occlusion" ? await drawOcclusions(from!) : DRAWN[kind];
  const progress = new Progress(count);
  const ratios: number[] = [];
  try {
    progress.at(out);
    for (const index of indices) {
      const mask = drawMask(size, seed, index, draw);
      await writeMaskPng(file(index), mask, "white");
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
        kind,
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
      "Writes random masks as PNG files, mask-00000.png and so on: white = hole, black = valid. Prints the mean hole ratio and " +
        "how many masks fall into each of the six bins of the paper. The same seed draws the same masks, whatever the count.",
    )
    .requiredOption("--count <n>", "how many", parseCount)
    .requiredOption("--size <WxH>", "width and height in pixels, such as 512x512", parseSize)
    .requiredOption(
      "--out <dir>",
      "folder, made if missing; nothing is written when a file of a needed name exists",
      path,
    )
    .option("--seed <n>", "which random numbers", integer(0), 0)
    .addOption(
      new Option(
        "--kind <kind>",
        "lines, circles and arcs as training draws them; free-form strokes (Yu et al. 2019); or what hides between two " +
          "frames of a video, dilated, turned and cropped at random (the paper's way)",
      )
        .choices(KINDS)
        .default("lines"),
    )
    .option("--from <frame...>", "for --kind occlusion: two consecutive frames, pictures of one size")
    .option("--force", "replace files of the same names; others in the folder stay")
    .option(
      "--json",
      "one JSON line on stdout: count, width, height, seed, kind, holes, folder, meanHoleRatio, bins, outside",
    )
    .option("--debug", "show stack traces")
    .action(run);
}
