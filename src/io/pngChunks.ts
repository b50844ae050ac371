/** The chunks of a PNG file, as bytes (PNG specification, third edition, section 5). Node only. */
import { deflateSync } from "node:zlib";
import { FormatError } from "../errors.js";
import { crc32 } from "./crc.js";

/** A chunk of a PNG file: its name and its bytes. */
export interface PngChunk {
  /** Four letters, such as `iCCP`. */
  readonly type: string;
  readonly body: Uint8Array;
}

const SIGNATURE_BYTES = 8;
const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** Ten times the chunks of a picture of the largest size that is written in pieces of 8 KiB. */
const MAX_CHUNKS = 2 ** 20;

/**
 * Splits a PNG file. What follows its last chunk, IEND, is left out: some programs append to files.
 *
 * @throws {FormatError} a chunk that goes beyond the end of the file, or more than a million
 */
export function splitPng(bytes: Buffer, path: string): PngChunk[] {
  const chunks: PngChunk[] = [];
  for (let at = SIGNATURE_BYTES; at < bytes.length && chunks.at(-1)?.type !== "IEND";) {
    if (chunks.length === MAX_CHUNKS) {
      throw new FormatError(path, `expected at most ${MAX_CHUNKS} PNG chunks, got more`, "write the file again");
    }
    const end = at + 12 <= bytes.length ? at + 12 + bytes.readUInt32BE(at) : Infinity;
    if (end > bytes.length) {
      const problem = `expected a PNG picture, got a damaged or truncated one (its chunk at ${at} goes beyond the end)`;
      throw new FormatError(path, problem, "get the file again, or leave it out");
    }
    chunks.push({ type: bytes.toString("latin1", at + 4, at + 8), body: bytes.subarray(at + 8, end - 4) });
    at = end;
  }
  return chunks;
}

/** A PNG file of these chunks. */
export function joinPng(chunks: readonly PngChunk[]): Buffer {
  const parts: Uint8Array[] = [SIGNATURE];
  for (const { type, body } of chunks) {
    const checked = Buffer.concat([Buffer.from(type, "latin1"), body]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(body.length);
    sum.writeUInt32BE(crc32(checked));
    parts.push(length, checked, sum);
  }
  return Buffer.concat(parts);
}

/** What other formats keep about a picture, as they store it. */
export interface PictureMetadata {
  /** ICC profile. */
  readonly icc?: Buffer;
  /** EXIF block; in JPEG files it begins with `Exif\0\0`. */
  readonly exif?: Buffer;
  /** Of files that keep it elsewhere, such as TIFF; used where there is no EXIF block. */
  readonly orientation?: number;
  readonly xmp?: Buffer;
  /** Pixels per inch. */
  readonly density?: number;
}

/** Readers take this for a file that says nothing of its density. */
const UNKNOWN_DENSITY = 72;
const METRES_PER_INCH = 0.0254;

/** Chunks that keep the same in a PNG file. */
export function metadataChunks({ icc, exif, orientation = 1, xmp, density }: PictureMetadata): PngChunk[] {
  const chunks: PngChunk[] = [];
  const add = (type: string, ...parts: readonly (string | Uint8Array)[]): void => {
    const body = Buffer.concat(parts.map((p) => (typeof p === "string" ? Buffer.from(p, "latin1") : p)));
    chunks.push({ type, body });
  };
  if (icc) add("iCCP", "ICC Profile\0\0", deflateSync(icc));
  const perMetre = Math.round((density ?? UNKNOWN_DENSITY) / METRES_PER_INCH);
  // A file may claim any density; pHYs holds 31 bits.
  if (density !== undefined && density !== UNKNOWN_DENSITY && perMetre > 0 && perMetre < 2 ** 31) {
    const body = Buffer.alloc(9, 1); // the last byte, 1, says per metre
    for (const at of [0, 4]) body.writeUInt32BE(perMetre, at);
    add("pHYs", body);
  }
  if (exif) add("eXIf", tiffOfExif(exif));
  else if (orientation !== 1) add("eXIf", orientationAlone(orientation));
  if (xmp) add("iTXt", "XML:com.adobe.xmp\0\0\0\0\0", xmp);
  return chunks;
}

/** An EXIF block with an orientation and nothing else: a TIFF header, and a directory of one entry. */
function orientationAlone(orientation: number): Buffer {
  const block = Buffer.alloc(26); // ends with 0: no further directory
  block.write("MM\0*", 0, "latin1");
  block.writeUInt32BE(8, 4); // where the directory is
  block.writeUInt16BE(1, 8);
  block.writeUInt16BE(0x0112, 10);
  block.writeUInt16BE(3, 12); // one 16-bit number
  block.writeUInt32BE(1, 14);
  block.writeUInt16BE(orientation, 18);
  return block;
}

const tiffOfExif = (exif: Buffer): Buffer => (exif.toString("latin1", 0, 6) === "Exif\0\0" ? exif.subarray(6) : exif);

const ORIENTATION_TAG = 0x0112;

/** The orientation of an EXIF block, 1 to 8; 1 where it says nothing that can be read. */
export function exifOrientation(exif: Buffer): number {
  const tiff = tiffOfExif(exif);
  const little = tiff.toString("latin1", 0, 2) === "II";
  const u16 = (at: number): number => (little ? tiff.readUInt16LE(at) : tiff.readUInt16BE(at));
  const u32 = (at: number): number => (little ? tiff.readUInt32LE(at) : tiff.readUInt32BE(at));
  try {
    const directory = u32(4);
    for (let i = 0; i < u16(directory); i++) {
      const entry = directory + 2 + 12 * i;
      if (u16(entry) !== ORIENTATION_TAG) continue;
      const value = u16(entry + 8);
      return value >= 1 && value <= 8 ? value : 1;
    }
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause; // offsets beyond the end: a damaged block, as viewers take it
  }
  return 1;
}
