/**
 * The folder of one training run: config.json, log.jsonl, samples, checkpoints. Node only.
 *
 * A checkpoint is a folder `step-00000400/`. It is written under a temporary name, every file is flushed to the disk, and then
 * it is renamed: whoever looks sees a whole checkpoint or none. The last three and the best one are kept.
 */
import { appendFileSync } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { FormatError, UserError } from "../errors.js";
import { fileError, makeFolder, readBytes, writeWhole } from "./files.js";

const KEPT = 3;
const CHECKPOINT = /^step-(\d{8,})$/;
const PARTIAL = ".partial";
/** What an interrupted save of a checkpoint, or of a file (see `writeWhole`), leaves behind. */
const LEFTOVER = /\.partial(-\d+)?$/;
const CONFIG = "config.json";
const LOG = "log.jsonl";
const SAMPLES = "samples";
const EVENTS = "events.out.tfevents";

const checkpointName = (step: number) => `step-${String(step).padStart(8, "0")}`;

/** Flushes what was written to a file or folder to the disk. */
async function flush(path: string, kind: "file" | "folder"): Promise<void> {
  if (kind === "folder" && process.platform === "win32") return; // folders cannot be flushed there
  const handle = await open(path, kind === "file" ? "r+" : "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The folder of a training run: its configuration, log, samples and checkpoints. */
export class RunFolder {
  private constructor(
    readonly dir: string,
    /** Whether {@link create} made the folder itself. */
    private readonly made: boolean,
  ) {}

  /**
   * Makes sure that a new run can go into `dir`: it does not exist, or holds no other run.
   * @throws {UserError} when it holds one, or cannot be looked into.
   */
  static async checkFree(dir: string): Promise<void> {
    const names = await readdir(dir).catch((cause: unknown): string[] => {
      if (isCode(cause, "ENOENT")) return [];
      throw fileError(dir, "write", cause);
    });
    const found = names.find((name) => [CONFIG, LOG, SAMPLES].includes(name) || CHECKPOINT.test(name));
    if (found !== undefined) {
      const help = names.includes(CONFIG)
        ? "pass --resume to continue it, or another --name or --out"
        : "pass another --name or --out";
      throw new UserError(dir, `expected a folder without a run, got one with ${found}`, help);
    }
  }

  /**
   * Starts a run.
   * @throws {UserError} when the folder holds a run already, or cannot be written to.
   */
  static async create(dir: string, config: object): Promise<RunFolder> {
    await RunFolder.checkFree(dir);
    const existed = await exists(dir);
    const run = new RunFolder(dir, !existed);
    await makeFolder(run.path(SAMPLES));
    await run.writeConfig(config);
    return run;
  }

  /**
   * Opens an existing run; leftovers of an interrupted save are removed.
   * @throws {UserError} when there is none.
   */
  static async resume(dir: string): Promise<RunFolder> {
    const run = new RunFolder(dir, false);
    if (!(await exists(join(dir, CONFIG)))) {
      throw new UserError(
        dir,
        `expected a run to resume, got no ${CONFIG} there`,
        "check --out and --name, or leave --resume out to start a run",
      );
    }
    try {
      for (const parent of [dir, join(dir, SAMPLES)]) {
        for (const name of await readdir(parent).catch(() => [])) {
          if (LEFTOVER.test(name)) await rm(join(parent, name), { recursive: true, force: true });
        }
      }
    } catch (cause) {
      throw fileError(dir, "write", cause);
    }
    return run;
  }

  /** Removes what {@link create} made, for a run that ends before its first step. */
  async discard(): Promise<void> {
    const ours = (name: string) => [CONFIG, LOG, SAMPLES].includes(name) || name.startsWith(EVENTS);
    const names = this.made ? [""] : (await readdir(this.dir)).filter(ours);
    for (const name of names) await rm(this.path(name), { recursive: true, force: true });
  }

  /** Path of something in the folder. */
  path(...parts: string[]): string {
    return join(this.dir, ...parts);
  }

  /** Path of a new TensorBoard log of the run. */
  eventsPath(): string {
    return this.path(`${EVENTS}.${Math.floor(Date.now() / 1000)}.${hostname()}.v2`);
  }

  /** Path of a file of the checkpoint of a step; without `file`, of its folder. */
  checkpointPath(step: number, file = ""): string {
    return this.path(checkpointName(step), file);
  }

  /** Writes config.json, whole or not at all. @throws {UserError} when the place cannot be written to. */
  writeConfig(config: object): Promise<void> {
    return writeWhole(this.path(CONFIG), Buffer.from(`${JSON.stringify(config, null, 2)}\n`));
  }

  /** @throws {FormatError} when config.json is not a JSON object. */
  async readConfig(): Promise<Record<string, unknown>> {
    return readJsonObject(this.path(CONFIG), "restore the file, or start a new run");
  }

  /** Appends one line to log.jsonl. */
  log(line: object): void {
    try {
      appendFileSync(this.path(LOG), `${JSON.stringify(line)}\n`);
    } catch (cause) {
      throw fileError(this.path(LOG), "write", cause);
    }
  }

  /**
   * Drops the log's lines after `step`: what an interrupted run logged beyond its last checkpoint is logged again.
   * @returns how many other lines were dropped because they are no log lines; the last one does not count, which an
   * interruption may have cut.
   */
  async truncateLog(step: number): Promise<number> {
    const path = this.path(LOG);
    const text = await readFile(path, "utf8").catch((cause: unknown) => {
      if (isCode(cause, "ENOENT")) return "";
      throw fileError(path, "read", cause);
    });
    const lines = text.split("\n");
    const cut = lines.pop(); // empty when the text ends in a whole line
    const steps = lines.map(stepOfLine);
    const kept = lines.filter((_, i) => (steps[i] ?? Infinity) <= step);
    if (cut !== "" || kept.length < lines.length)
      await writeWhole(path, Buffer.from(kept.map((line) => `${line}\n`).join("")));
    return steps.filter((s) => s === null).length;
  }

  /** Steps of the complete checkpoints, ascending. */
  async checkpoints(): Promise<number[]> {
    const names = await readdir(this.dir).catch((cause: unknown) => {
      throw fileError(this.dir, "read", cause);
    });
    return names.flatMap((name) => CHECKPOINT.exec(name)?.[1] ?? []).map(Number).sort((a, b) => a - b); // prettier-ignore
  }

  /**
   * Writes a checkpoint, then removes those that are neither among the last three nor `bestStep`.
   * @throws {UserError} when it cannot be written (a full disk, say); earlier checkpoints are untouched then.
   */
  async saveCheckpoint(step: number, files: Readonly<Record<string, Uint8Array>>, bestStep: number): Promise<string> {
    const path = this.checkpointPath(step);
    const partial = path + PARTIAL;
    try {
      await rm(partial, { recursive: true, force: true });
      await mkdir(partial);
      for (const [file, bytes] of Object.entries(files)) {
        const handle = await open(join(partial, file), "w");
        try {
          await handle.writeFile(bytes);
          await handle.sync();
        } finally {
          await handle.close();
        }
      }
      await flush(partial, "folder");
      // A checkpoint that survives a power cut must find its log lines there too.
      if (await exists(this.path(LOG))) await flush(this.path(LOG), "file");
      await rm(path, { recursive: true, force: true }); // the same step saved twice, after Ctrl-C
      await rename(partial, path);
      await flush(this.dir, "folder");
      const steps = await this.checkpoints();
      for (const old of steps.slice(0, -KEPT)) {
        if (old !== bestStep) await rm(this.checkpointPath(old), { recursive: true, force: true });
      }
    } catch (cause) {
      await rm(partial, { recursive: true, force: true }).catch(() => undefined); // the first error is the one to report
      throw fileError(path, "write", cause);
    }
    return path;
  }
}

function isCode(cause: unknown, code: string): boolean {
  return cause instanceof Error && (cause as NodeJS.ErrnoException).code === code;
}

/** The step that a line of the log is about; null when it is no line of a log. */
function stepOfLine(line: string): number | null {
  try {
    const value: unknown = JSON.parse(line);
    const step = typeof value === "object" && value !== null ? (value as Record<string, unknown>)["step"] : null;
    return typeof step === "number" ? step : null;
  } catch {
    return null;
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** @throws {FormatError} when the file is not a JSON object. */
export async function readJsonObject(path: string, help: string): Promise<Record<string, unknown>> {
  const text = (await readBytes(path)).toString("utf8");
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // reported below
  }
  throw new FormatError(path, "expected a JSON object, got something else", help);
}
