/**
 * A folder of mask pictures as a training source, varied as in the paper (section 4.1: binarised, dilated by 9 to 49 pixels,
 * then moved, turned and cropped at random). Node only.
 */
import { printable, ShapeError, UserError } from "../errors.js";
import { checkThreshold, type HoleColour, MASK_THRESHOLD, varyMask } from "../pconv/maskAugment.js";
import { type MaskPicture, type MaskSource, resizeMask } from "../pconv/picture.js";
import { isMixed } from "../pconv/randomMask.js";
import { Rng } from "../pconv/rng.js";
import { listPictures, printWarning, SkipList, type WarningListener } from "./folderList.js";
import { readMask } from "./imageFile.js";

/** Keys of this file's random streams ("mord" and "mcut" in ASCII). */
const ORDER_STREAM = 0x6d6f7264;
const CUT_STREAM = 0x6d637574;

/** Cuts without both holes and valid pixels are drawn again this often, before the whole mask is taken. */
const MAX_REDRAWS = 8;

/** Binarised masks are kept up to this many pixels, one byte each. */
const CACHE_PIXELS = 64 * 2 ** 20;

/** How a {@link MaskFolder} makes samples. */
export interface MaskFolderOptions {
  /** The colour that marks the hole. */
  readonly holes: HoleColour;
  /** Above this mean brightness (0..1) a pixel is white; default 0.6, the paper's. */
  readonly threshold?: number;
  /**
   * True (the default): masks in a new random order each epoch, dilated, turned, mirrored, cropped at random.
   * False: in the order of their names, each resized to the size by nearest neighbour.
   */
  readonly augment?: boolean;
  /**
   * How many pixels a 512-pixel mask's holes grow, smallest and largest, as the side of OpenCV's square kernel (9 grows by 4 in
   * each direction); scaled with the short side of the mask. Default [9, 49], the paper's; [0, 0] for none. Only with `augment`.
   */
  readonly dilation?: readonly [smallest: number, largest: number];
  /** Is told about each mask that is skipped, and once about grey pixels; default `console.warn`. */
  readonly onWarning?: WarningListener;
}

/** Masks of a folder; each sample has hole pixels and valid pixels. */
export class MaskFolder implements MaskSource {
  readonly description: string;
  /** How many pixels of the masks read so far were neither black nor white. */
  greyPixels = 0;
  private readonly skips: SkipList;
  private readonly cache = new Map<string, MaskPicture>();
  private cachedPixels = 0;
  private order?: { seed: number; epoch: number; files: Uint32Array };

  private constructor(
    folder: string,
    private readonly files: readonly string[],
    private readonly options: Required<MaskFolderOptions>,
  ) {
    this.skips = new SkipList(folder, files, options.onWarning);
    this.description = `${files.length === 1 ? "1 mask" : `${files.length} masks`} of ${folder} (${options.holes} = hole)`;
  }

  /**
   * Lists the folder and its subfolders for .jpg, .jpeg, .png and .webp files; reads none of them yet.
   *
   * @throws {UserError} missing, not a folder, without pictures, or an option out of range
   */
  static async open(folder: string, options: MaskFolderOptions): Promise<MaskFolder> {
    const { holes, threshold = MASK_THRESHOLD, augment = true, dilation = [9, 49], onWarning = printWarning } = options;
    if (holes !== "white" && holes !== "black") {
      throw new UserError(
        "MaskFolder option holes",
        `expected "white" or "black", got ${String(holes)}`,
        "say which colour is the hole",
      );
    }
    checkThreshold(threshold);
    if (!augment && options.dilation !== undefined) {
      throw new UserError(
        "MaskFolder option dilation",
        "expected it with augment only, got augment: false",
        "leave it out",
      );
    }
    if (!(dilation[0] >= 0 && dilation[0] <= dilation[1] && Number.isFinite(dilation[1]))) {
      throw new UserError(
        "MaskFolder option dilation",
        `expected [smallest, largest], got [${dilation.join(", ")}]`,
        "for example [9, 49]",
      );
    }
    return new MaskFolder(folder, await listPictures(folder), { holes, threshold, augment, dilation, onWarning });
  }

  /** How many mask files there are, unusable ones included. */
  get length(): number {
    return this.files.length;
  }

  /** How many files turned out to be broken, all hole, or all valid so far; their samples show the next good mask instead. */
  get skipped(): number {
    return this.skips.skipped;
  }

  /**
   * Sample `index` of `seed`, with at least one hole pixel and one valid pixel.
   *
   * @throws {ShapeError} `size` is below 2: one pixel cannot be both hole and valid
   * @throws {UserError} none of the files is a usable mask
   */
  async sample(seed: number, index: number, size: number): Promise<MaskPicture> {
    if (!(Number.isInteger(size) && size >= 2)) {
      throw new ShapeError(
        "MaskFolder.sample",
        `expected a size of 2 pixels or more, got ${size}`,
        "ask for larger masks",
      );
    }
    const order = this.orderOf(seed, Math.floor(index / this.length));
    return this.skips.firstUsable(order, index % this.length, async (path) => {
      const mask = await this.read(path);
      for (let attempt = 0; this.options.augment && attempt < MAX_REDRAWS; attempt++) {
        const cut = varyMask(mask, size, Rng.of(seed, CUT_STREAM, index, attempt), this.options.dilation);
        if (isMixed(cut)) return cut;
      }
      return wholeMask(mask, size);
    });
  }

  private orderOf(seed: number, epoch: number): Uint32Array {
    if (!this.options.augment) return Uint32Array.from(this.files.keys());
    if (this.order?.seed !== seed || this.order.epoch !== epoch) {
      this.order = { seed, epoch, files: Rng.of(seed, ORDER_STREAM, epoch).permutation(this.length) };
    }
    return this.order.files;
  }

  private async read(path: string): Promise<MaskPicture> {
    const known = this.cache.get(path);
    if (known) return known;
    const { mask, greyPixels } = await readMask(path, this.options.holes, this.options.threshold);
    if (!isMixed(mask)) throw unusable(path, mask);
    // Two samples may have read the same file at once; it counts once.
    if (this.cache.has(path)) return mask;
    if (greyPixels > 0 && this.greyPixels === 0) {
      const { threshold } = this.options;
      this.options.onWarning(
        `${printable(path)}: ${greyPixels} grey pixels; above ${threshold} they count as white, others as black`,
      );
    }
    this.greyPixels += greyPixels;
    if (this.cachedPixels + mask.values.length <= CACHE_PIXELS) {
      this.cache.set(path, mask);
      this.cachedPixels += mask.values.length;
    }
    return mask;
  }
}

/**
 * The whole mask, resized by nearest neighbour; its shape is not kept. Holes (or valid parts) too small to be hit by any
 * output pixel would be lost; if that makes the result uniform, one such pixel is kept.
 */
function wholeMask(mask: MaskPicture, size: number): MaskPicture {
  const { width, height } = mask;
  const resized = resizeMask(mask, size, size);
  if (!isMixed(resized)) {
    const { values } = resized;
    const lost = mask.values.indexOf(1 - values[0]);
    const [x, y] = [
      Math.floor(((lost % width) * size) / width),
      Math.floor((Math.floor(lost / width) * size) / height),
    ];
    values[y * size + x] = 1 - values[0];
  }
  return resized;
}

function unusable(path: string, mask: MaskPicture): UserError {
  const got = mask.values[0] === 0 ? "all hole" : "all valid";
  return new UserError(
    path,
    `expected a mask with both hole and valid pixels, got one that is ${got}`,
    "check which colour is the hole (holes), or leave the file out",
  );
}
