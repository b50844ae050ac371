/**
 * The folder of one training run: config.json, log.jsonl, samples, checkpoints. Node only.
 *
 * A checkpoint is a folder `step-00000400/`. It is written under a temporary name, every file is flushed to the disk, and then
 * it is renamed: whoever looks sees a whole checkpoint or none. The last three and the best one are kept.
 */
import { appendFileSync } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { FormatError, UserError } from "../errors.js";
import { fileError, readBytes, writeWhole } from "./files.js";

const KEPT = 3;
const CHECKPOINT = /^step-(\d{8})$/;
const PARTIAL = ".partial";

const checkpointName = (step: number) => `step-${String(step).padStart(8, "0")}`;

/** Flushes a file or folder to the disk. */
async function flush(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export class RunFolder {
  private constructor(readonly dir: string) {}

  /**
   * Starts a run in a new or empty folder.
   * @throws {UserError} when the folder holds a run already, or cannot be written to.
   */
  static async create(dir: string, config: object): Promise<RunFolder> {
    const run = new RunFolder(dir);
    if (await exists(join(dir, "config.json"))) {
      throw new UserError(dir, "expected a folder without a run, got one with a config.json", "pass --resume to continue it, or another --name or --out");
    }
    await run.writeConfig(config);
    await run.makeFolder("samples");
    return run;
  }

  /**
   * Opens an existing run; leftovers of an interrupted save are removed.
   * @throws {UserError} when there is none.
   */
  static async resume(dir: string): Promise<RunFolder> {
    const run = new RunFolder(dir);
    if (!(await exists(join(dir, "config.json")))) {
      throw new UserError(dir, "expected a run to resume, got no config.json there", "check --out and --name, or leave --resume out to start a run");
    }
    for (const name of await readdir(dir)) {
      if (name.endsWith(PARTIAL)) await rm(join(dir, name), { recursive: true, force: true });
    }
    return run;
  }

  path(...parts: string[]): string {
    return join(this.dir, ...parts);
  }

  private async makeFolder(name: string): Promise<void> {
    await mkdir(this.path(name), { recursive: true }).catch((cause: unknown) => {
      throw fileError(this.path(name), "write", cause);
    });
  }

  writeConfig(config: object): Promise<void> {
    return writeWhole(this.path("config.json"), Buffer.from(`${JSON.stringify(config, null, 2)}\n`));
  }

  /** @throws {FormatError} when config.json is not a JSON object. */
  async readConfig(): Promise<Record<string, unknown>> {
    return readJsonObject(this.path("config.json"));
  }

  /** Appends one line to log.jsonl. */
  log(line: object): void {
    try {
      appendFileSync(this.path("log.jsonl"), `${JSON.stringify(line)}\n`);
    } catch (cause) {
      throw fileError(this.path("log.jsonl"), "write", cause);
    }
  }

  /** Drops the log's lines after `step`: what an interrupted run logged beyond its last checkpoint is logged again. */
  async truncateLog(step: number): Promise<void> {
    const path = this.path("log.jsonl");
    const text = await readFile(path, "utf8").catch(() => "");
    const kept = text.split("\n").filter((line) => {
      try {
        return (JSON.parse(line) as { step: number }).step <= step;
      } catch {
        return false; // the line that the interruption cut
      }
    });
    await writeWhole(path, Buffer.from(kept.map((line) => `${line}\n`).join("")));
  }

  /** Steps of the complete checkpoints, ascending. */
  async checkpoints(): Promise<number[]> {
    const names = await readdir(this.dir);
    return names.flatMap((name) => CHECKPOINT.exec(name)?.[1] ?? []).map(Number).sort((a, b) => a - b); // prettier-ignore
  }

  /**
   * Writes a checkpoint, then removes those that are neither among the last three nor `bestStep`.
   * @throws {UserError} when it cannot be written (a full disk, say); earlier checkpoints are untouched then.
   */
  async saveCheckpoint(step: number, files: Readonly<Record<string, Uint8Array>>, bestStep: number): Promise<string> {
    const name = checkpointName(step);
    const partial = this.path(name + PARTIAL);
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
      await flush(partial);
      await rm(this.path(name), { recursive: true, force: true }); // the same step saved twice, after Ctrl-C
      await rename(partial, this.path(name));
      await flush(this.dir);
    } catch (cause) {
      await rm(partial, { recursive: true, force: true }).catch(() => undefined); // the first error is the one to report
      throw fileError(this.path(name), "write", cause);
    }
    const steps = await this.checkpoints();
    for (const old of steps.slice(0, -KEPT)) {
      if (old !== bestStep) await rm(this.path(checkpointName(old)), { recursive: true, force: true });
    }
    return this.path(name);
  }

  /** Reads one file of a checkpoint. */
  readCheckpoint(step: number, file: string): Promise<Buffer> {
    return readBytes(this.path(checkpointName(step), file));
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** @throws {FormatError} when the file is not a JSON object. */
export async function readJsonObject(path: string): Promise<Record<string, unknown>> {
  const text = (await readBytes(path)).toString("utf8");
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // reported below
  }
  throw new FormatError(path, "expected a JSON object, got something else", "restore the file, or start a new run");
}
