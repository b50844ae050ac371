/** The pictures and masks of a run, from folders or drawn. */
import { ImageFolder } from "../../src/io/imageFolder.js";
import { MaskFolder } from "../../src/io/maskFolder.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import type { MaskSource, PictureSource } from "../../src/pconv/picture.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import type { TrainOptions } from "./options.js";

export interface Sources {
  readonly images: PictureSource;
  readonly masks: MaskSource;
  readonly validation: PictureSource | null;
  readonly test: PictureSource | null;
  /** Masks for validation, samples and test: not augmented. */
  readonly fixedMasks: MaskSource;
  /** How many broken files were skipped so far. */
  skipped(): number;
}

/**
 * Opens every folder of a run.
 * @throws {UserError} for the first that is missing or has no pictures.
 */
export async function openSources(o: TrainOptions, onWarning: (message: string) => void): Promise<Sources> {
  const folders: { readonly skipped: number }[] = [];
  const pictures = async (dir: string, augment: boolean) => {
    const folder = await ImageFolder.open(dir, { augment, onWarning });
    folders.push(folder);
    return folder;
  };
  const maskFolder = async (dir: string, augment: boolean) => {
    const options = augment ? { augment, dilation: o.maskDilation } : { augment };
    const folder = await MaskFolder.open(dir, { holes: o.holes, onWarning, ...options });
    folders.push(folder);
    return folder;
  };
  return {
    images: o.train === null ? new DeadLeavesSource() : await pictures(o.train, o.augment),
    validation: o.validation === null ? null : await pictures(o.validation, false),
    test: o.test === null ? null : await pictures(o.test, false),
    masks: o.masks === null ? new RandomMaskSource() : await maskFolder(o.masks, o.augment),
    fixedMasks: o.masks === null ? new RandomMaskSource() : await maskFolder(o.masks, false),
    skipped: () => folders.reduce((sum, f) => sum + f.skipped, 0),
  };
}
