/** Finding the picture files of a folder, and walking past broken ones. Node only. */
import type { Dirent } from "node:fs";
import { opendir, readdir, realpath, stat } from "node:fs/promises";
import { extname, join } from "node:path";
import { UserError } from "../errors.js";
import { fileError } from "./files.js";
import { PICTURE_EXTENSIONS } from "./imageFile.js";

/**
 * All picture files in a folder and its subfolders, in the order of their names (code points, so the same everywhere).
 * Hidden files and folders are left out; symbolic links are followed, but each folder is searched once, whatever leads to it.
 *
 * @throws {UserError} missing, not a folder, or without pictures
 */
export async function listPictures(folder: string): Promise<string[]> {
  const found: string[] = [];
  const links: string[] = [];
  const searched = new Set<string>();
  await collect(folder, { found, links, searched });
  // After all true folders: what a link leads to may be one of them. The list may grow on the way.
  for (const link of links) await collect(link, { found, links, searched });
  if (found.length > 0) return found.sort((a, b) => (a < b ? -1 : 1));
  throw new UserError(
    folder,
    `expected a folder with pictures (${PICTURE_EXTENSIONS.join(" ")}), got one without`,
    "check the path; subfolders are searched too",
  );
}

interface Search {
  /** Paths of pictures. */
  readonly found: string[];
  /** Links to folders. */
  readonly links: string[];
  /** Real paths of folders: links may lead in circles, and a dozen folders with links to each other have millions of paths. */
  readonly searched: Set<string>;
}

async function collect(folder: string, search: Search): Promise<void> {
  const { found, links, searched } = search;
  let entries: Dirent[];
  try {
    const here = await realpath(folder);
    if (searched.has(here)) return;
    searched.add(here);
    entries = await readdir(folder, { withFileTypes: true });
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code !== "ENOENT" && code !== "ENOTDIR") throw fileError(folder, "read", cause);
    const got = code === "ENOENT" ? "no such folder" : "a file";
    throw new UserError(folder, `expected a folder of pictures, got ${got}`, "pass the path of a folder", { cause });
  }
  // In order, so that of several links to a folder the same one is taken everywhere.
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (entry.name.startsWith(".")) continue;
    const path = join(folder, entry.name);
    // A dangling link, or a file that has gone since, is not there.
    const kind = await stat(path).catch(() => undefined);
    if (kind?.isDirectory()) {
      if (entry.isSymbolicLink()) links.push(path);
      else await collect(path, search);
    } else if (kind?.isFile() && PICTURE_EXTENSIONS.includes(extname(entry.name).toLowerCase())) found.push(path);
  }
}

/** Is told what is wrong with a folder's files; `file` is the path of the one that is skipped, if it is about one. */
export type WarningListener = (message: string, file?: string) => void;

/** Where warnings go by default. */
export const printWarning: WarningListener = (message) => console.warn(message);

/** Remembers which files of a list turned out to be unusable, and tells about each once. */
export class SkipList {
  private readonly bad = new Set<number>();

  constructor(
    private readonly folder: string,
    private readonly files: readonly string[],
    private readonly onWarning: WarningListener,
  ) {}

  /** How many files have been skipped so far. */
  get skipped(): number {
    return this.bad.size;
  }

  /**
   * Tries the files in the given order, from place `start` on and around, until one can be used. The choice depends only
   * on the order and on the files themselves, so a resumed run makes the same one.
   *
   * @param use resolves to a result; a {@link UserError} means that this file cannot be used
   * @throws {UserError} no file can be used, or the folder is gone: a disk that is not there is no fault of its files, and they
   * are good again when it is back
   */
  async firstUsable<T>(order: Uint32Array, start: number, use: (path: string) => Promise<T>): Promise<T> {
    for (let step = 0; step < order.length; step++) {
      const file = order[(start + step) % order.length];
      if (this.bad.has(file)) continue;
      try {
        return await use(this.files[file]);
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        if (isMissing(error) && (await isGone(this.folder))) {
          throw new UserError(
            this.folder,
            "expected a folder of pictures, got one that is gone or empty now",
            "bring its disk back, and start again",
            { cause: error },
          );
        }
        // Two samples may meet the same file at once; one warning is enough.
        if (!this.bad.has(file)) this.onWarning(`skipped ${error.where}: ${error.problem}`, this.files[file]);
        this.bad.add(file);
      }
    }
    throw new UserError(
      this.folder,
      `expected at least one usable file, got ${this.files.length} that cannot be used`,
      "see the warnings above for the reason of each",
    );
  }
}

const isMissing = ({ cause }: UserError): boolean =>
  cause instanceof Error && (cause as NodeJS.ErrnoException).code === "ENOENT";

/** Whether a folder is not there, or has nothing in it, such as the place of a disk that was taken away. */
async function isGone(folder: string): Promise<boolean> {
  try {
    const entries = await opendir(folder);
    const first = await entries.read();
    await entries.close();
    return first === null;
  } catch {
    return true;
  }
}
