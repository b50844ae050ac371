/** The pictures and masks of a run, from folders or drawn. */
import { UserError } from "../../src/errors.js";
import { ImageFolder } from "../../src/io/imageFolder.js";
import { MaskFolder } from "../../src/io/maskFolder.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { MixedSource, type Source } from "../../src/pconv/mixedSource.js";
import type { MaskSource, PictureSource } from "../../src/pconv/picture.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import type { TrainOptions } from "./options.js";

/** A folder whose files can no longer be used, while training. */
export class SourceError extends UserError {}

/** The same source, whose errors say that they are of a source. */
function named<T>(source: Source<T>): Source<T> {
  const sample = (seed: number, index: number, size: number) =>
    source.sample(seed, index, size).catch((cause: unknown) => {
      if (!(cause instanceof UserError)) throw cause;
      throw new SourceError(cause.where, cause.problem, cause.help, { cause });
    });
  return { description: source.description, length: source.length, sample };
}

export interface Sources {
  readonly images: PictureSource;
  readonly masks: MaskSource;
  readonly validation: PictureSource | null;
  readonly test: PictureSource | null;
  /** Masks for validation, samples and test: not augmented. */
  readonly fixedMasks: MaskSource;
  /** The broken files that were skipped so far. */
  skipped(): ReadonlySet<string>;
}

/**
 * Opens every folder of a run, and reads a file of each, so that a folder of unusable files is found before anything is written.
 * @throws {UserError} for the first that is missing or has no usable pictures.
 */
export async function openSources(o: TrainOptions, onWarning: (message: string) => void): Promise<Sources> {
  const seen = new Set<string>();
  const skipped = new Set<string>();
  const once = (message: string, file?: string) => {
    // Masks are read twice, for training and for validation, and a folder may be used twice. The decoder may word the
    // fault of one file in two ways, so files are told apart by their paths.
    const key = file ?? message;
    if (file !== undefined) skipped.add(file);
    if (seen.has(key)) return;
    seen.add(key);
    onWarning(message);
  };
  const tried = async <T>(source: Source<T>): Promise<Source<T>> => {
    await source.sample(o.seed, 0, o.imageSize);
    return named(source);
  };
  const pictures = async (dir: string, augment: boolean) =>
    tried(await ImageFolder.open(dir, { augment, onWarning: once, ...(augment && { minCrop: o.minCrop }) }));
  const maskFolder = async (dir: string, augment: boolean) => {
    const options = augment ? { augment, dilation: o.maskDilation } : { augment };
    return tried(await MaskFolder.open(dir, { holes: o.holes, onWarning: once, ...options }));
  };
  const mixed = <T>(folder: Source<T>, drawn: Source<T>, share: number): Source<T> =>
    share === 0 ? folder : new MixedSource(folder, drawn, share);
  return {
    images:
      o.train === null
        ? new DeadLeavesSource()
        : mixed(await pictures(o.train, o.augment), new DeadLeavesSource(), o.drawnImages),
    validation: o.validation === null ? null : await pictures(o.validation, false),
    test: o.test === null ? null : await pictures(o.test, false),
    masks:
      o.masks === null
        ? new RandomMaskSource()
        : mixed(await maskFolder(o.masks, o.augment), new RandomMaskSource(), o.drawnMasks),
    fixedMasks: o.masks === null ? new RandomMaskSource() : await maskFolder(o.masks, false),
    skipped: () => skipped,
  };
}
