/**
 * A picture file as it is stored: its own samples, channels, depth, orientation and metadata, so that a few pixels can be
 * replaced and everything else written back as it was. Node only.
 */
import sharp from "sharp";
import { FormatError } from "../errors.js";
import { readBytes } from "./files.js";
import { checkPixels, firstLine, isForSharp, notAPicture, SHARP_FORMATS } from "./imageFile.js";
import type { Orientation } from "./orientation.js";
import { decodePng, isPng, readPngHeader } from "./pngDecode.js";
import { exifOrientation, metadataChunks, type PngChunk, splitPng } from "./pngChunks.js";

/** A picture as its file holds it: channels, depth, orientation, profile and all. */
export interface StoredPicture {
  readonly path: string;
  /** What kind of file it is: `png`, `jpeg`, `webp`, `tiff`, `gif`, `heif` ... */
  readonly format: string;
  /** What the channels before alpha are. `palette`: one channel of indices. `cmyk`: 0 = no ink. */
  readonly colour: "gray" | "rgb" | "cmyk" | "palette";
  /** Whether the last channel is alpha. */
  readonly alpha: boolean;
  /** Bits of a sample: 1, 2, 4, 8 or 16. */
  readonly depth: number;
  /** Size as stored; for some orientations the displayed one is the other way round. */
  readonly width: number;
  readonly height: number;
  readonly channels: number;
  /** [height, width, channels] as stored, each 0 to 2^depth - 1. */
  readonly samples: Uint8Array | Uint16Array;
  readonly orientation: Orientation;
  /** What a PNG of it holds besides its header and pixels: profile, EXIF, palette, texts. */
  readonly chunks: readonly PngChunk[];
  /** The same for a TIFF, which needs them unpacked. */
  readonly metadata: { readonly icc?: Buffer; readonly xmp?: Buffer };
  /** Colours of a palette, [entries, 4] RGBA, 0..255. */
  readonly palette: Uint8Array | null;
  /** The colour that is transparent, where a PNG without alpha channel names one. */
  readonly key: readonly number[] | null;
}

/**
 * Reads a picture without changing its pixels: no colour conversion, no turning upright.
 *
 * @throws {UserError} the file is missing, a folder, or not readable
 * @throws {FormatError} not a picture, damaged, too large, animated, or with samples that are not 1 to 16 bit integers of gray, RGB or CMYK
 */
export async function readStored(path: string): Promise<StoredPicture> {
  const bytes = await readBytes(path);
  return isPng(bytes) ? readStoredPng(bytes, path) : readOther(bytes, path);
}

const PNG_COLOUR = { 0: "gray", 2: "rgb", 3: "palette", 4: "gray", 6: "rgb" } as const;
/** Of RGBA: where the channels of each PNG colour type are. */
const PNG_CHANNELS: Record<number, readonly number[]> = { 0: [0], 2: [0, 1, 2], 4: [0, 3], 6: [0, 1, 2, 3] };

async function readStoredPng(bytes: Buffer, path: string): Promise<StoredPicture> {
  const { width, height, bitDepth: depth, channels: storedChannels } = readPngHeader(bytes, path);
  checkPixels({ width, height }, path);
  const type = bytes[25] as keyof typeof PNG_COLOUR;
  const all = splitPng(bytes, path);
  if (all.some((c) => c.type === "acTL")) throw animated(path);
  const chunks = all.filter((c) => !["IHDR", "IDAT", "IEND"].includes(c.type));
  const body = (name: string) => chunks.find((c) => c.type === name)?.body;
  const { samples: rgba } = await decodePng(bytes, path, true);
  const count = width * height;
  const colour = PNG_COLOUR[type];
  const tRNS = body("tRNS");
  const key =
    tRNS && (type === 0 || type === 2)
      ? Array.from({ length: tRNS.length / 2 }, (_, k) => 256 * tRNS[2 * k] + tRNS[2 * k + 1])
      : null;
  const palette = colour === "palette" ? rgbaPalette(body("PLTE") ?? new Uint8Array(), tRNS) : null;
  const samples = depth === 16 ? new Uint16Array(count * storedChannels) : new Uint8Array(count * storedChannels);
  if (palette) {
    const indices = new Map<number, number>();
    // The first of equal entries wins: it looks the same.
    for (let i = palette.length / 4 - 1; i >= 0; i--) indices.set(colourNumber(palette, 4 * i), i);
    for (let i = 0; i < count; i++) samples[i] = indices.get(colourNumber(rgba, 4 * i)) ?? 0;
  } else {
    const from = PNG_CHANNELS[type];
    // pngjs spreads 1, 2 and 4 bits over 0..255.
    const step = depth < 8 ? 255 / (2 ** depth - 1) : 1;
    for (let i = 0; i < count; i++) {
      // pngjs blackens what the colour key makes transparent.
      const keyed = key !== null && rgba[4 * i + 3] === 0;
      for (let k = 0; k < storedChannels; k++) {
        samples[i * storedChannels + k] = keyed ? key[k] : rgba[4 * i + from[k]] / step;
      }
    }
  }
  const exif = body("eXIf");
  return {
    path,
    format: "png",
    colour,
    alpha: type === 4 || type === 6,
    depth,
    width,
    height,
    channels: storedChannels,
    samples,
    orientation: exif ? exifOrientation(Buffer.from(exif)) : 1,
    chunks,
    metadata: {},
    palette,
    key,
  };
}

const colourNumber = (rgba: Uint8Array | Uint16Array, at: number): number =>
  ((rgba[at] * 256 + rgba[at + 1]) * 256 + rgba[at + 2]) * 256 + rgba[at + 3];

function rgbaPalette(plte: Uint8Array, tRNS: Uint8Array | undefined): Uint8Array {
  const palette = new Uint8Array((plte.length / 3) * 4);
  for (let i = 0; 3 * i < plte.length; i++) {
    palette.set(plte.subarray(3 * i, 3 * i + 3), 4 * i);
    palette[4 * i + 3] = tRNS?.[i] ?? 255;
  }
  return palette;
}

/** sharp's names of colour spaces, and how to ask it for samples as they are. */
const SPACES: Record<
  string,
  { readonly colour: "gray" | "rgb" | "cmyk"; readonly keep: string; readonly depth: 8 | 16 }
> = {
  srgb: { colour: "rgb", keep: "srgb", depth: 8 },
  "b-w": { colour: "gray", keep: "b-w", depth: 8 },
  rgb16: { colour: "rgb", keep: "rgb16", depth: 16 },
  grey16: { colour: "gray", keep: "grey16", depth: 16 },
  cmyk: { colour: "cmyk", keep: "cmyk", depth: 8 },
};

async function readOther(bytes: Buffer, path: string): Promise<StoredPicture> {
  if (!isForSharp(bytes)) throw notAPicture(bytes, path);
  // The profile is kept beside the samples, so it must not be applied to them.
  const pipeline = sharp(bytes, { failOn: "warning", limitInputPixels: false, ignoreIcc: true });
  const read = await pipeline.metadata().catch((cause: unknown) => {
    throw notAPicture(bytes, path, cause);
  });
  if (!SHARP_FORMATS.includes(read.format)) throw notAPicture(bytes, path);
  checkPixels(read, path);
  if ((read.pages ?? 1) > 1) throw animated(path);
  const space = SPACES[read.space];
  if (space === undefined || read.depth !== (space.depth === 8 ? "uchar" : "ushort")) {
    throw new FormatError(
      path,
      `expected gray, RGB or CMYK samples of 8 or 16 bits, got ${read.space} of ${read.depth}`,
      "convert the picture to RGB",
    );
  }
  if (space.colour === "cmyk") pipeline.pipelineColourspace("cmyk");
  const { data: raw, info } = await pipeline
    .toColourspace(space.keep)
    .raw({ depth: space.depth === 16 ? "ushort" : "uchar" })
    .toBuffer({ resolveWithObject: true })
    .catch((cause: unknown) => {
      throw new FormatError(
        path,
        `expected a picture, got a damaged or truncated one (${firstLine(cause)})`,
        "get the file again, or leave it out",
        { cause },
      );
    });
  const { icc, exif, xmp, density } = read;
  const orientation = read.orientation !== undefined && read.orientation <= 8 ? Math.max(1, read.orientation) : 1;
  return {
    path,
    format: read.format,
    colour: space.colour,
    alpha: read.hasAlpha,
    depth: space.depth,
    width: info.width,
    height: info.height,
    channels: info.channels,
    // A copy: 16-bit samples must be aligned, and a Buffer is not an ordinary array.
    samples: space.depth === 16 ? new Uint16Array(Uint8Array.from(raw).buffer) : new Uint8Array(raw),
    orientation,
    chunks: metadataChunks({ icc, exif, orientation, xmp, density }),
    metadata: { icc, xmp },
    palette: null,
    key: null,
  };
}

const animated = (path: string): FormatError =>
  new FormatError(path, "expected one picture, got an animation or several pages", "save one picture of it on its own");
