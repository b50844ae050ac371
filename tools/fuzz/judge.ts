/** Making a case, handing it to its readers, and judging what they do. */
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, relative, sep } from "node:path";
import { UserError } from "../../src/errors.js";
import { Rng } from "../../src/pconv/rng.js";
import type { FuzzCase, FuzzFormat, Holdings, Verdict } from "./case.js";

/** Longer messages quote a file without end. */
const MAX_MESSAGE = 4000;
/** Of this library's errors: two lines, and nothing that a terminal would obey. */
const TWO_LINES = /^[^\p{Cc}]+: [^\p{Cc}]+\nhelp: [^\p{Cc}]+$/u;

/** Pictures of more pixels are refused: the default limit would let cases take gigabytes, as it is meant to. */
export const FUZZ_MAX_PIXELS = 4_000_000;

/** The case of a seed and a number, whatever was made before. */
export function makeCase(format: FuzzFormat, seed: number, index: number): FuzzCase {
  const key = [...format.name].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) >>> 0, 7);
  return format.make(Rng.of(seed, key, index));
}

/** Puts a case into a folder that is empty or not there. Names that a system refuses are left out. */
export async function writeCase(folder: string, { files, links = {} }: FuzzCase): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const [name, bytes] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), bytes).catch((error: unknown) => {
      if (process.platform !== "win32") throw error;
    });
  }
  for (const [name, target] of Object.entries(links)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await symlink(target, join(folder, name)).catch((error: unknown) => {
      if (process.platform !== "win32" && (error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    });
  }
}

/** The case that {@link writeCase} wrote. */
export async function loadCase(folder: string): Promise<FuzzCase> {
  const files: Record<string, Uint8Array> = {};
  const links: Record<string, string> = {};
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    const path = join(entry.parentPath, entry.name);
    const name = relative(folder, path).replaceAll(sep, "/");
    if (entry.isSymbolicLink()) links[name] = await readlink(path);
    else if (entry.isFile()) files[name] = new Uint8Array(await readFile(path));
  }
  return { files, links };
}

/** Reads cases one after the other, each in a folder of its own that is gone afterwards. */
export class Judge {
  private constructor(
    private readonly format: FuzzFormat,
    private readonly root: string,
  ) {}

  static async open(format: FuzzFormat): Promise<Judge> {
    process.env["PCONV_MAX_PIXELS"] = String(FUZZ_MAX_PIXELS);
    await format.prepare();
    return new Judge(format, await mkdtemp(join(tmpdir(), `pconv-fuzz-${format.name}-`)));
  }

  async close(): Promise<void> {
    await rm(this.root, { recursive: true, force: true });
    await this.format.close?.();
  }

  async judge(index: number, input: FuzzCase): Promise<Verdict> {
    const folder = join(this.root, "case");
    await writeCase(folder, input);
    const start = performance.now();
    const verdict = (outcome: "accepted" | "refused" | "crash", detail: string): Verdict => {
      return { index, outcome, ms: performance.now() - start, detail };
    };
    let judged: Verdict;
    try {
      await this.format.read(folder, input);
      judged = verdict("accepted", "");
    } catch (error) {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
      if (!(error instanceof UserError)) judged = verdict("crash", text);
      else if (!TWO_LINES.test(error.message) || error.message.length > MAX_MESSAGE) {
        judged = verdict("crash", `a message that is not two lines: ${JSON.stringify(error.message).slice(0, 300)}`);
      } else judged = verdict("refused", kindOf(error));
    }
    await rm(folder, { recursive: true, force: true });
    return judged;
  }
}

/** A refusal's words without what differs from case to case, to count kinds of them. */
function kindOf({ problem }: UserError): string {
  return problem
    .replace(/"(?:[^"\\]|\\.)*"/g, '"..."')
    .replace(/\(.*\)/s, "(...)")
    .replace(/, got .*/s, "")
    .replace(/\d+/g, "N")
    .slice(0, 100);
}

/** What this process holds now. */
export async function holdings(cases: number): Promise<Holdings> {
  // Twice, with time between: what is freed by finalizers is collected by the second.
  for (let i = 0; i < 2; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const { rss, heapUsed, arrayBuffers } = process.memoryUsage();
  const files = await readdir("/proc/self/fd").catch(() => []);
  const handles = process.getActiveResourcesInfo().length;
  return { cases, rssBytes: rss, heldBytes: heapUsed + arrayBuffers, files: files.length, handles };
}
