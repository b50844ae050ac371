/** Reading picture and mask files of any common format. PNG by pngjs, everything else by sharp. Node only. */
import sharp, { type Sharp } from "sharp";
import { FormatError, UserError } from "../errors.js";
import { binariseMask, type BinarisedMask, type HoleColour } from "../pconv/maskAugment.js";
import type { Picture } from "../pconv/picture.js";
import { readBytes } from "./files.js";
import { decodePng, isPng, readPngHeader } from "./pngDecode.js";

/** File name endings that folders are searched for (case does not count). */
export const PICTURE_EXTENSIONS: readonly string[] = [".jpg", ".jpeg", ".png", ".webp"];

/** What sharp may decode here. Not SVG or PDF: those are programs, and can read other files. */
export const SHARP_FORMATS = ["jpeg", "webp", "tiff", "gif", "heif", "jp2", "jxl"];

/**
 * Pictures of more pixels are refused before anything is unpacked; about 1.2 GB as float RGB. The environment variable
 * `PCONV_MAX_PIXELS` sets another limit.
 */
export const MAX_PIXELS = 100_000_000;

/** @throws {UserError} `PCONV_MAX_PIXELS` is no number of pixels */
function defaultMaxPixels(): number {
  const text = process.env["PCONV_MAX_PIXELS"] ?? "";
  if (text === "") return MAX_PIXELS;
  const pixels = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(pixels) && pixels > 0) return pixels;
  throw new UserError(
    "PCONV_MAX_PIXELS",
    `expected a number of pixels, got ${text}`,
    "unset it, or set 200000000, say",
  );
}

/** Where each of these formats says what it is, and how. */
const SIGNATURES: readonly (readonly [at: number, signature: string])[] = [
  [0, "\xff\xd8\xff"], // JPEG
  [8, "WEBP"],
  [0, "II*\0"], // TIFF, and BigTIFF
  [0, "MM\0*"],
  [0, "II+\0"],
  [0, "MM\0+"],
  [0, "GIF8"],
  [4, "ftyp"], // HEIF and AVIF
  [0, "\0\0\0\x0cjP  "], // JPEG 2000, its file and its bare stream
  [0, "\xff\x4f\xff\x51"],
  [0, "\0\0\0\x0cJXL "], // JPEG XL, the same
  [0, "\xff\x0a"],
];

/**
 * Whether these bytes begin as one of the formats above does. Asked before sharp is, which would parse SVG to tell its size,
 * and with some builds of libvips hand what it does not know to ImageMagick.
 */
export function isForSharp(bytes: Buffer): boolean {
  return SIGNATURES.some(([at, signature]) => bytes.toString("latin1", at, at + signature.length) === signature);
}

/** How {@link readPicture} reads. */
export interface ReadOptions {
  /** Largest width x height; default {@link MAX_PIXELS} or `PCONV_MAX_PIXELS`. */
  readonly maxPixels?: number;
  /** What to do with transparency: lay the picture on white (the default), or take the colours as if it were opaque. */
  readonly alpha?: "white" | "ignore";
}

/**
 * Reads a picture as sRGB in 0..1: JPEG (gray, CMYK and progressive too; turned upright by its EXIF orientation), PNG of
 * any depth (16-bit samples keep their precision; gamma and orientation chunks are not looked at), WebP, TIFF, GIF (first frame), HEIF.
 * The format is told by the content, not by the name.
 *
 * @throws {UserError} the file is missing, a folder, or not readable
 * @throws {FormatError} not a picture, damaged, truncated, or with more than `maxPixels`
 */
export async function readPicture(path: string, options: ReadOptions = {}): Promise<Picture> {
  const bytes = await readBytes(path);
  if (!isPng(bytes)) {
    const { pipeline } = await openPicture(bytes, path, options);
    return rawToPicture(await runPipeline(pipeline, path));
  }
  checkPixels(readPngHeader(bytes, path), path, options.maxPixels);
  const { width, height, samples } = await decodePng(bytes, path, true);
  const opaque = samples instanceof Uint16Array ? 65535 : 255;
  const pixels = new Float32Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    const alpha = options.alpha === "ignore" ? 1 : samples[4 * i + 3] / opaque;
    for (let k = 0; k < 3; k++) pixels[3 * i + k] = (samples[4 * i + k] / opaque) * alpha + (1 - alpha);
  }
  return { width, height, pixels };
}

/**
 * Reads a mask picture of any format and binarises it (see {@link binariseMask}); transparency is ignored.
 *
 * @param holes the colour that marks the hole
 * @param threshold 0..1; default the paper's 0.6
 * @throws as {@link readPicture}
 */
export async function readMask(path: string, holes: HoleColour, threshold?: number): Promise<BinarisedMask> {
  return binariseMask(await readPicture(path, { alpha: "ignore" }), holes, threshold);
}

/** A picture as an unfinished sharp pipeline, upright, three 8-bit sRGB channels, and the size that it will have. */
export interface OpenPicture {
  readonly pipeline: Sharp;
  readonly width: number;
  readonly height: number;
}

/**
 * Starts a sharp pipeline on a picture, for callers that resize and crop before they want pixels. Its work runs in sharp's
 * own threads; a PNG is decoded by pngjs in a worker thread first.
 *
 * @throws {FormatError} as {@link readPicture}; damage inside the file may show only when the pipeline runs
 */
export async function openPicture(bytes: Buffer, path: string, options: ReadOptions = {}): Promise<OpenPicture> {
  const flat = (pipeline: Sharp): Sharp =>
    (options.alpha === "ignore" ? pipeline : pipeline.flatten({ background: "#ffffff" }))
      .toColourspace("srgb")
      .removeAlpha();
  if (isPng(bytes)) {
    checkPixels(readPngHeader(bytes, path), path, options.maxPixels);
    const { width, height, samples } = await decodePng(bytes, path, false);
    const raw = sharp(samples, { raw: { width, height, channels: 4 }, limitInputPixels: false });
    return { pipeline: flat(raw), width, height };
  }
  if (!isForSharp(bytes)) throw notAPicture(bytes, path);
  // "warning" is the strictest: a truncated JPEG is an error, not a picture with a gray lower half.
  const pipeline = sharp(bytes, { failOn: "warning", limitInputPixels: false });
  const metadata = await pipeline.metadata().catch((cause: unknown) => {
    throw notAPicture(bytes, path, cause);
  });
  if (!SHARP_FORMATS.includes(metadata.format)) throw notAPicture(bytes, path);
  const { width, height } = metadata.autoOrient;
  checkPixels({ width, height }, path, options.maxPixels);
  return { pipeline: flat(pipeline.autoOrient()), width, height };
}

/** Three 8-bit channels, [height, width, 3]. */
export interface RawPicture {
  readonly width: number;
  readonly height: number;
  readonly bytes: Buffer;
}

/**
 * Runs a pipeline of {@link openPicture} to its pixels.
 *
 * @throws {FormatError} what it read turned out to be damaged
 */
export async function runPipeline(pipeline: Sharp, path: string): Promise<RawPicture> {
  try {
    const { data: bytes, info } = await pipeline.raw().toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, bytes };
  } catch (cause) {
    throw new FormatError(
      path,
      `expected a picture, got a damaged or truncated one (${firstLine(cause)})`,
      "get the file again, or leave it out",
      { cause },
    );
  }
}

/** 0..255 to 0..1. */
export function rawToPicture({ width, height, bytes }: RawPicture): Picture {
  const pixels = new Float32Array(width * height * 3);
  for (let i = 0; i < pixels.length; i++) pixels[i] = bytes[i] / 255;
  return { width, height, pixels };
}

/**
 * Refuses a picture that would not fit into memory.
 *
 * @throws {FormatError} more pixels than `maxPixels`
 */
export function checkPixels(
  size: { width: number; height: number },
  path: string,
  maxPixels = defaultMaxPixels(),
): void {
  if (size.width * size.height <= maxPixels) return;
  throw new FormatError(
    path,
    `expected at most ${maxPixels} pixels, got ${size.width}x${size.height}`,
    "make the picture smaller, or raise the limit (maxPixels, or the environment variable PCONV_MAX_PIXELS)",
  );
}

/** The error for bytes that no decoder here takes. */
export function notAPicture(bytes: Buffer, path: string, cause?: unknown): FormatError {
  const start = JSON.stringify(bytes.toString("latin1", 0, 12));
  const got = bytes.length === 0 ? "an empty file" : `a file that begins with ${start}`;
  return new FormatError(
    path,
    `expected a JPEG, PNG, WebP, TIFF, GIF or HEIF picture, got ${got}`,
    "the name does not matter, the content does; convert the file or leave it out",
    { cause },
  );
}

/** The first line of an error's text: decoders add pages. */
export function firstLine(cause: unknown): string {
  return (cause instanceof Error ? cause.message : String(cause)).split("\n")[0];
}
