/** One run of pconv-train, from options to the last checkpoint, over as many devices as it loses on the way. */
import type { Gpu } from "../../src/gpu/gpu.js";
import { RunFolder } from "../../src/io/runFolder.js";
import { wholeMebibytes } from "../../src/mebibytes.js";
import type { Trainer } from "../../src/pconv/trainer.js";
import { Ranks } from "../ranks.js";
import { Faults } from "./faults.js";
import { KeptState } from "./kept.js";
import { type Loop, measureTest, type StepListener, trainLoop } from "./loop.js";
import { type Invocation, totalSteps, type TrainOptions } from "./options.js";
import { Recovery } from "./recovery.js";
import { describeRanks, sharedStart, silent, type Written } from "./ranks.js";
import { duration, Reporter } from "./reporter.js";
import { closeTrainer, openTrainer, usablePrecision } from "./session.js";
import { takeSnapshot } from "./snapshot.js";
import { openSources, type Sources } from "./sources.js";
import { findStart, type Start } from "./start.js";
import { StopSignal } from "./stop.js";
import { HungError, Watchdog, watchdogSeconds } from "./watchdog.js";

/** What a run needs besides a device; all of it outlives one. */
interface Run {
  readonly start: Start;
  readonly call: Invocation;
  readonly sources: Sources;
  readonly ranks: Ranks;
  readonly stop: StopSignal;
  readonly faults: Faults;
  readonly onStep: StepListener;
  readonly warn: (text: string) => void;
  /** Of the whole run, by `performance.now`. */
  readonly started: number;
  /** Made with the first device, once everything else is known to be right. */
  written: Written | null;
}

const noListener: StepListener = () => Promise.resolve();

/** Opens everything, trains, and returns the exit code. Every rank of an MPI job calls it with the same options. */
export async function runTraining(call: Invocation, onStep = noListener, ranks = new Ranks(null)): Promise<number> {
  const stop = new StopSignal(!ranks.first);
  const shown: { run: Run | null } = { run: null };
  const warn = (text: string) => {
    const reporter = shown.run?.written?.reporter;
    if (!ranks.first) {
      // What is wrong from the beginning, the first rank says.
      if (reporter) console.error(`warning (rank ${ranks.rank}): ${text}`);
    } else if (reporter) reporter.message(`warning: ${text}`);
    else console.error(`warning: ${text}`);
  };
  let start: Start | null = null;
  try {
    start = await sharedStart(ranks, () => findStart(call, warn));
    const { o, state } = start;
    if (call.resume && state.step === totalSteps(o) && !state.due && !call.given.has("test")) {
      if (ranks.first)
        console.error(
          `${start.dir}: the run is finished, all ${totalSteps(o)} steps are done; ${o.stage === "both" ? "--finetune-steps" : "--steps"} N trains on, --test DIR measures`,
        );
      return 0;
    }
    const faults = Faults.of(process.env["PCONV_FAULTS"]);
    const sources = await ranks.together(() => openSources(o, warn));
    const run: Run = {
      start,
      call,
      sources,
      ranks,
      stop,
      faults,
      onStep,
      warn,
      started: performance.now(),
      written: null,
    };
    shown.run = run;
    return await train(run);
  } finally {
    stop.release();
    (shown.run?.written?.folder ?? start?.folder)?.release();
  }
}

/** Trains on a device, and when that is lost on another one, from the last state that is known to be good. */
async function train(run: Run): Promise<number> {
  const recovery = new Recovery(run.warn, run.stop);
  let { o } = run.start;
  for (;;) {
    const gpu = await run.ranks.together(() => recovery.open());
    const watchdog = new Watchdog(gpu, run.call.watchdog ?? watchdogSeconds(gpu));
    const made: { trainer: Trainer | null; loop: Loop | null; from: number } = { trainer: null, loop: null, from: 0 };
    const work = async (): Promise<number> => {
      // The run's folder says what it was trained with.
      o = { ...o, precision: usablePrecision(gpu, o.precision, run.warn) };
      const snapshot = run.written?.kept.snapshot ?? run.start.snapshot;
      const { sources, ranks, stop, faults, onStep, warn } = run;
      const known = run.written?.kept.snapshot.state ?? run.start.state;
      const trainer = (made.trainer = await openTrainer(gpu, { o, sources, snapshot, state: known, ranks, warn }));
      run.written ??= await ranks.together(() => openWritten(run, o, gpu, trainer));
      const { folder, reporter, kept } = run.written;
      const state = structuredClone(kept.snapshot.state);
      made.from = state.step;
      const { verifyEvery } = run.call;
      made.loop = { o, folder, trainer, state, kept, sources, reporter, ranks, verifyEvery, stop, faults, onStep };
      await trainLoop(made.loop);
      if (stop.signal === null && ranks.first) await measureTest(made.loop);
      reporter.close();
      return state.step;
    };
    let hung = false;
    try {
      const step = await Promise.race([work(), watchdog.hung]);
      return await finish(run, step, gpu);
    } catch (error) {
      hung = error instanceof HungError;
      const step = made.loop?.state.step ?? made.from;
      const kept = run.written?.kept.snapshot.state.step ?? 0;
      const failure = { error, gpu, o, step: step + 1, kept, worked: step > made.from };
      // A device that hangs can neither be asked nor closed. Several ranks go on together, or from the last checkpoint.
      const next =
        hung || run.ranks.size > 1
          ? null
          : await recovery.after(failure).catch((final: unknown) => giveUp(run, step, final));
      if (next === null) return await giveUp(run, step, error);
      if (next !== o) await run.written?.folder?.writeConfig(next);
      o = next;
      if (run.written) run.written.kept.frail = true;
    } finally {
      watchdog.stop();
      if (!hung) await closeTrainer(gpu, made.trainer);
    }
  }
}

/** Ends a run that cannot go on: what is good in memory is saved, and a new run that has made no step leaves nothing behind. */
async function giveUp({ start, written }: Run, step: number, error: unknown): Promise<never> {
  try {
    await written?.kept.write();
    written?.reporter.close();
  } catch {
    // the first error is the one to report
  }
  if (start.folder === null && step === 0) await written?.folder?.discard();
  if (error instanceof HungError) {
    console.error(error.message);
    written?.folder?.release();
    process.exit(2); // what waits for the device would wait for ever
  }
  throw error;
}

/** From here on the run's folder is written to. */
async function openWritten(run: Run, o: TrainOptions, gpu: Gpu, trainer: Trainer): Promise<Written> {
  const { start, call, sources, ranks, warn, stop } = run;
  const { folder: resumed, state, snapshot, dir } = start;
  if (!ranks.first) {
    const written = silent(state);
    stop.trainingStarts(written.reporter);
    return written;
  }
  const folder = resumed ?? (await RunFolder.create(dir, o));
  if (resumed) {
    const dropped = await resumed.truncateLog(state.step);
    if (dropped > 0)
      warn(
        `${resumed.path("log.jsonl")}: dropped ${dropped} line${dropped === 1 ? "" : "s"} that this command did not write`,
      );
    await resumed.writeConfig(o);
  }
  const { model } = trainer.config;
  const parameters = model.namedParameters().reduce((sum, [, p]) => sum + p.size, 0);
  console.error(`adapter: ${gpu.adapter.name}`);
  if (ranks.size > 1) console.error(`ranks: ${describeRanks(ranks, o)}`);
  console.error(`images: ${sources.images.description}; masks: ${sources.masks.description}`);
  console.error(`model: ${(parameters / 1e6).toFixed(2)} M parameters, ${o.depth} levels; run: ${folder.dir}`);
  if (resumed)
    console.error(snapshot ? `resuming after step ${state.step}` : "resuming from the start: no checkpoint was saved");
  const reporter = await Reporter.open(folder, {
    json: call.json,
    first: state.step,
    total: totalSteps(o),
    gradNorm: o.clipGradNorm !== null,
    batchSize: o.batchSize * ranks.size,
    stepsPerEpoch: o.stepsPerEpoch,
  });
  // Of several ranks each may get the signal: what is said is said when all know of it.
  stop.trainingStarts(ranks.size === 1 ? reporter : { message: () => undefined, stop: () => reporter.stop() });
  const first = snapshot ?? (await takeSnapshot(trainer, state, folder.checkpointPath(0)));
  return { folder, reporter, kept: new KeptState(folder, reporter, first) };
}

/** The last words of a run. @returns the exit code */
async function finish({ sources, ranks, stop, started, written }: Run, step: number, gpu: Gpu): Promise<number> {
  const codes = await ranks.numbers(stop.exitCode); // the first rank may have measured while another got a signal
  const skipped = new Set((await ranks.gather([...sources.skipped()])).flat()).size;
  const exitCode = codes.find((code) => code !== 0) ?? 0;
  if (!ranks.first) return exitCode;
  if (skipped > 0) console.error(`skipped ${skipped} unusable file${skipped === 1 ? "" : "s"}`);
  const { allocated } = gpu.memory();
  console.error(
    `${stop.signal === null ? "done" : `stopped by ${stop.signal}`} after step ${step}, ${duration((performance.now() - started) / 1000)}; device memory ${wholeMebibytes(allocated)}, process ${wholeMebibytes(process.memoryUsage().rss)}`,
  );
  console.error(`checkpoints, samples and log: ${written!.folder!.dir}`);
  return exitCode;
}
