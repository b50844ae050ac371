/** A mask file and the picture that it is for: polarity, size and orientation. */
import { ShapeError, UserError } from "../../src/errors.js";
import { readMask } from "../../src/io/imageFile.js";
import { displayedSize, maskAsDisplayed } from "../../src/io/storedFill.js";
import type { StoredPicture } from "../../src/io/storedPicture.js";
import type { HoleColour } from "../../src/pconv/maskAugment.js";
import { type MaskPicture, resizeMask } from "../../src/pconv/picture.js";

/** Which way round a mask is: like the picture on the screen, or like its pixels in the file. */
export type MaskOrientation = "displayed" | "stored";

export interface MaskOptions {
  readonly holes: HoleColour;
  readonly maskOrientation?: MaskOrientation;
  readonly resizeMask?: true;
}

export interface FittedMask {
  /** In the displayed orientation. */
  readonly mask: MaskPicture;
  readonly greyPixels: number;
  /** What was done to make it fit, for people. */
  readonly notes: readonly string[];
}

interface Size {
  readonly width: number;
  readonly height: number;
}

const same = (a: Size, b: Size): boolean => a.width === b.width && a.height === b.height;
const text = ({ width, height }: Size): string => `${width}x${height}`;

/**
 * Reads a mask for a picture.
 *
 * @throws {ShapeError} another size, without `resizeMask`
 * @throws {UserError} the mask fits the displayed and the stored picture, and they differ; or it cannot be read
 */
export async function fitMask(path: string, stored: StoredPicture, o: MaskOptions): Promise<FittedMask> {
  const { mask: read, greyPixels } = await readMask(path, o.holes);
  const notes: string[] = [];
  const displayed = displayedSize(stored);
  const turned = stored.orientation !== 1;
  const wanted = { displayed, stored: { width: stored.width, height: stored.height } };
  let way: MaskOrientation = o.maskOrientation ?? "displayed";
  let mask = read;
  if (turned && o.maskOrientation === undefined && !same(mask, displayed) && same(mask, stored)) way = "stored";
  if (!same(mask, wanted[way])) {
    if (!o.resizeMask) throw wrongSize(path, mask, stored, displayed);
    mask = resizeMask(mask, wanted[way].width, wanted[way].height);
    notes.push(`mask resized from ${text(read)} to ${text(mask)} (nearest neighbour)`);
  }
  if (!turned) return { mask, greyPixels, notes };
  if (o.maskOrientation === undefined && same(mask, displayed) && same(mask, stored)) {
    const other = maskAsDisplayed(mask, stored);
    if (other.values.some((v, i) => v !== mask.values[i])) {
      throw new UserError(
        path,
        `expected a mask that fits in one way, got one that fits the displayed picture and the stored pixels (EXIF orientation ${stored.orientation})`,
        "pass --mask-orientation displayed if it was drawn over the picture as viewers show it, else --mask-orientation stored",
      );
    }
  }
  notes.push(
    `EXIF orientation ${stored.orientation}: the mask follows the ${way === "displayed" ? "displayed picture" : "stored pixels"}`,
  );
  return { mask: way === "stored" ? maskAsDisplayed(mask, stored) : mask, greyPixels, notes };
}

function wrongSize(path: string, mask: Size, stored: StoredPicture, displayed: Size): ShapeError {
  const turned = same(displayed, stored) ? "" : ` as displayed, or ${text(stored)} as stored`;
  return new ShapeError(
    path,
    `expected a mask of ${text(displayed)}${turned} for ${stored.path}, got ${text(mask)}`,
    "pass --resize-mask to resize it by nearest neighbour",
  );
}
