/** Which pictures `pconv inpaint` fills, with which masks, and where the results go. */
import { existsSync, realpathSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, dirname, extname, isAbsolute, join, relative, resolve, sep } from "node:path";
import { UserError } from "../../src/errors.js";
import { fileError } from "../../src/io/files.js";
import { listPictures } from "../../src/io/folderList.js";
import { formatOfName, type OutputFormat } from "../../src/io/storedEncode.js";

/** One picture to fill. */
export interface Job {
  readonly image: string;
  /** The mask file, or why there is none for this picture. */
  readonly mask: string | UserError;
  /** The result without its ending, which follows from the picture; or with it where the user named it. */
  readonly out: string;
  readonly outFormat?: OutputFormat;
}

/** Endings that a result may have. */
const RESULT_ENDINGS = [".png", ".webp", ".tif"];
/** Endings of pictures that cannot be written: whoever asks for one does not mean a folder of that name. */
const OTHER_ENDINGS = [".bmp", ".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd"];
/** What may follow the picture's name in the name of its mask. */
const MASK_SUFFIX = /[-_. ]mask$/i;

const isFolder = async (path: string): Promise<boolean> => {
  try {
    return (await stat(path)).isDirectory();
  } catch (cause) {
    throw fileError(path, "read", cause);
  }
};

/** A path without its file's ending. */
const withoutEnding = (path: string): string => path.slice(0, path.length - extname(path).length);

/**
 * Lists the pictures in order, each once.
 *
 * @param out a folder, or with one picture a file; by default beside the pictures
 * @throws {UserError} a picture, folder or mask that is missing, or an `out` that does not fit
 */
export async function listJobs(inputs: readonly string[], masks: string, out: string | undefined): Promise<Job[]> {
  const maskFor = await maskFinder(masks);
  /** Path in the results' folder, or beside the picture. */
  const found = new Map<string, { image: string; inFolder: string; folder: string }>();
  let folders = 0;
  for (const input of inputs) {
    if (!(await isFolder(input))) {
      const folder = out ?? dirname(input);
      const inFolder = out === undefined ? insertInpainted(basename(input)) : basename(input);
      found.set(resolve(input), { image: input, inFolder, folder });
      continue;
    }
    folders++;
    const apart = await foldersApart(input, masks, out);
    for (const image of await listPictures(input)) {
      if (apart.some((folder) => isBelow(image, folder))) continue;
      // Pictures and masks may share a folder.
      if (MASK_SUFFIX.test(withoutEnding(image)) && resolve(masks) === resolve(input)) continue;
      const folder = out ?? `${resolve(input)}-inpainted`;
      if (!found.has(resolve(image))) found.set(resolve(image), { image, inFolder: relative(input, image), folder });
    }
  }
  const outFormat = out === undefined ? undefined : formatOfName(out);
  const oneFile = outFormat !== undefined && !(existsSync(out!) && (await isFolder(out!)));
  if (oneFile && (found.size > 1 || folders > 0)) {
    throw new UserError("--out", `expected a folder for several pictures, got ${out}`, "name a folder");
  }
  const isFile = out !== undefined && existsSync(out) && !(await isFolder(out));
  const namesOther = out !== undefined && !existsSync(out) && OTHER_ENDINGS.includes(extname(out).toLowerCase());
  if (!oneFile && ((isFile && extname(out) !== "") || namesOther)) {
    throw new UserError("--out", `expected a folder, or a .png, .webp, .tif or .jpg file, got ${out}`, "name a folder");
  }
  const uses = new Map<string, number>();
  const key = (folder: string, inFolder: string) => resolve(folder, withoutEnding(inFolder)).toLowerCase();
  for (const { folder, inFolder } of found.values()) {
    uses.set(key(folder, inFolder), (uses.get(key(folder, inFolder)) ?? 0) + 1);
  }
  const jobs = [...found.values()].map(({ image, folder, inFolder }): Job => {
    const mask = maskFor(image, inFolder);
    if (oneFile) return { image, mask, out: out!, outFormat };
    // a.jpg and a.png must not become one file.
    const shared = uses.get(key(folder, inFolder))! > 1;
    return { image, mask, out: join(folder, shared ? inFolder : withoutEnding(inFolder)) };
  });
  checkApart(jobs);
  return jobs;
}

/** Refuses pictures of one name from several folders, of which the last one filled would replace the others' results. */
function checkApart(jobs: readonly Job[]): void {
  const images = new Map<string, string>();
  for (const { image, out } of jobs) {
    const other = images.get(resolve(out));
    if (other !== undefined) {
      throw new UserError(
        "pconv inpaint",
        `expected pictures whose results have different names, got ${other} and ${image}, which both become ${out}`,
        "fill them one after the other, each with an --out of its own",
      );
    }
    images.set(resolve(out), image);
  }
}

/** Folders of masks and results inside of a folder of pictures: what is in them are no pictures to fill. */
async function foldersApart(input: string, masks: string, out: string | undefined): Promise<string[]> {
  const candidates = [...((await isFolder(masks)) ? [masks] : []), ...(out === undefined ? [] : [out])];
  return candidates.filter((folder) => isBelow(folder, input));
}

/** Whether a path lies below a folder, and is not the folder itself. */
function isBelow(path: string, folder: string): boolean {
  const way = relative(resolve(folder), resolve(path));
  return way !== "" && way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

/** `photo.jpg` to `photo.inpainted.jpg`. */
const insertInpainted = (name: string): string => `${withoutEnding(name)}.inpainted${extname(name)}`;

/** The file where this job's result already is, if it is. */
export function existingResult({ out, outFormat }: Job): string | undefined {
  const candidates = outFormat ? [out] : RESULT_ENDINGS.map((ending) => out + ending);
  return candidates.find((path) => existsSync(path));
}

/** All pictures and masks of some jobs, for {@link checkNotInput}: as they are named, and where links lead. */
export const inputsOf = (jobs: readonly Job[]): ReadonlySet<string> =>
  new Set(
    jobs
      .flatMap(({ image, mask }) => [image, ...(typeof mask === "string" ? [mask] : [])])
      .flatMap((path) => [placeOf(path), realPath(path)]),
  );

/** Refuses a result that would replace one of the pictures or masks, by another way to its folder too. */
export function checkNotInput(path: string, inputs: ReadonlySet<string>): void {
  if (!inputs.has(placeOf(path))) return;
  throw new UserError(
    path,
    "expected a new file for the result, got one of the pictures or masks",
    "choose another --out",
  );
}

/** Where a file is written: links to its folder are followed, and one of its own name would be replaced. */
const placeOf = (path: string): string => join(realPath(dirname(path)), basename(path));

/** Of what is not there, the path as it is. */
function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return resolve(path);
  }
}

/** One mask for all, or the mask of a folder whose name is the picture's, whatever the endings, or that and `_mask`. */
async function maskFinder(masks: string): Promise<(image: string, inFolder: string) => string | UserError> {
  if (!(await isFolder(masks))) return () => masks;
  const names = new Map<string, string[]>();
  const add = (name: string, path: string): void => void names.set(name, [...(names.get(name) ?? []), path]);
  for (const path of await listPictures(masks)) {
    const stem = withoutEnding(relative(masks, path));
    add(stem, path);
    if (MASK_SUFFIX.test(stem)) add(stem.replace(MASK_SUFFIX, ""), path);
  }
  return (image, inFolder) => {
    const near = withoutEnding(inFolder);
    const matches = (names.get(near) ?? names.get(basename(image, extname(image))) ?? []).filter(
      (path) => resolve(path) !== resolve(image),
    );
    if (matches.length === 1) return matches[0];
    const got = matches.length === 0 ? "none" : matches.map((path) => basename(path)).join(" and ");
    const stem = basename(image, extname(image));
    return new UserError(
      image,
      `expected one mask named ${stem} or ${stem}_mask in ${masks}, got ${got}`,
      "name the masks as the pictures, or pass one mask file for all",
    );
  };
}
