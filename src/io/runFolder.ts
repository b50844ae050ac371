/**
 * The folder of one training run: config.json, log.jsonl, samples, checkpoints. Node only.
 *
 * A checkpoint is a folder `step-00000400/`. It is written under a temporary name, every file is flushed to the disk, and then
 * it is renamed: whoever looks sees a whole checkpoint or none. It goes the same way when it is removed. The last three and the
 * best one are kept; each holds the checksums of its files. One process at a time writes to the folder (see `RunLock`).
 */
import { appendFileSync, statSync, truncateSync } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { FormatError, UserError } from "../errors.js";
import { CHECKSUMS, checksumsOf, verifyChecksums } from "./checksums.js";
import { fileError, makeFolder, readBytes, writeWhole } from "./files.js";
import { RunLock } from "./runLock.js";

const KEPT = 3;
const CHECKPOINT = /^step-(\d{8,})$/;
const PARTIAL = ".partial";
/** An earlier checkpoint of the same step, until the new one stands in its place. */
const REPLACED = ".replaced";
/** A checkpoint that is not what was written. */
const DAMAGED = ".damaged";
/** What an interrupted save of a checkpoint, or of a file (see `writeWhole`), leaves behind. */
const LEFTOVER = /\.partial(-\d+)?$/;
/** Two starts within a second must not share a log, and TensorBoard reads a run's logs in the order of their names. */
const EVENT_LOG = /^events\.out\.tfevents\.(\d{1,15})\./;
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
    private readonly lock: RunLock,
  ) {}

  /** Log lines that a full disk has refused so far. */
  private unwritten = "";

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
   * Starts a run. The folder is this process's until {@link release}.
   * @throws {UserError} when the folder holds a run already, or cannot be written to.
   */
  static async create(dir: string, config: object): Promise<RunFolder> {
    await RunFolder.checkFree(dir);
    const existed = await exists(dir);
    await makeFolder(dir);
    const lock = await RunLock.take(dir);
    const run = new RunFolder(dir, !existed, lock);
    try {
      await RunFolder.checkFree(dir); // another process may have been faster
      // First: killed before this, a start leaves a folder that counts as free; after it, a run that can be resumed.
      await run.writeConfig(config);
      await makeFolder(run.path(SAMPLES));
    } catch (error) {
      lock.release();
      throw error;
    }
    return run;
  }

  /**
   * Opens an existing run; leftovers of an interrupted save are removed. The folder is this process's until {@link release}.
   * @throws {UserError} when there is none, when another process works on it, or when it cannot be written to.
   */
  static async resume(dir: string): Promise<RunFolder> {
    if (!(await exists(join(dir, CONFIG)))) {
      throw new UserError(
        dir,
        `expected a run to resume, got no ${CONFIG} there`,
        "check --out and --name, or leave --resume out to start a run",
      );
    }
    const lock = await RunLock.take(dir);
    try {
      for (const parent of [dir, join(dir, SAMPLES)]) {
        for (const name of await readdir(parent).catch(() => [])) await tidy(join(parent, name));
      }
    } catch (cause) {
      lock.release();
      throw fileError(dir, "write", cause);
    }
    return new RunFolder(dir, false, lock);
  }

  /** Lets other processes have the folder. */
  release(): void {
    this.lock.release();
  }

  /** Removes what {@link create} made, and releases it, for a run that ends before its first step. */
  async discard(): Promise<void> {
    const ours = (name: string) => [CONFIG, LOG, SAMPLES].includes(name) || name.startsWith(EVENTS);
    this.release();
    const names = this.made ? [""] : (await readdir(this.dir)).filter(ours);
    for (const name of names) await rm(this.path(name), { recursive: true, force: true });
  }

  /** Path of something in the folder. */
  path(...parts: string[]): string {
    return join(this.dir, ...parts);
  }

  /** Path of a new TensorBoard log of the run; its name comes after those of the run's earlier logs, whatever the clock says. */
  async eventsPath(): Promise<string> {
    const names = await readdir(this.dir).catch((cause: unknown) => {
      throw fileError(this.dir, "read", cause);
    });
    const earlier = names.map((name) => Number(EVENT_LOG.exec(name)?.[1] ?? -1));
    const seconds = Math.max(Math.floor(Date.now() / 1000), ...earlier.map((time) => time + 1));
    return this.path(`${EVENTS}.${seconds}.${hostname()}.v2`);
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

  /**
   * Appends one line to log.jsonl.
   * @throws {UserError} when it cannot be written, on a full disk for example; the line is then kept, and written before the next.
   */
  log(line: object): void {
    this.unwritten += `${JSON.stringify(line)}\n`;
    this.flushLog();
  }

  /** Writes the lines of the log that a full disk refused. @throws {UserError} when it still does */
  flushLog(): void {
    if (this.unwritten === "") return;
    const path = this.path(LOG);
    const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
    try {
      appendFileSync(path, this.unwritten);
    } catch (cause) {
      // Half of it may be there, and a later try must not follow half a line.
      if ((statSync(path, { throwIfNoEntry: false })?.size ?? 0) > size) truncateSync(path, size);
      throw fileError(path, "write", cause);
    }
    this.unwritten = "";
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

  /**
   * Makes sure that a checkpoint is what was written.
   * @returns false where that cannot be told: checkpoints of version 0.1 hold no checksums
   * @throws {FormatError} naming the file that is not
   */
  verify(step: number): Promise<boolean> {
    const path = this.checkpointPath(step);
    return verifyChecksums(path, `remove ${path} to resume from what was saved before it`);
  }

  /** Renames a checkpoint so that it counts as none. @returns its new path */
  async setAside(step: number): Promise<string> {
    const path = this.checkpointPath(step);
    try {
      await rm(path + DAMAGED, { recursive: true, force: true });
      await rename(path, path + DAMAGED);
    } catch (cause) {
      throw fileError(path, "write", cause);
    }
    return path + DAMAGED;
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
   * @throws {UserError} when it cannot be written (a full disk, say), or the run belongs to another process now; earlier
   * checkpoints are untouched then.
   */
  async saveCheckpoint(step: number, files: Readonly<Record<string, Uint8Array>>, bestStep: number): Promise<string> {
    this.lock.check();
    const path = this.checkpointPath(step);
    const partial = path + PARTIAL;
    try {
      await rm(partial, { recursive: true, force: true });
      await mkdir(partial);
      for (const [file, bytes] of Object.entries({ ...files, [CHECKSUMS]: checksumsOf(files) })) {
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
      this.flushLog();
      if (await exists(this.path(LOG))) await flush(this.path(LOG), "file");
      // The same step is saved twice after Ctrl-C.
      const again = await exists(path);
      if (again) await rename(path, path + REPLACED);
      await rename(partial, path);
      await flush(this.dir, "folder");
      if (again) await rm(path + REPLACED, { recursive: true, force: true });
      const steps = await this.checkpoints();
      for (const old of steps.slice(0, -KEPT)) {
        if (old === bestStep) continue;
        // What is removed file by file must not look like a checkpoint while it is.
        const gone = this.checkpointPath(old) + PARTIAL;
        await rename(this.checkpointPath(old), gone);
        await rm(gone, { recursive: true, force: true });
      }
    } catch (cause) {
      await rm(partial, { recursive: true, force: true }).catch(() => undefined); // the first error is the one to report
      throw fileError(path, "write", cause);
    }
    return path;
  }
}

/** Removes a leftover of an interrupted save, or puts back what was to be replaced. */
async function tidy(path: string): Promise<void> {
  const replaced = path.endsWith(REPLACED) ? path.slice(0, -REPLACED.length) : null;
  if (replaced !== null && !(await exists(replaced))) await rename(path, replaced);
  else if (replaced !== null || LEFTOVER.test(path)) await rm(path, { recursive: true, force: true });
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

/** Those of this library are of a few KiB; what is larger was not written by it. */
const MAX_JSON_BYTES = 2 ** 20;

/** @throws {FormatError} when the file is not a JSON object, or of more than 1 MiB. */
export async function readJsonObject(path: string, help: string): Promise<Record<string, unknown>> {
  const bytes = await readBytes(path);
  if (bytes.length > MAX_JSON_BYTES) {
    throw new FormatError(path, `expected at most ${MAX_JSON_BYTES} bytes, got ${bytes.length}`, help);
  }
  try {
    const value: unknown = JSON.parse(bytes.toString("utf8"));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // reported below
  }
  throw new FormatError(path, "expected a JSON object, got something else", help);
}
