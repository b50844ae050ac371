/** Weight files of every format that this library reads, told apart by what is in them; for Node and browsers. */
import { FormatError } from "../errors.js";
import { quote } from "./byteReader.js";
import { readSafetensors } from "./safetensors.js";
import type { TensorEntry } from "./tensorEntry.js";
import { shownSource } from "./url.js";

/** A weight file in memory. */
export interface Weights {
  readonly format: "safetensors" | "pth-zip" | "pth-legacy" | "h5";
  /** By name; for .pth the path from the saved object, see `readPth`; for .h5 see `readH5`. */
  readonly tensors: Map<string, TensorEntry>;
  /** Strings that came with a safetensors file; empty for others. */
  readonly metadata: Record<string, string>;
  /** The whole saved object of a .pth, see `readPth`; undefined for others. */
  readonly root?: unknown;
}

const formats =
  "give a .safetensors file, a .pth file that torch.save wrote from a state dict, or a .h5 file that Keras wrote";

/**
 * Reads weights; the format is recognised by content, not by name.
 *
 * @param bytes the whole file
 * @param name file name or URL for the errors; of a URL they show no query, which may be secret
 * @throws FormatError if it is another format, or a damaged or hostile file of these
 */
export async function readWeights(bytes: Uint8Array, name: string): Promise<Weights> {
  // Not a Buffer from here on: its slice() and subarray() differ from a Uint8Array's.
  const file = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const where = shownSource(name);
  if (looksLikeSafetensors(file) || (where.endsWith(".safetensors") && !startsWith(file, zipMagic))) {
    return { format: "safetensors", ...readSafetensors(file, where) };
  }
  if (startsWith(file, zipMagic) || looksLikePickle(file)) {
    const { readPth } = await import("./pth.js"); // most pages read safetensors only, and need not download the rest
    const { container, root, tensors } = readPth(file, where);
    return { format: `pth-${container}`, tensors, metadata: {}, root };
  }
  if (startsWith(file, hdf5Magic)) {
    const { readH5 } = await import("./h5.js");
    return { format: "h5", ...(await readH5(file, where)), metadata: {} };
  }
  throw new FormatError(where, `expected safetensors, .pth or .h5 weights, got ${nameContent(file)}`, formats);
}

const zipMagic = [0x50, 0x4b];
const hdf5Magic = [0x89, 0x48, 0x44, 0x46, 0x0d, 0x0a, 0x1a, 0x0a];

function startsWith(bytes: Uint8Array, magic: readonly number[]): boolean {
  return magic.every((byte, i) => bytes[i] === byte);
}

/**
 * The header begins behind its 8-byte length with a brace. A pickle may have one there as well, but then its bytes 4 to 7 are
 * not all zero, because no opcode is zero; and a length that begins like a pickle's PROTO and is above 4 GB is no header's.
 */
function looksLikeSafetensors(bytes: Uint8Array): boolean {
  if (bytes[8] !== 0x7b || startsWith(bytes, zipMagic) || startsWith(bytes, hdf5Magic)) return false;
  return !looksLikePickle(bytes) || startsWith(bytes.subarray(4), [0, 0, 0, 0]);
}

function looksLikePickle(bytes: Uint8Array): boolean {
  if (bytes[0] === 0x80 && bytes[1] >= 2 && bytes[1] <= 5) return true;
  // Protocols 0 and 1 have no magic. torch.save never writes them, but a hostile file may start by naming a function; handing
  // it to the unpickler makes the error say which.
  return /^\(*c[\w.]+\n[\w.]+\n/.test(new TextDecoder("latin1").decode(bytes.subarray(0, 256)));
}

/** What a file that is not weights seems to be, for the error. */
function nameContent(bytes: Uint8Array): string {
  if (bytes.length === 0) return "an empty file";
  const start = new TextDecoder("latin1").decode(bytes.subarray(0, 256));
  if (start.startsWith("version https://git-lfs"))
    return "a Git LFS pointer (run `git lfs pull` to fetch the file itself)";
  if (/^\s*<(!doctype|html|\?xml)/i.test(start)) return "a web page (the download did not reach the file itself)";
  if (/^[\t\n\r\x20-\x7e\x80-\xff]*$/.test(start)) return `text that begins with ${quote(start.slice(0, 24))}`;
  return `bytes that begin with ${Array.from(bytes.subarray(0, 8), (b) => b.toString(16).padStart(2, "0")).join(" ")}`;
}
