/** What training goes on from: the files of a checkpoint, on the disk and in memory. */
import { FormatError, GpuError, UserError } from "../../src/errors.js";
import { readBytes } from "../../src/io/files.js";
import type { RunFolder } from "../../src/io/runFolder.js";
import { readSafetensors, writeSafetensors } from "../../src/io/safetensors.js";
import type { Trainer } from "../../src/pconv/trainer.js";
import { unetToSafetensors } from "../../src/pconv/unetWeights.js";
import { MODEL } from "./model.js";
import { readState, type RunState } from "./stored.js";

const OPTIMIZER = "optimizer.safetensors";
const AVERAGED = "ema.safetensors";
const STATE = "state.json";

/** The state of a run after a step: enough to go on from it bit for bit, on another device too. */
export interface Snapshot {
  readonly state: RunState;
  /** The files of its checkpoint by name, without checksums. */
  readonly files: Readonly<Record<string, Uint8Array>>;
  /** For errors: the checkpoint's folder. */
  readonly where: string;
}

/** Runs something with the averaged weights, where there are any. */
export const averaged = <T>({ ema }: Trainer, work: () => Promise<T>): Promise<T> =>
  ema ? ema.whileApplied(work) : work();

/**
 * Copies everything from the device.
 * @throws {UserError} when a loss since the last report was not finite
 */
export async function takeSnapshot(trainer: Trainer, state: RunState, where: string): Promise<Snapshot> {
  await trainer.checkFinite();
  const weights = () => unetToSafetensors(trainer.config.model, { step: String(state.step) });
  return {
    state: structuredClone(state),
    where,
    files: {
      [MODEL]: await weights(),
      ...(trainer.ema && { [AVERAGED]: await averaged(trainer, weights) }),
      [OPTIMIZER]: writeSafetensors(await trainer.optimizer.stateDict()),
      [STATE]: Buffer.from(`${JSON.stringify(state, null, 2)}\n`),
    },
  };
}

/** Gives a new trainer, whose model holds the snapshot's weights, the rest. @throws {UserError} when they do not fit together */
export function restore(trainer: Trainer, { files, state, where }: Snapshot): void {
  const path = `${where}/${OPTIMIZER}`;
  trainer.optimizer.loadStateDict(readSafetensors(files[OPTIMIZER], path).tensors, path);
  if (trainer.ema) {
    const averages = `${where}/${AVERAGED}`;
    if (!files[AVERAGED])
      throw new FormatError(averages, "expected averaged weights, got no file", "resume without --ema");
    trainer.ema.loadStateDict(readSafetensors(files[AVERAGED], averages).tensors, averages);
  }
  if (trainer.optimizer.steps < 0)
    throw new FormatError(path, `expected a number of steps, got ${trainer.optimizer.steps}`, "use another checkpoint");
  trainer.resume(state.step, state.samples ?? undefined);
}

/** Reads a checkpoint, and compares it with its checksums. @throws {UserError} when it is not what was written */
async function readSnapshot(folder: RunFolder, step: number, ema: boolean): Promise<Snapshot> {
  await folder.verify(step);
  const path = (file: string) => folder.checkpointPath(step, file);
  const state = await readState(path(STATE), step);
  const files: Record<string, Uint8Array> = {};
  for (const name of [MODEL, OPTIMIZER, ...(ema ? [AVERAGED] : [])]) {
    files[name] = await readBytes(path(name));
    readSafetensors(files[name], path(name)); // checkpoints of version 0.1 have no checksums, but may be cut off
  }
  files[STATE] = await readBytes(path(STATE));
  return { state, files, where: folder.checkpointPath(step) };
}

/**
 * The last checkpoint of a run that is what was written. Later ones are set aside, with a warning each; so is the best one.
 * @returns null for a run without checkpoints
 * @throws {FormatError} when it has some and all are damaged; nothing is changed then
 */
export async function lastSnapshot(
  folder: RunFolder,
  ema: boolean,
  warn: (text: string) => void,
): Promise<Snapshot | null> {
  const damaged: { readonly step: number; readonly error: UserError }[] = [];
  const steps = await folder.checkpoints();
  for (const step of steps.toReversed()) {
    try {
      const snapshot = await readSnapshot(folder, step, ema);
      for (const bad of damaged) await setAside(folder, bad.step, bad.error, warn);
      return await withCheckedBest(folder, snapshot, warn);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      damaged.push({ step, error });
    }
  }
  if (damaged.length === 0) return null;
  const { where, problem } = damaged[0].error;
  const which =
    damaged.length === 1 ? "the only checkpoint is damaged" : `all ${damaged.length} checkpoints are damaged`;
  throw new FormatError(where, problem, `${which}: copy one from elsewhere, or remove them to start the run over`);
}

async function setAside(
  folder: RunFolder,
  step: number,
  error: UserError,
  warn: (text: string) => void,
): Promise<void> {
  const path = await folder.setAside(step);
  warn(`damaged checkpoint: ${error.where}: ${error.problem}; it is ${path} now, and what was saved before is used`);
}

/** Forgets a best checkpoint that is damaged: another one can then become the best. */
async function withCheckedBest(folder: RunFolder, snapshot: Snapshot, warn: (text: string) => void): Promise<Snapshot> {
  const { best, step } = snapshot.state;
  // Where it is gone, a later and better one had taken its place, and will again when the steps up to there are made again.
  if (best === null || best.step === step || !(await folder.checkpoints()).includes(best.step)) return snapshot;
  try {
    await folder.verify(best.step);
    return snapshot;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    await setAside(folder, best.step, error, (text) => warn(`${text}; it was the best one`));
    return { ...snapshot, state: { ...snapshot.state, best: null } };
  }
}

/** Uses files of a snapshot; when they do not fit the run, what was saved before is the way out. */
export async function reading<T>({ where }: Snapshot, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof UserError) || error instanceof GpuError) throw error;
    throw new FormatError(error.where, error.problem, `remove ${where} to resume from what was saved before it`, {
      cause: error,
    });
  }
}
