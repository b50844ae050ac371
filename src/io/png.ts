/** PNG files of pictures and masks, by pngjs. Node only. */
import { PNG } from "pngjs";
import type { HoleColour } from "../pconv/maskAugment.js";
import type { MaskPicture, Picture } from "../pconv/picture.js";
import { writeWhole } from "./files.js";

const GRAY = 0;
const RGB = 2;

/**
 * A picture as the bytes of an 8-bit RGB PNG. Values are clamped to 0..1 and rounded; a pixel with NaN comes out magenta,
 * so that it is seen rather than taken for black.
 */
export function encodePng(picture: Picture): Uint8Array {
  const { width, height, pixels } = picture;
  const png = new PNG({ width, height });
  const bytes = Buffer.alloc(width * height * 3);
  for (let i = 0; i < bytes.length; i += 3) {
    if (Number.isNaN(pixels[i] + pixels[i + 1] + pixels[i + 2])) {
      bytes[i] = bytes[i + 2] = 255;
      continue;
    }
    for (let k = i; k < i + 3; k++) bytes[k] = Math.round(Math.min(1, Math.max(0, pixels[k])) * 255);
  }
  png.data = bytes;
  return PNG.sync.write(png, { colorType: RGB, inputColorType: RGB, inputHasAlpha: false, deflateLevel: 6 });
}

/** A mask as the bytes of an 8-bit gray PNG of pure black and white; `holes` is the colour of the hole. */
export function encodeMaskPng(mask: MaskPicture, holes: HoleColour = "white"): Uint8Array {
  const { width, height, values } = mask;
  const png = new PNG({ width, height });
  const valid = holes === "white" ? 0 : 255;
  png.data = Buffer.from(values.map((v) => (v === 1 ? valid : 255 - valid)));
  return PNG.sync.write(png, { colorType: GRAY, inputColorType: GRAY, inputHasAlpha: false });
}

/**
 * Writes {@link encodePng} to a file, whole or not at all.
 *
 * @throws {UserError} the place cannot be written to
 */
export function writePicturePng(path: string, picture: Picture): Promise<void> {
  return writeWhole(path, encodePng(picture));
}

/**
 * Writes {@link encodeMaskPng} to a file, whole or not at all.
 *
 * @throws {UserError} the place cannot be written to
 */
export function writeMaskPng(path: string, mask: MaskPicture, holes: HoleColour = "white"): Promise<void> {
  return writeWhole(path, encodeMaskPng(mask, holes));
}
