/** From a stored picture to what a network reads, and back into the stored samples of the hole. */
import type { MaskPicture, Picture } from "../pconv/picture.js";
import { displayOrder, swapsSides } from "./orientation.js";
import type { StoredPicture } from "./storedPicture.js";

/** The size in which a picture is displayed, upright. */
export function displayedSize({ width, height, orientation }: StoredPicture): { width: number; height: number } {
  return swapsSides(orientation) ? { width: height, height: width } : { width, height };
}

/** A mask that follows the stored pixels, turned as the picture is for display. */
export function maskAsDisplayed(mask: MaskPicture, stored: StoredPicture): MaskPicture {
  const order = displayOrder(stored.orientation, stored.width, stored.height);
  return { ...displayedSize(stored), values: Uint8Array.from(order, (from) => mask.values[from]) };
}

/** Upright pictures for the network. */
export interface Views {
  /**
   * RGB in 0..1 as stored, whatever the profile; gray three times. CMYK gives two: the light that cyan, magenta and yellow leave, and
   * what black leaves, three times. So no profile is needed, and what is filled has the ink of what is around it.
   */
  readonly pictures: readonly Picture[];
  /** 0 where the picture is fully transparent and its colour means nothing; null if nowhere. */
  readonly seen: MaskPicture | null;
}

/** Makes the pictures that the network fills. */
export function viewsOf(stored: StoredPicture): Views {
  const { colour, channels, samples, palette, width, height } = stored;
  const size = displayedSize(stored);
  const order = displayOrder(stored.orientation, width, height);
  const most = 2 ** stored.depth - 1;
  const view = (value: (from: number, k: number) => number): Picture => {
    const pixels = new Float32Array(order.length * 3);
    for (let i = 0; i < order.length; i++) for (let k = 0; k < 3; k++) pixels[3 * i + k] = value(order[i], k);
    return { ...size, pixels };
  };
  const values = Uint8Array.from(order, (from) => (isTransparent(stored, from) ? 0 : 1));
  const seen = values.includes(0) ? { ...size, values } : null;
  switch (colour) {
    case "rgb":
      return { pictures: [view((from, k) => samples[from * channels + k] / most)], seen };
    case "gray":
      return { pictures: [view((from) => samples[from * channels] / most)], seen };
    case "palette":
      return { pictures: [view((from, k) => palette![4 * samples[from] + k] / 255)], seen };
    case "cmyk": {
      const inks = view((from, k) => 1 - samples[from * channels + k] / most);
      return { pictures: [inks, view((from) => 1 - samples[from * channels + 3] / most)], seen };
    }
  }
}

function isTransparent({ alpha, channels, samples, palette, key }: StoredPicture, pixel: number): boolean {
  if (alpha) return samples[(pixel + 1) * channels - 1] === 0;
  if (palette) return palette[4 * samples[pixel] + 3] === 0;
  return key !== null && key.every((v, k) => samples[pixel * channels + k] === v);
}

/**
 * The picture with the pixels of the hole replaced, and all others, alpha and metadata as they were. Pixels that are fully
 * transparent stay, in the hole too. A palette stays as it is: each pixel takes the nearest of its colours.
 *
 * @param hole upright, 0 = replace
 * @param fills upright, one for each of {@link viewsOf}'s pictures
 */
export function fillStored(stored: StoredPicture, hole: MaskPicture, fills: readonly Picture[]): StoredPicture {
  const { colour, channels, palette, key } = stored;
  const samples = stored.samples.slice();
  const order = displayOrder(stored.orientation, stored.width, stored.height);
  const most = 2 ** stored.depth - 1;
  const level = (v: number): number => Math.round(v * most);
  const [{ pixels }] = fills;
  const nearest = palette ? new Dither(palette, hole.width) : null;
  for (let i = 0; i < order.length; i++) {
    const pixel = order[i];
    const at = pixel * channels;
    if (hole.values[i] === 1 || isTransparent(stored, pixel)) continue;
    if (nearest) {
      samples[at] = nearest.choose(pixels, i, palette![4 * samples[at] + 3]);
      continue;
    }
    if (colour === "gray") samples[at] = level((pixels[3 * i] + pixels[3 * i + 1] + pixels[3 * i + 2]) / 3);
    else
      for (let k = 0; k < 3; k++)
        samples[at + k] = level(colour === "cmyk" ? 1 - pixels[3 * i + k] : pixels[3 * i + k]);
    if (colour === "cmyk") {
      const black = fills[1].pixels;
      samples[at + 3] = level(1 - (black[3 * i] + black[3 * i + 1] + black[3 * i + 2]) / 3);
    }
    // What is drawn must not become transparent by chance.
    if (key?.every((v, k) => samples[at + k] === v)) samples[at] += samples[at] < most ? 1 : -1;
  }
  return { ...stored, samples };
}

/** Floyd and Steinberg's error diffusion to the colours of a palette; pixels are asked for row by row. */
class Dither {
  /** Errors to add to the pixels of this row and of the next, by column, with one more at each end. */
  private errors: [Float32Array, Float32Array];
  private row = 0;

  constructor(
    private readonly palette: Uint8Array,
    private readonly width: number,
  ) {
    this.errors = [new Float32Array(3 * (width + 2)), new Float32Array(3 * (width + 2))];
  }

  /** The entry for pixel `i` among those of this alpha; there is one, as the pixel had it. */
  choose(pixels: Float32Array, i: number, alpha: number): number {
    const [x, y] = [i % this.width, Math.floor(i / this.width)];
    for (; this.row < y; this.row++) this.errors = [this.errors[1], new Float32Array(3 * (this.width + 2))];
    const [now, below] = this.errors;
    const at = 3 * (x + 1);
    const wanted = [0, 1, 2].map((k) => Math.min(255, Math.max(0, 255 * pixels[3 * i + k] + now[at + k])));
    let best = 0;
    let least = Infinity;
    for (let e = 0; 4 * e < this.palette.length; e++) {
      if (this.palette[4 * e + 3] !== alpha) continue;
      const distance = wanted.reduce((sum, v, k) => sum + (v - this.palette[4 * e + k]) ** 2, 0);
      if (distance < least) [best, least] = [e, distance];
    }
    wanted.forEach((v, k) => {
      const error = v - this.palette[4 * best + k];
      now[at + 3 + k] += (error * 7) / 16;
      below[at - 3 + k] += (error * 3) / 16;
      below[at + k] += (error * 5) / 16;
      below[at + 3 + k] += error / 16;
    });
    return best;
  }
}
