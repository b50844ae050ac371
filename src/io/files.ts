/** Reading and writing whole files with this library's errors instead of Node's. Node only. */
import { access, constants, mkdir, open, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname, resolve, sep } from "node:path";
import { UserError } from "../errors.js";
import { cachedDownload, type DownloadOptions } from "./download.js";
import { isUrl } from "./url.js";

/** Node reads no larger file into one buffer. */
const LARGEST_FILE = 2 ** 31 - 1;

/**
 * The bytes of a file on disk (a path or `file://` URL), or of one on the web (`http://`, `https://`), which is downloaded once, see `cachedDownload`.
 *
 * @throws {UserError} missing, a folder, or not readable; not to be had from the web
 */
export async function readBytes(path: string, options: DownloadOptions = {}): Promise<Buffer> {
  try {
    if (isUrl(path)) return await readFile(await cachedDownload(path, { maxBytes: LARGEST_FILE, ...options }));
    return await readFile(path.startsWith("file://") ? new URL(path) : path);
  } catch (cause) {
    throw fileError(path, "read", cause);
  }
}

/**
 * Writes a file whole or not at all: to a temporary name beside it, then renamed. Folders on the way are made.
 *
 * @throws {UserError} no permission, a full disk, a folder of that name
 */
export async function writeWhole(path: string, bytes: Uint8Array): Promise<void> {
  const partial = `${path}.partial-${process.pid}`;
  try {
    await makeFolders(resolve(dirname(path)));
    const file = await open(partial, "w");
    try {
      await file.writeFile(bytes);
      await file.sync(); // after a power cut a renamed file could else be there without its bytes
    } finally {
      await file.close();
    }
    await rename(partial, path);
  } catch (cause) {
    await rm(partial, { force: true }).catch(() => undefined); // the first error is the one to report
    throw fileError(path, "write", cause);
  }
}

/**
 * Makes a folder and those above it, unless they exist.
 *
 * @throws {UserError} no permission, a full disk, a file of that name
 */
export async function makeFolder(path: string): Promise<void> {
  await makeFolders(resolve(path)).catch((cause: unknown) => {
    throw fileError(path, "write", cause);
  });
}

/** Not Node's `recursive`, which tries for ever where a folder exists that none can be made in, such as /proc. */
async function makeFolders(path: string): Promise<void> {
  const make = () =>
    mkdir(path).catch(async (cause: unknown) => {
      const folder = await stat(path).catch(() => null);
      if (!folder?.isDirectory()) throw cause;
    });
  try {
    await make();
  } catch (cause) {
    const parent = dirname(path);
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT" || parent === path) throw cause;
    await makeFolders(parent);
    await make();
  }
}

/**
 * Makes sure that {@link writeWhole} has somewhere to write to, before there is anything to write; makes nothing.
 *
 * @throws {UserError} a file on the way, or no permission
 */
export async function checkPlace(path: string): Promise<void> {
  let folder = dirname(resolve(path));
  try {
    while (!(await stat(folder).catch(absent))) folder = dirname(folder);
    await access(folder + sep, constants.W_OK); // the separator: this fails where it is no folder
  } catch (cause) {
    throw fileError(path, "write", cause);
  }
}

/** null for what is not there; a path through a file has nothing there either. */
function absent(cause: unknown): null {
  if (!["ENOENT", "ENOTDIR"].includes((cause as NodeJS.ErrnoException).code ?? "")) throw cause;
  return null;
}

const HELP: Record<string, string> = {
  ENOENT: "check the path",
  EEXIST: "there is a file of that name; choose another place",
  ENOTDIR: "a part of the path is a file, not a folder; check the path",
  EISDIR: "pass a file, not a folder",
  EACCES: "check the permissions of the file and its folder",
  EPERM: "check the permissions of the file and its folder",
  EROFS: "the file system is read-only; choose another place",
  ENOSPC: "the disk is full; free some space or choose another place",
  EDQUOT: "your share of the disk is used up; free some space or choose another place",
};

/** Whether a file could not be written because there is no room on the disk, which may come back. */
export function isDiskFull(error: unknown): error is UserError {
  if (!(error instanceof UserError) || !(error.cause instanceof Error)) return false;
  return ["ENOSPC", "EDQUOT"].includes((error.cause as NodeJS.ErrnoException).code ?? "");
}

/** One of Node's file-system errors as a {@link UserError}; anything else is returned as it is. */
export function fileError(path: string, action: "read" | "write", cause: unknown): unknown {
  const code = cause instanceof Error ? (cause as NodeJS.ErrnoException).code : undefined;
  if (code === undefined || !(cause instanceof Error)) return cause;
  const expected = action === "read" ? "a file that can be read" : "a place that can be written to";
  const got = code === "ENOENT" && action === "read" ? "no such file" : cause.message;
  return new UserError(path, `expected ${expected}, got ${got}`, HELP[code] ?? "see the message above", { cause });
}
