/**
 * Checksums of the files in a folder, kept in the folder: `checksums.json`. Node only.
 *
 * Disks flip bits, copies break off, and people edit: what is read back must be what was written.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { FormatError } from "../errors.js";
import { fileError, readBytes } from "./files.js";

export const CHECKSUMS = "checksums.json";
const FORMAT = "pconv-checksums/1";

/** A file's length in bytes, and its SHA-256 in hexadecimal. */
interface Checksum {
  readonly bytes: number;
  readonly sha256: string;
}

/** What goes into `checksums.json` beside these files. */
export function checksumsOf(files: Readonly<Record<string, Uint8Array>>): Uint8Array {
  const entries = Object.entries(files).map(([name, bytes]): [string, Checksum] => [
    name,
    { bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") },
  ]);
  return Buffer.from(`${JSON.stringify({ format: FORMAT, files: Object.fromEntries(entries) }, null, 2)}\n`);
}

function parse(text: string, path: string, help: string): [string, Checksum][] {
  try {
    const found = JSON.parse(text) as { format?: unknown; files?: Record<string, Partial<Checksum>> };
    const files = Object.entries(found.files ?? {});
    const whole = files.every(([, file]) => Number.isSafeInteger(file.bytes) && typeof file.sha256 === "string");
    if (found.format === FORMAT && files.length > 0 && whole) return files as [string, Checksum][];
  } catch {
    // reported below
  }
  throw new FormatError(path, `expected checksums (${FORMAT}), got something else`, help);
}

/**
 * Compares the files of a folder with their checksums, without holding them in memory.
 * @param help what to do when they differ
 * @returns false when the folder has no checksums, as those that version 0.1 wrote
 * @throws {FormatError} naming the first file that is missing, or not as it was written
 */
export async function verifyChecksums(folder: string, help: string): Promise<boolean> {
  const names = await readdir(folder).catch((cause: unknown) => {
    throw fileError(folder, "read", cause);
  });
  if (!names.includes(CHECKSUMS)) return false;
  const list = join(folder, CHECKSUMS);
  for (const [name, { bytes, sha256 }] of parse((await readBytes(list)).toString("utf8"), list, help)) {
    const path = join(folder, name);
    if (!names.includes(name)) throw new FormatError(path, "expected a file of the checkpoint, got none", help);
    const { size } = await stat(path);
    if (size !== bytes) throw new FormatError(path, `expected ${bytes} bytes as they were written, got ${size}`, help);
    const found = await sha256Of(path);
    if (found !== sha256) {
      const problem = `expected the bytes that were written (SHA-256 ${sha256.slice(0, 12)}...), got others (${found.slice(0, 12)}...)`;
      throw new FormatError(path, problem, help);
    }
  }
  return true;
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk as Uint8Array);
  } catch (cause) {
    throw fileError(path, "read", cause);
  }
  return hash.digest("hex");
}
