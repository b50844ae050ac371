/** Filling the holes of one picture file. */
import { UserError } from "../../src/errors.js";
import { checkPlace, writeWhole } from "../../src/io/files.js";
import { encodeStored, losslessFormat, lossesOf, type OutputFormat } from "../../src/io/storedEncode.js";
import { fillStored, viewsOf } from "../../src/io/storedFill.js";
import { readStored } from "../../src/io/storedPicture.js";
import { inpaint } from "../../src/pconv/inpaint.js";
import type { HoleColour } from "../../src/pconv/maskAugment.js";
import { holeRatio, type MaskPicture, type Picture } from "../../src/pconv/picture.js";
import type { PConvUNet } from "../../src/pconv/unet.js";
import { fitMask, type MaskOptions } from "./fitMask.js";
import type { Job } from "./jobs.js";

export interface FillOptions extends MaskOptions {
  readonly tile: number;
  readonly raw?: true;
  readonly signal: AbortSignal;
  /** Share of the work that is done, 0 to 1. */
  readonly onProgress: (share: number) => void;
  /** Refuses places where the result may not go. */
  readonly checkOut: (path: string) => void;
}

/** What was done with one picture. */
export interface Filled {
  readonly image: string;
  readonly mask: string;
  readonly out: string;
  readonly width: number;
  readonly height: number;
  readonly colour: string;
  readonly depth: number;
  readonly holes: HoleColour;
  readonly holeRatio: number;
  readonly greyPixels: number;
  /** How many times the network ran. */
  readonly passes: number;
  readonly seconds: number;
  readonly notes: readonly string[];
}

const ENDING: Record<OutputFormat, string> = { png: ".png", webp: ".webp", tiff: ".tif", jpeg: ".jpg" };
/** Of more hole than this, people usually took the colours the other way round. */
const SUSPICIOUS = 0.5;

/**
 * Fills one file and writes the result.
 *
 * @throws {UserError} the picture or the mask cannot be used, or the result cannot be written
 */
export async function fillFile(model: PConvUNet, job: Job, o: FillOptions): Promise<Filled> {
  const started = performance.now();
  if (typeof job.mask !== "string") throw job.mask;
  const stored = await readStored(job.image);
  const format = job.outFormat ?? losslessFormat(stored);
  const out = job.outFormat ? job.out : job.out + ENDING[format];
  o.checkOut(out);
  await checkPlace(out);
  const { mask, greyPixels, notes } = await fitMask(job.mask, stored, o);
  const ratio = holeRatio(mask);
  checkShare(job.mask, ratio, o.holes);
  const all = [...notes, ...shareNotes(ratio, o.holes), ...lossesOf(stored, format)];
  if (greyPixels > 0) all.push(`mask has ${greyPixels} grey pixels: above 0.6 taken as white, the others as black`);
  const { pictures, seen } = viewsOf(stored);
  if (seen) all.push("the network was not shown fully transparent pixels; they stay as they are");
  const fills: Picture[] = [];
  let passes = 0;
  // Without a hole there is nothing to run the network for.
  for (const picture of ratio > 0 || o.raw ? pictures : []) {
    const result = await inpaint(model, picture, mask, {
      tile: o.tile,
      everywhere: o.raw ?? false,
      seen: seen ?? undefined,
      signal: o.signal,
      onProgress: ({ done, total }) => o.onProgress((fills.length + done / total) / pictures.length),
    });
    passes += result.passes;
    fills.push(o.raw ? result.output : result.image);
    checkFinite(fills.at(-1)!, job.image);
  }
  const replaced: MaskPicture = o.raw ? { ...mask, values: new Uint8Array(mask.values.length) } : mask;
  const filled = fills.length > 0 ? fillStored(stored, replaced, fills) : stored;
  await writeWhole(out, await encodeStored(filled, format));
  return {
    image: job.image,
    mask: job.mask,
    out,
    width: stored.width,
    height: stored.height,
    colour: stored.colour + (stored.alpha ? " + alpha" : ""),
    depth: stored.depth,
    holes: o.holes,
    holeRatio: ratio,
    greyPixels,
    passes,
    seconds: (performance.now() - started) / 1000,
    notes: all,
  };
}

const opposite = (holes: HoleColour): HoleColour => (holes === "white" ? "black" : "white");

function checkShare(mask: string, ratio: number, holes: HoleColour): void {
  if (ratio < 1) return;
  throw new UserError(
    mask,
    `expected a mask with valid pixels, got one that is all hole (${holes} = hole)`,
    `pass --holes ${opposite(holes)} if ${opposite(holes)} marks the hole`,
  );
}

function shareNotes(ratio: number, holes: HoleColour): string[] {
  if (ratio === 0) return [`the mask has no hole (${holes} = hole): the picture is written as it was`];
  if (ratio <= SUSPICIOUS) return [];
  return [`more than half is hole: if ${opposite(holes)} marks the hole, pass --holes ${opposite(holes)}`];
}

function checkFinite({ pixels }: Picture, image: string): void {
  if (pixels.every((v) => Number.isFinite(v))) return;
  throw new UserError(
    image,
    "expected finite values from the network, got NaN",
    "the weights are damaged; pass others with --weights",
  );
}
