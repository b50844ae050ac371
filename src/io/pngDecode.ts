/**
 * Decoding PNG bytes by pngjs in a worker thread, so that a folder of large PNGs does not stall training. Node only.
 *
 * The worker's text is a string because a module file would need a different path in `dist/` (compiled) than under the test
 * runner (TypeScript, which Node 20 cannot load); it is plain JavaScript that only calls pngjs.
 */
import { createRequire } from "node:module";
import { Worker } from "node:worker_threads";
import { inflateSync } from "node:zlib";
import { FormatError } from "../errors.js";
import { type PngChunk, splitPng } from "./pngChunks.js";

/** Decoded PNG: `samples` is [height, width, 4] RGBA, 0..255, or 0..65535 if it is a Uint16Array. */
export interface DecodedPng {
  readonly width: number;
  readonly height: number;
  readonly samples: Uint8Array | Uint16Array;
}

/** What the header of a PNG file says. */
export interface PngHeader {
  readonly width: number;
  readonly height: number;
  readonly bitDepth: number;
  /** 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGB and alpha. */
  readonly colourType: number;
  readonly interlaced: boolean;
  readonly channels: number;
}

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const CHANNELS: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
/** Bit depths of each colour type (PNG specification, table 12). */
const DEPTHS: Record<number, readonly number[]> = {
  0: [1, 2, 4, 8, 16],
  2: [8, 16],
  3: [1, 2, 4, 8],
  4: [8, 16],
  6: [8, 16],
};
const HEADER_BYTES = 13;
/** Its decoder keeps an object of a hundred bytes for each row: a picture one pixel wide would take gigabytes, and minutes. */
const MAX_ROWS = 2 ** 20;
/** DEFLATE makes at most so many bytes of one. */
const MAX_INFLATION = 1032;

/** Whether these bytes begin as a PNG file does. */
export function isPng(bytes: Buffer): boolean {
  return bytes.subarray(0, 8).equals(SIGNATURE);
}

/**
 * Reads the header only, so that the size can be judged before anything is unpacked.
 *
 * @throws {FormatError} no IHDR chunk, or one with impossible values
 */
export function readPngHeader(bytes: Buffer, path: string): PngHeader {
  const complete =
    bytes.length >= 33 && bytes.readUInt32BE(8) === HEADER_BYTES && bytes.toString("latin1", 12, 16) === "IHDR";
  const header = complete && {
    width: bytes.readUInt32BE(16),
    height: bytes.readUInt32BE(20),
    bitDepth: bytes[24],
    colourType: bytes[25],
    channels: CHANNELS[bytes[25]],
    interlaced: bytes[28] === 1,
  };
  if (!header || header.width === 0 || header.height === 0 || !DEPTHS[header.colourType]?.includes(header.bitDepth)) {
    throw new FormatError(
      path,
      "expected a PNG header, got a broken or truncated one",
      "the file is damaged; get it again",
    );
  }
  return header;
}

const WORKER_TEXT = `
const { parentPort, workerData } = require("node:worker_threads");
const { PNG } = require(workerData);
parentPort.on("message", ({ id, bytes, deep }) => {
  try {
    const { width, height, data: samples } = PNG.sync.read(Buffer.from(bytes), { skipRescale: deep });
    // A copy that can be handed over: a Buffer may be a view of a pool that Node shares.
    const owned = samples instanceof Uint16Array ? Uint16Array.from(samples) : Uint8Array.from(samples);
    parentPort.postMessage({ id, width, height, samples: owned }, [owned.buffer]);
  } catch (error) {
    parentPort.postMessage({ id, problem: error instanceof Error ? error.message : String(error) });
  }
});`;

interface Answer extends DecodedPng {
  readonly id: number;
  readonly problem?: string;
}

interface Pending {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (cause: unknown) => void;
}

let worker: Worker | undefined;
let lastId = 0;
const pending = new Map<number, Pending>();

/**
 * Decodes a PNG of any kind (1 to 16 bits, gray, palette, alpha, interlaced).
 *
 * @param deep keep 16-bit samples instead of rounding them to 8 bits
 * @throws {FormatError} damaged or truncated, or of more than a million rows
 */
export async function decodePng(bytes: Buffer, path: string, deep: boolean): Promise<DecodedPng> {
  const header = readPngHeader(bytes, path);
  const damaged = (problem: string): FormatError =>
    new FormatError(
      path,
      `expected a PNG picture, got a damaged or truncated one (${problem})`,
      "get the file again, or leave it out",
    );
  if (header.height > MAX_ROWS) {
    throw new FormatError(
      path,
      `expected at most ${MAX_ROWS} rows, got ${header.height}`,
      "cut the picture into several",
    );
  }
  const chunks = splitPng(bytes, path);
  checkChunks(chunks, header, damaged);
  const end = chunks.reduce((sum, { body }) => sum + 12 + body.length, SIGNATURE.length);
  const answer = await ask(bytes.subarray(0, end), deep && header.bitDepth === 16).catch((cause: unknown) => {
    throw damaged(`its decoder ended: ${String(cause)}`); // for want of memory, say; the next picture gets another one
  });
  if (answer.problem !== undefined) throw damaged(answer.problem);
  return answer;
}

/** What pngjs takes without a question, and what would make a small file cost much memory or time. */
function checkChunks(chunks: readonly PngChunk[], header: PngHeader, damaged: (problem: string) => FormatError): void {
  const { width, height, channels, bitDepth, colourType, interlaced } = header;
  const bodies = (type: string) => chunks.filter((c) => c.type === type).map((c) => c.body);
  // pngjs would go by a second header, whose size nobody has judged.
  for (const type of ["IHDR", "PLTE", "tRNS"]) if (bodies(type).length > 1) throw damaged(`two ${type} chunks`);
  const [palette] = bodies("PLTE");
  if (palette && (palette.length === 0 || palette.length > 3 * 256 || palette.length % 3 !== 0)) {
    throw damaged(`a palette of ${palette.length} bytes`);
  }
  const [transparent] = bodies("tRNS");
  const keyBytes = { 0: 2, 2: 6 }[colourType];
  if (transparent && keyBytes !== undefined && transparent.length !== keyBytes) {
    throw damaged(`a transparent colour of ${transparent.length} bytes`);
  }
  const packed = bodies("IDAT");
  const packedBytes = packed.reduce((sum, { length }) => sum + length, 0);
  // Its decoder allocates what the header claims, so the claim must be possible.
  if (Math.floor((width * height * channels * bitDepth) / 8) > MAX_INFLATION * packedBytes) {
    throw damaged(`${packedBytes} packed bytes for ${width}x${height} pixels`);
  }
  if (interlaced) refuseInflatedTooLong(packed, header, damaged);
}

function ask(bytes: Buffer, deep: boolean): Promise<Answer> {
  worker ??= startWorker();
  worker.ref(); // keeps the program alive while it waits
  const id = ++lastId;
  return new Promise((resolve, reject) => {
    pending.set(id, { resolve, reject });
    worker!.postMessage({ id, bytes, deep });
  });
}

function startWorker(): Worker {
  const started = new Worker(WORKER_TEXT, {
    eval: true,
    workerData: createRequire(import.meta.url).resolve("pngjs"),
  });
  started.on("message", (answer: Answer) => {
    pending.get(answer.id)!.resolve(answer);
    pending.delete(answer.id);
    if (pending.size === 0) started.unref(); // an idle worker must not keep the program from ending
  });
  started.on("error", (cause) => {
    worker = undefined;
    for (const { reject } of pending.values()) reject(cause);
    pending.clear();
  });
  return started;
}

/**
 * pngjs bounds what it unpacks for ordinary files, but not for interlaced ones: a small file could fill the memory.
 * This unpacks with the bound that the header implies, and throws the result away.
 */
function refuseInflatedTooLong(
  packed: readonly Uint8Array[],
  header: PngHeader,
  damaged: (problem: string) => FormatError,
): void {
  const rowBytes = Math.ceil((header.width * header.channels * header.bitDepth) / 8);
  // Seven passes, each with a filter byte and a rounded-up last byte per row: never more than twice the rows.
  const most = (rowBytes + 16) * (2 * header.height + 16);
  try {
    inflateSync(Buffer.concat(packed), { maxOutputLength: most });
  } catch (cause) {
    throw damaged((cause as Error).message);
  }
}
