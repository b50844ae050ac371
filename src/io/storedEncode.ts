/** Writing a stored picture: in the format that keeps every sample, or in another that the user names. Node only. */
import { extname } from "node:path";
import { deflateSync } from "node:zlib";
import { PNG } from "pngjs";
import sharp from "sharp";
import { UserError } from "../errors.js";
import { joinPng, type PngChunk, splitPng } from "./pngChunks.js";
import type { StoredPicture } from "./storedPicture.js";

/** Formats that can be written. */
export type OutputFormat = "png" | "webp" | "tiff" | "jpeg";

const FORMATS: Record<string, OutputFormat> = {
  ".png": "png",
  ".webp": "webp",
  ".tif": "tiff",
  ".tiff": "tiff",
  ".jpg": "jpeg",
  ".jpeg": "jpeg",
};

/** The format that a file's name asks for; undefined where it does not name one. */
export const formatOfName = (path: string): OutputFormat | undefined => FORMATS[extname(path).toLowerCase()];

/** The format that keeps a picture's mode and every sample of it: its own where that is without loss, else PNG, or TIFF for CMYK. */
export function losslessFormat({ format, colour }: StoredPicture): OutputFormat {
  if (colour === "cmyk") return "tiff";
  return format === "webp" ? "webp" : "png";
}

/** What a format cannot keep of this picture, in words; empty where it keeps everything. */
export function lossesOf({ colour, depth, chunks }: StoredPicture, format: OutputFormat): string[] {
  const losses: string[] = [];
  if (format === "jpeg") losses.push("JPEG changes pixels outside the hole by a few levels");
  if (depth === 16 && format !== "png") losses.push(`${format} is written with 8 bits a sample, not 16`);
  const becomesRgb = (format === "webp" && colour === "gray") || (format !== "png" && colour === "palette");
  if (becomesRgb) losses.push(`${format} is written as RGB, not ${colour}`);
  if (colour === "cmyk" && chunks.some((c) => c.type === "eXIf"))
    losses.push("of the EXIF block only the orientation is kept");
  return losses;
}

/**
 * Encodes a picture, its orientation and its profile.
 *
 * @throws {UserError} a format that cannot hold it: CMYK as PNG or WebP, alpha as JPEG
 */
export async function encodeStored(stored: StoredPicture, format: OutputFormat): Promise<Uint8Array> {
  const cmyk = stored.colour === "cmyk";
  const transparent =
    stored.alpha || stored.key !== null || (stored.palette?.some((v, i) => i % 4 === 3 && v < 255) ?? false);
  if (cmyk && (format === "png" || format === "webp")) {
    throw new UserError(
      stored.path,
      `expected a format for CMYK, got ${format}`,
      "write .tif, or .jpg with a small loss",
    );
  }
  if (transparent && format === "jpeg") {
    throw new UserError(stored.path, "expected a format with transparency, got jpeg", "write .png or .webp");
  }
  if (cmyk && format === "tiff") return encodeCmykTiff(stored);
  if (format === "png") return encodeStoredPng(stored, 6);
  // PNG and TIFF carry samples and metadata to sharp, which turns nothing and applies no profile.
  const pipeline = sharp(cmyk ? encodeCmykTiff(stored) : encodeStoredPng(stored, 1), {
    limitInputPixels: false,
    ignoreIcc: true,
  });
  pipeline.keepMetadata();
  if (cmyk) pipeline.pipelineColourspace("cmyk").toColourspace("cmyk");
  else if (stored.colour === "gray") pipeline.toColourspace("b-w");
  switch (format) {
    case "webp":
      return pipeline.webp({ lossless: true, exact: true }).toBuffer();
    case "tiff":
      return pipeline.tiff({ compression: "deflate" }).toBuffer();
    case "jpeg":
      return pipeline.jpeg({ quality: 100, chromaSubsampling: "4:4:4" }).toBuffer();
  }
}

const GRAY = 0;
const RGB = 2;
const PALETTE = 3;
const ALPHA = 4;

/** The picture as a PNG of its own colour type and depth, not interlaced. */
function encodeStoredPng(stored: StoredPicture, deflateLevel: number): Buffer {
  const { width, height, depth, samples, colour, alpha, chunks } = stored;
  const colourType = colour === "palette" ? PALETTE : (colour === "gray" ? GRAY : RGB) + (alpha ? ALPHA : 0);
  // pngjs does not write palettes nor less than 8 bits: as bytes of gray, they are filtered and packed the same.
  const bytewise = colourType === PALETTE || depth < 8;
  const packed = depth < 8 ? packBits(samples, width, height, depth) : null;
  const png = new PNG({ width: packed ? packed.length / height : width, height });
  const bytes = packed ?? samples;
  png.data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const inputColorType = (bytewise ? GRAY : colourType) as 0 | 2 | 4 | 6;
  const written = PNG.sync.write(png, {
    colorType: inputColorType,
    inputColorType,
    inputHasAlpha: alpha,
    bitDepth: depth === 16 ? 16 : 8,
    deflateLevel,
    deflateStrategy: 0,
  });
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([depth, colourType], 8);
  const pixels = splitPng(written, stored.path).filter((c) => c.type === "IDAT");
  // All of ours may stand before the pixels, also those that their writer had put behind.
  return joinPng([{ type: "IHDR", body: header }, ...chunks, ...pixels, END]);
}

const END: PngChunk = { type: "IEND", body: new Uint8Array() };

/** Rows of samples of less than a byte, the first in the high bits; each row begins with a new byte. */
function packBits(samples: ArrayLike<number>, width: number, height: number, depth: number): Uint8Array {
  const perByte = 8 / depth;
  const rowBytes = Math.ceil(width / perByte);
  const packed = new Uint8Array(rowBytes * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const shift = 8 - depth * ((x % perByte) + 1);
      packed[y * rowBytes + Math.floor(x / perByte)] |= samples[y * width + x] << shift;
    }
  }
  return packed;
}

const SHORT = 3;
const LONG = 4;
const UNDEFINED = 7;
const BYTE = 1;

/**
 * A CMYK picture as a deflate-packed TIFF: sharp cannot be given CMYK samples.
 * Source: TIFF 6.0, sections 2 and 16; Adobe Photoshop TIFF technical notes (deflate, 2002).
 */
function encodeCmykTiff({ width, height, channels, samples, alpha, orientation, metadata }: StoredPicture): Buffer {
  const strip = deflateSync(samples, { level: 6 });
  const shorts = (...values: number[]): Buffer => Buffer.from(Uint16Array.from(values).buffer);
  const longs = (...values: number[]): Buffer => Buffer.from(Uint32Array.from(values).buffer);
  const stripOffset = 8;
  const entries: [tag: number, type: number, count: number, value: Buffer][] = [
    [256, LONG, 1, longs(width)],
    [257, LONG, 1, longs(height)],
    [258, SHORT, channels, shorts(...new Array<number>(channels).fill(8))],
    [259, SHORT, 1, shorts(8)], // deflate
    [262, SHORT, 1, shorts(5)], // separated inks
    [273, LONG, 1, longs(stripOffset)],
    [274, SHORT, 1, shorts(orientation)],
    [277, SHORT, 1, shorts(channels)],
    [278, LONG, 1, longs(height)],
    [279, LONG, 1, longs(strip.length)],
    [284, SHORT, 1, shorts(1)], // all inks of a pixel together
    [332, SHORT, 1, shorts(1)], // the inks are CMYK
  ];
  if (alpha) entries.push([338, SHORT, 1, shorts(2)]); // the fifth sample is unassociated alpha
  if (metadata.xmp) entries.push([700, BYTE, metadata.xmp.length, metadata.xmp]);
  if (metadata.icc) entries.push([34675, UNDEFINED, metadata.icc.length, metadata.icc]);
  entries.sort(([a], [b]) => a - b);
  const even = (bytes: Buffer): Buffer => (bytes.length % 2 ? Buffer.concat([bytes, Buffer.alloc(1)]) : bytes);
  const parts = [even(strip)];
  let end = stripOffset + parts[0].length;
  const directory = Buffer.alloc(2 + 12 * entries.length + 4);
  directory.writeUInt16LE(entries.length, 0);
  entries.forEach(([tag, type, count, value], i) => {
    const at = 2 + 12 * i;
    directory.writeUInt16LE(tag, at);
    directory.writeUInt16LE(type, at + 2);
    directory.writeUInt32LE(count, at + 4);
    if (value.length <= 4) value.copy(directory, at + 8);
    else {
      directory.writeUInt32LE(end, at + 8);
      parts.push(even(value));
      end += parts.at(-1)!.length;
    }
  });
  const header = Buffer.from("II*\0\0\0\0\0", "latin1");
  header.writeUInt32LE(end, 4);
  return Buffer.concat([header, ...parts, directory]);
}
