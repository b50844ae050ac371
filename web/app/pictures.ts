/** Pictures as the page has them: 8 bits, straight alpha; and the way to the library's and back. No DOM in here. */
import type { MaskPicture, Picture } from "../../src/pconv/picture.js";

/** `rgba` is [height, width, 4]. */
export interface RgbaPicture {
  readonly width: number;
  readonly height: number;
  readonly rgba: Uint8ClampedArray<ArrayBuffer>;
}

/** RGB in 0..1; what is transparent keeps its colour. */
export function toPicture({ width, height, rgba }: RgbaPicture): Picture {
  const pixels = new Float32Array(width * height * 3);
  for (let i = 0, at = 0; i < rgba.length; i += 4) {
    pixels[at++] = rgba[i] / 255;
    pixels[at++] = rgba[i + 1] / 255;
    pixels[at++] = rgba[i + 2] / 255;
  }
  return { width, height, pixels };
}

/** 1 where a pixel has a colour to go by; null where all have. */
export function seenPixels({ width, height, rgba }: RgbaPicture): MaskPicture | null {
  const values = new Uint8Array(width * height);
  for (let i = 0; i < values.length; i++) values[i] = rgba[4 * i + 3] > 0 ? 1 : 0;
  return values.includes(0) ? { width, height, values } : null;
}

/** A copy with the hole's pixels taken from `filled`, opaque; every other byte is the original's. */
export function withHoleFilled(original: RgbaPicture, mask: MaskPicture, filled: Picture): RgbaPicture {
  const rgba = original.rgba.slice();
  for (let i = 0; i < mask.values.length; i++) {
    if (mask.values[i] === 1) continue;
    for (let k = 0; k < 3; k++) rgba[4 * i + k] = Math.round(255 * filled.pixels[3 * i + k]);
    rgba[4 * i + 3] = 255;
  }
  return { ...original, rgba };
}

/** A mask as files have it: white = hole, black = valid. */
export function maskToRgba({ width, height, values }: MaskPicture): RgbaPicture {
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let i = 0; i < values.length; i++) rgba.set(values[i] === 1 ? [0, 0, 0, 255] : [255, 255, 255, 255], 4 * i);
  return { width, height, rgba };
}

/** A file's mask: hole where it is light and opaque. */
export function maskFromRgba({ width, height, rgba }: RgbaPicture): MaskPicture {
  const values = new Uint8Array(width * height);
  for (let i = 0; i < values.length; i++) {
    const light = (rgba[4 * i] + rgba[4 * i + 1] + rgba[4 * i + 2]) / 3;
    values[i] = light * (rgba[4 * i + 3] / 255) > 127 ? 0 : 1;
  }
  return { width, height, values };
}
