/** What a run does as one of several ranks: all train, the first one writes. */
import { UserError } from "../../src/errors.js";
import type { RunFolder } from "../../src/io/runFolder.js";
import type { Trainer } from "../../src/pconv/trainer.js";
import type { Ranks } from "../ranks.js";
import type { KeptState } from "./kept.js";
import type { TrainOptions } from "./options.js";
import type { Reporter } from "./reporter.js";
import type { Start } from "./start.js";
import type { StopSignal } from "./stop.js";
import type { RunState } from "./stored.js";

/** Steps without a report between two looks at the other ranks' signals: each waits for the device. */
const LOOK_STEPS = 16;
/** Digits of a hash that are shown. */
const HASH_DIGITS = 12;

/** What the loop needs of a reporter, and of the state that is kept. */
export type Reporting = Pick<Reporter, "message" | "pause" | "step" | "measure" | "image" | "full" | "close" | "stop">;
export type Keeping = Pick<KeptState, "snapshot" | "frail" | "isSaved" | "copy" | "save" | "saveLast" | "write">;

/** What a run writes to; ranks but the first have no folder, and write nothing. */
export interface Written {
  readonly folder: RunFolder | null;
  readonly reporter: Reporting;
  readonly kept: Keeping;
}

const nothing = () => undefined;

/** Of a rank that writes nothing. */
export function silent(state: RunState): Written {
  return {
    folder: null,
    reporter: {
      message: nothing,
      pause: (work) => work(),
      step: nothing,
      measure: nothing,
      image: nothing,
      full: nothing,
      close: nothing,
      stop: nothing,
    },
    kept: {
      snapshot: { state, files: {}, where: "" },
      frail: false,
      isSaved: () => true,
      copy: async () => undefined,
      save: async () => true,
      saveLast: async () => undefined,
      write: async () => true,
    },
  };
}

/** Where the first rank's run begins or goes on; only that one opens its folder and reads its checkpoint. */
export async function sharedStart(ranks: Ranks, find: () => Promise<Start>): Promise<Start> {
  const found: { start: Start | null } = { start: null };
  const shared = await ranks.fromFirst(async () => {
    const { o, dir, state } = (found.start = await find());
    return { o, dir, state };
  });
  return found.start ?? { ...shared, folder: null, snapshot: null };
}

interface Running {
  readonly ranks: Ranks;
  readonly trainer: Trainer;
  readonly state: RunState;
  readonly stop: StopSignal;
  readonly reporter: Reporting;
}

/**
 * Whether a signal has come to any rank; all get the same answer.
 * @param idle whether nothing is under way between the ranks, as after a step with a report
 */
export async function stopped({ ranks, trainer, state, stop, reporter }: Running, idle: boolean): Promise<boolean> {
  if (ranks.size === 1) return stop.signal !== null;
  if (!idle) {
    if (state.step % LOOK_STEPS !== 0) return false;
    await trainer.config.model.gpu.sync(); // no sum may come between those of a step
  }
  const codes = await ranks.numbers(stop.exitCode);
  const rank = codes.findIndex((code) => code !== 0);
  if (rank < 0) return false;
  stop.follow(codes[rank]);
  reporter.message(`${stop.signal} on rank ${rank}: saving a checkpoint; once more to exit without`);
  return true;
}

/** @throws {UserError} on all ranks when they do not hold the same parameters and moments */
export async function verify({ ranks, trainer, state }: Omit<Running, "stop" | "reporter">): Promise<void> {
  if (ranks.size === 1) return;
  const own = await trainer.hash();
  const first = await ranks.fromFirst(async () => own);
  await ranks.together(async () => {
    if (own === first) return;
    const [want, got] = [first, own].map((hash) => hash.slice(0, HASH_DIGITS));
    throw new UserError(
      `rank ${ranks.rank}, step ${state.step}`,
      `expected the weights and moments of rank 0 (SHA-256 ${want}...), got others (${got}...)`,
      "look for failing memory on that rank's host, and go on from a checkpoint of before with --resume",
    );
  });
}

/** `batch 6 on each of 4 ranks, 24 in all; Open MPI v4.1.4 (libmpi.so.40)`. */
export function describeRanks(ranks: Ranks, { batchSize }: TrainOptions): string {
  return `batch ${batchSize} on each of ${ranks.size} ranks, ${batchSize * ranks.size} images a step; ${ranks.library}`;
}
