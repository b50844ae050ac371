/** What the guides' scripts share: where their pictures go, and small changes to them. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { encodePng, type MaskPicture, type Picture } from "pconv-webgpu";
import sharp from "sharp";

/** How a guide is run. */
export interface GuideOptions {
  /** Folder of the pictures that it makes. */
  readonly out: string;
  /** Fewer steps and samples: to see that it works, not what it shows. */
  readonly quick: boolean;
}

/** How pictures are written: few colours, a third of the bytes, and no difference to the eye in pictures this small. */
const FEW_COLOURS = { palette: true, quality: 55, dither: 0, effort: 10 };

async function save({ out }: GuideOptions, name: string, png: Buffer): Promise<void> {
  await mkdir(out, { recursive: true });
  const path = join(out, `${name}.png`);
  await writeFile(path, png);
  console.log(`picture: ${path}`);
}

/** Writes `NAME.png` into the guide's folder. */
export async function savePicture(o: GuideOptions, name: string, picture: Picture): Promise<void> {
  await save(o, name, await sharp(encodePng(picture)).png(FEW_COLOURS).toBuffer());
}

/** Writes a chart as `NAME.png` into the guide's folder. */
export async function saveChart(o: GuideOptions, name: string, svg: string): Promise<void> {
  await save(o, name, await sharp(Buffer.from(svg)).png(FEW_COLOURS).toBuffer());
}

/** A mask drawn anew at another size, each pixel as a block. */
export function resizedMask({ width, height, values }: MaskPicture, side: number): MaskPicture {
  const source = (i: number) => {
    const [x, y] = [i % side, Math.floor(i / side)];
    return Math.floor((y * height) / side) * width + Math.floor((x * width) / side);
  };
  return { width: side, height: side, values: Uint8Array.from({ length: side * side }, (_, i) => values[source(i)]) };
}

/** A picture with each pixel as a block of `scale` x `scale`. */
export function enlarged({ width, height, pixels }: Picture, scale: number): Picture {
  const [w, h] = [width * scale, height * scale];
  const at = (i: number) => {
    const [x, y] = [Math.floor(i / 3) % w, Math.floor(i / 3 / w)];
    return 3 * (Math.floor(y / scale) * width + Math.floor(x / scale)) + (i % 3);
  };
  return { width: w, height: h, pixels: Float32Array.from({ length: w * h * 3 }, (_, i) => pixels[at(i)]) };
}

/** A square mask whose hole is a disc in the middle, of a `share` of the side across. */
export function discMask(side: number, share: number): MaskPicture {
  const centre = (side - 1) / 2;
  const inside = (i: number) => Math.hypot((i % side) - centre, Math.floor(i / side) - centre) < (share * side) / 2;
  return { width: side, height: side, values: Uint8Array.from({ length: side * side }, (_, i) => (inside(i) ? 0 : 1)) };
}

/** `f(0)`, `f(1)`, ... `f(count - 1)`. */
export const times = <T>(count: number, f: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => f(i));

export const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
