/**
 * A folder of photographs as a training source: resize, crop, flip, and the augmentation of PConv-Keras (rotation up to 10
 * degrees, shifts up to a tenth). Node only.
 *
 * Reading, decoding, resizing, turning and cropping run in the threads of Node, sharp and the PNG worker; the main thread
 * only turns the final bytes into floats. So a caller that asks ahead (see pconv/prefetch.ts) keeps the adapter busy.
 */
import sharp from "sharp";
import { FormatError, ShapeError, UserError } from "../errors.js";
import type { Picture, PictureSource } from "../pconv/picture.js";
import { Rng } from "../pconv/rng.js";
import { readBytes } from "./files.js";
import { listPictures, printWarning, SkipList, type WarningListener } from "./folderList.js";
import { type OpenPicture, openPicture, rawToPicture, runPipeline } from "./imageFile.js";

/** Keys of this file's random streams ("ordr" and "crop" in ASCII). */
const ORDER_STREAM = 0x6f726472;
const CROP_STREAM = 0x63726f70;

/** How an {@link ImageFolder} makes samples. */
export interface ImageFolderOptions {
  /**
   * True (the default): files in a new random order each epoch, random crop, flip, rotation and shift.
   * False, for validation: files in the order of their names, the short side resized to the size, centre crop.
   */
  readonly augment?: boolean;
  /**
   * The smallest share of the short side that a random crop may cover, 0.1 to 1. The default 1 always shows the whole
   * short side, as the original does; below 1 the magnification varies too. Only with `augment`.
   */
  readonly minCrop?: number;
  /** Largest rotation in degrees, either way; default 10. Only with `augment`. */
  readonly rotation?: number;
  /** Largest shift as a share of the size, either way, up to 0.5; default 0.1. Only with `augment`. */
  readonly shift?: number;
  /** Is told about each file that is skipped; default `console.warn`. */
  readonly onWarning?: WarningListener;
}

/** Pictures of a folder. Beyond a picture's edges, where a shift or rotation shows them, it is mirrored. */
export class ImageFolder implements PictureSource {
  readonly description: string;
  private readonly skips: SkipList;
  private order?: { seed: number; epoch: number; files: Uint32Array };

  private constructor(
    folder: string,
    private readonly files: readonly string[],
    private readonly options: Required<Omit<ImageFolderOptions, "onWarning">>,
    onWarning: WarningListener,
  ) {
    this.skips = new SkipList(folder, files, onWarning);
    this.description = `${files.length === 1 ? "1 picture" : `${files.length} pictures`} of ${folder}`;
  }

  /**
   * Lists the folder and its subfolders for .jpg, .jpeg, .png and .webp files; reads none of them yet.
   *
   * @throws {UserError} missing, not a folder, without pictures, or an option out of range
   */
  static async open(folder: string, options: ImageFolderOptions = {}): Promise<ImageFolder> {
    const { augment = true, minCrop = 1, rotation = 10, shift = 0.1, onWarning = printWarning } = options;
    if (!augment) {
      for (const name of ["minCrop", "rotation", "shift"] as const) {
        if (options[name] === undefined) continue;
        throw new UserError(
          `ImageFolder option ${name}`,
          "expected it with augment only, got augment: false",
          "leave it out",
        );
      }
    }
    checkNumber("minCrop", minCrop, 0.1, 1);
    checkNumber("rotation", rotation, 0, 180);
    checkNumber("shift", shift, 0, 0.5);
    return new ImageFolder(folder, await listPictures(folder), { augment, minCrop, rotation, shift }, onWarning);
  }

  /** How many picture files there are, broken ones included. */
  get length(): number {
    return this.files.length;
  }

  /** How many files have turned out to be broken or gone so far; their samples show the next good file instead. */
  get skipped(): number {
    return this.skips.skipped;
  }

  /**
   * Sample `index` of `seed`. With augmentation every run of `length` samples is an epoch that shows every file once.
   *
   * @throws {ShapeError} `size` is not a positive integer
   * @throws {UserError} none of the files is a readable picture
   */
  async sample(seed: number, index: number, size: number): Promise<Picture> {
    if (!(Number.isInteger(size) && size > 0)) {
      throw new ShapeError(
        "ImageFolder.sample",
        `expected a size of 1 pixel or more, got ${size}`,
        "pass the side in pixels",
      );
    }
    const order = this.orderOf(seed, Math.floor(index / this.length));
    return this.skips.firstUsable(order, index % this.length, async (path) => {
      const picture = await openPicture(await readBytes(path), path);
      if (!this.options.augment) return centreCrop(picture, path, size);
      return this.augmented(picture, path, size, Rng.of(seed, CROP_STREAM, index));
    });
  }

  private orderOf(seed: number, epoch: number): Uint32Array {
    if (!this.options.augment) return Uint32Array.from(this.files.keys());
    // Only the latest order is kept; another one is made again when an older sample is asked for.
    if (this.order?.seed !== seed || this.order.epoch !== epoch) {
      const files = Rng.of(seed, ORDER_STREAM, epoch).permutation(this.length);
      this.order = { seed, epoch, files };
    }
    return this.order.files;
  }

  private async augmented(picture: OpenPicture, path: string, size: number, rng: Rng): Promise<Picture> {
    const { minCrop, rotation, shift } = this.options;
    const degrees = rng.uniform(-rotation, rotation);
    const scaled = scaledSize(picture, Math.round(size / rng.uniform(minCrop, 1)), path);
    // Centre of the square that the sample will show, in pixels of the scaled picture.
    const centreX = size / 2 + rng.uniform() * (scaled.width - size) + rng.uniform(-shift, shift) * size;
    const centreY = size / 2 + rng.uniform() * (scaled.height - size) + rng.uniform(-shift, shift) * size;
    const flip = rng.uniform() < 0.5;

    // First the upright square around the turned one, with a margin for the interpolation ...
    const radians = (degrees * Math.PI) / 180;
    const half = Math.ceil((size / 2) * (Math.abs(Math.cos(radians)) + Math.abs(Math.sin(radians)))) + 2;
    const around = await cutMirrored(
      picture,
      path,
      scaled,
      Math.round(centreX) - half,
      Math.round(centreY) - half,
      2 * half,
    );
    // ... then turned about its centre; the corners that turning leaves empty lie outside the middle.
    const raw = { width: 2 * half, height: 2 * half, channels: 3 } as const;
    const turned = await sharp(around, { raw }).rotate(degrees).raw().toBuffer({ resolveWithObject: true });
    const middle = sharp(turned.data, {
      raw: { width: turned.info.width, height: turned.info.height, channels: 3 },
    }).extract({
      left: Math.floor((turned.info.width - size) / 2),
      top: Math.floor((turned.info.height - size) / 2),
      width: size,
      height: size,
    });
    return rawToPicture(await runPipeline(flip ? middle.flop() : middle, path));
  }
}

interface Size {
  readonly width: number;
  readonly height: number;
}

/** sharp makes no larger ones. */
const LONGEST_SIDE = 100_000_000;

/**
 * The size that keeps the shape and makes the short side `shortSide`.
 * @throws {FormatError} a picture so thin that its long side would be too long
 */
function scaledSize({ width, height }: Size, shortSide: number, path: string): Size {
  const scale = shortSide / Math.min(width, height);
  if (Math.max(width, height) * scale > LONGEST_SIDE) {
    const problem = `expected a picture that can be scaled to a short side of ${shortSide}, got ${width}x${height}`;
    throw new FormatError(path, problem, "cut it into several, or leave it out");
  }
  return {
    width: Math.max(shortSide, Math.round(width * scale)),
    height: Math.max(shortSide, Math.round(height * scale)),
  };
}

async function centreCrop(picture: OpenPicture, path: string, size: number): Promise<Picture> {
  const { pipeline } = picture;
  const scaled = scaledSize(picture, size, path);
  const left = Math.floor((scaled.width - size) / 2);
  const top = Math.floor((scaled.height - size) / 2);
  const cut = pipeline.resize({ ...scaled, fit: "fill" }).extract({ left, top, width: size, height: size });
  return rawToPicture(await runPipeline(cut, path));
}

/** A square of the scaled picture, which may reach over its edges: there it is continued by its mirror image. */
async function cutMirrored(
  picture: OpenPicture,
  path: string,
  scaled: Size,
  left: number,
  top: number,
  side: number,
): Promise<Buffer> {
  const innerLeft = Math.max(0, left);
  const innerTop = Math.max(0, top);
  const innerRight = Math.min(scaled.width, left + side);
  const innerBottom = Math.min(scaled.height, top + side);
  const cut = picture.pipeline
    .resize({ ...scaled, fit: "fill" })
    .extract({ left: innerLeft, top: innerTop, width: innerRight - innerLeft, height: innerBottom - innerTop })
    .extend({
      left: innerLeft - left,
      top: innerTop - top,
      right: left + side - innerRight,
      bottom: top + side - innerBottom,
      extendWith: "mirror",
    });
  // sharp 0.35 makes these pixels, but reports the size before extend: trust the bytes, not the size.
  return (await runPipeline(cut, path)).bytes;
}

function checkNumber(name: string, value: number, low: number, high: number): void {
  if (value >= low && value <= high) return;
  throw new UserError(
    `ImageFolder option ${name}`,
    `expected a number from ${low} to ${high}, got ${value}`,
    "change it",
  );
}
