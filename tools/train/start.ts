/** Where a run begins or goes on. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../../src/errors.js";
import { RunFolder } from "../../src/io/runFolder.js";
import { checkNewRun, checkRanks, type Invocation, runsFolder, totalSteps, type TrainOptions } from "./options.js";
import { lastSnapshot, type Snapshot } from "./snapshot.js";
import { newState, resumedOptions, type RunState } from "./stored.js";

/** Where a run begins or goes on. */
export interface Start {
  readonly o: TrainOptions;
  readonly dir: string;
  /** The run that is resumed, which is this process's now; null for a new one, whose folder is made once all else is known to be right. */
  readonly folder: RunFolder | null;
  /** What to go on from; null when there is nothing, and the run starts over. */
  readonly snapshot: Snapshot | null;
  readonly state: RunState;
}

/** The folder in runs/ whose run was started or resumed last. */
async function latestRun(): Promise<string> {
  const found: { dir: string; time: number }[] = [];
  for (const name of await readdir("runs").catch(() => [])) {
    const config = await stat(join("runs", name, "config.json")).catch(() => null);
    if (config) found.push({ dir: join("runs", name), time: config.mtimeMs });
  }
  if (found.length === 0)
    throw new UserError("--resume", "expected a run in runs/, got none", "pass --name or --out, or leave --resume out");
  return found.sort((a, b) => b.time - a.time)[0].dir;
}

/** A folder that is named by the clock, and that no other run has: two may start within a second, and clocks are set back. */
async function unusedFolder(stage: string): Promise<string> {
  const time = new Date().toISOString().slice(0, 19).replace("T", "-").replaceAll(":", "");
  for (let i = 1; ; i++) {
    const dir = runsFolder(i === 1 ? `${stage}-${time}` : `${stage}-${time}-${i}`);
    if (!(await stat(dir).catch(() => null))) return dir;
  }
}

/** @throws {UserError} when the options do not fit the run, or there is no run to go on with */
export async function findStart(call: Invocation, warn: (text: string) => void): Promise<Start> {
  const { options } = call;
  checkRanks(call);
  if (!call.resume) {
    checkNewRun(call);
    const dir = call.out ?? (options.name === null ? await unusedFolder(options.stage) : runsFolder(options.name));
    await RunFolder.checkFree(dir);
    return { o: options, dir, folder: null, snapshot: null, state: newState() };
  }
  const dir = call.out ?? (options.name === null ? await latestRun() : runsFolder(options.name));
  const folder = await RunFolder.resume(dir);
  try {
    return { dir, folder, ...(await resumed(call, folder, warn)) };
  } catch (error) {
    folder.release();
    throw error;
  }
}

async function resumed(
  call: Invocation,
  folder: RunFolder,
  warn: (text: string) => void,
): Promise<Pick<Start, "o" | "snapshot" | "state">> {
  const { given } = call;
  const o = resumedOptions(await folder.readConfig(), call, folder.path("config.json"));
  const snapshot = await lastSnapshot(folder, o.ema !== null, warn);
  const state = snapshot ? structuredClone(snapshot.state) : newState();
  if (totalSteps(o) < state.step) {
    const option = given.has("epochs") ? "--epochs" : given.has("steps") ? "--steps" : folder.path("config.json");
    throw new UserError(
      option,
      `expected at least the ${state.step} steps that the run has made, got ${totalSteps(o)}`,
      "ask for more, or start a new run",
    );
  }
  return { o, snapshot, state };
}
