/** The steps of a run on one device, with what is measured, shown and saved between them. */
import type { Gpu } from "../../src/gpu/gpu.js";
import { encodePng, writePicturePng } from "../../src/io/png.js";
import { isDiskFull } from "../../src/io/files.js";
import type { RunFolder } from "../../src/io/runFolder.js";
import { reestimateStatistics } from "../../src/pconv/reestimate.js";
import type { Trainer } from "../../src/pconv/trainer.js";
import type { Ranks } from "../ranks.js";
import type { Faults } from "./faults.js";
import { meanPsnr, sampleStrip, VALIDATION_IMAGES } from "./measure.js";
import { frozenAfter, totalSteps, type TrainOptions } from "./options.js";
import { type Keeping, type Reporting, stopped, verify } from "./ranks.js";
import { duration } from "./reporter.js";
import { averaged } from "./snapshot.js";
import { SourceError, type Sources } from "./sources.js";
import type { StopSignal } from "./stop.js";
import type { RunState } from "./stored.js";

export interface Loop {
  readonly o: TrainOptions;
  /** Null on a rank that writes nothing. */
  readonly folder: RunFolder | null;
  readonly trainer: Trainer;
  readonly state: RunState;
  readonly kept: Keeping;
  readonly sources: Sources;
  readonly reporter: Reporting;
  readonly ranks: Ranks;
  /** Steps between two comparisons of the ranks; null: at checkpoints. */
  readonly verifyEvery: number | null;
  readonly stop: StopSignal;
  readonly faults: Faults;
  readonly onStep: StepListener;
}

/** Is called after each step, and waited for. */
export type StepListener = (step: number, gpu: Gpu) => Promise<void>;

/** Trains until the last step or a signal, and saves. */
export async function trainLoop(loop: Loop): Promise<void> {
  const { o, trainer, state, kept, reporter, stop, faults } = loop;
  const total = totalSteps(o);
  await verify(loop);
  if (state.due) await reporter.pause(() => milestone(loop));
  let ending = await stopped(loop, true);
  while (state.step < total && !ending) {
    // Resumed right here, it is done again, and gives the same.
    if (state.step === frozenAfter(o) && !(await reporter.pause(() => freeze(loop)))) break;
    faults.before(state.step + 1, trainer.config.model.gpu);
    const report = await trainer
      .trainStep({ report: (state.step + 1) % o.logEvery === 0 })
      .catch((error: unknown) => savingFirst(loop, error));
    state.step = trainer.step;
    state.samples = trainer.samples;
    if (report) {
      state.interval.sum += report.loss;
      state.interval.count++;
    }
    reporter.step(state.step, report);
    await loop.onStep(state.step, trainer.config.model.gpu);
    const due = state.step % o.saveEvery === 0 || state.step === o.steps || state.step === total;
    await reporter.pause(() => (due ? milestone(loop) : kept.copy(trainer, state)));
    if (loop.verifyEvery === null ? due : state.step % loop.verifyEvery === 0) await reporter.pause(() => verify(loop));
    ending = await stopped(loop, report !== null || due);
  }
  await trainer.checkFinite(); // on all ranks, before the first one saves
  // A signal may come between two milestones: nothing is measured then, so that the log stays that of an uninterrupted run.
  if (!kept.isSaved(state.step)) await reporter.pause(() => kept.saveLast(trainer, state, stop));
}

/**
 * The second stage begins: freezes batch norm. The first rank's statistics become those of all with the next step.
 * @returns false when a signal came first
 */
async function freeze(loop: Loop): Promise<boolean> {
  const { o, trainer, ranks } = loop;
  const complete = o.freezeStatistics !== "reestimated" || !ranks.first || (await reestimate(loop));
  if ((await ranks.numbers(Number(complete))).includes(0)) return false;
  trainer.freezeBatchNorm(o.freeze);
  return true;
}

/** @returns false when a signal came first */
async function reestimate({ o, trainer, reporter, stop }: Loop): Promise<boolean> {
  const started = performance.now();
  let shown = started;
  reporter.message(`stage 2: taking batch norm's statistics over ${o.reestimateBatches} batches`);
  return reestimateStatistics({
    ...trainer.config,
    batches: o.reestimateBatches,
    stopped: () => stop.signal !== null,
    onProgress: (done, all) => {
      const now = performance.now();
      if (now - shown < 5000) return;
      shown = now;
      reporter.message(`statistics: ${done} of ${all} | ETA ${duration((((now - started) / done) * (all - done)) / 1000)}`); // prettier-ignore
    },
  });
}

/** Pictures that are gone take nothing of the run with them: saves, and throws the error. */
async function savingFirst({ kept, trainer, state, stop, ranks }: Loop, error: unknown): Promise<never> {
  // Of several ranks the others are in the middle of the step that failed here.
  if (error instanceof SourceError && ranks.size === 1 && !kept.isSaved(state.step))
    await kept.saveLast(trainer, state, stop);
  throw error;
}

/** Validation, sample strip and checkpoint. A signal cuts the validation short; it is done again when the run is resumed. */
async function milestone(loop: Loop): Promise<void> {
  const { o, folder, trainer, state, kept, sources, reporter } = loop;
  const { model } = trainer.config;
  await trainer.checkFinite();
  if (folder === null) return; // the first rank measures and writes
  state.due = true;
  const count = Math.min(VALIDATION_IMAGES, sources.validation?.length ?? 0);
  const shown = async () => {
    const value = sources.validation && (await measure(loop, sources.validation, count));
    if (value === null && sources.validation) return null;
    const strip = await averaged(trainer, () =>
      sampleStrip(model, sources.validation ?? sources.images, sources.fixedMasks, o.imageSize),
    );
    return { value, strip };
  };
  const seen = await shown().catch((error: unknown) => savingFirst(loop, error));
  if (seen === null) {
    await kept.save(trainer, state);
    return;
  }
  state.due = false;
  const { value, strip } = seen;
  const mean = state.interval.sum / state.interval.count; // NaN, and never the best, where no step was logged
  let measured = { score: -mean, of: "training loss" };
  if (value !== null) {
    reporter.measure(state.step, "validation", value, count);
    measured = { score: value, of: `PSNR on ${o.validation}` };
  }
  state.interval = { sum: 0, count: 0 };
  const { best } = state;
  const comparable = best !== null && best.of === measured.of;
  if (Number.isFinite(measured.score) && (!comparable || measured.score > best.score))
    state.best = { step: state.step, ...measured };
  const path = folder.path("samples", `step-${String(state.step).padStart(8, "0")}.png`);
  await writePicturePng(path, strip).catch((error: unknown) => {
    // That sample is left out; the TensorBoard log has it too, once there is room.
    if (!isDiskFull(error)) throw error;
    reporter.full("log", error);
  });
  reporter.image(state.step, encodePng(strip), strip.width, strip.height);
  // A best checkpoint that the disk had no room for is none.
  if (!(await kept.save(trainer, state)) && state.best?.step === state.step) state.best = best;
}

function measure(
  { o, trainer, sources, stop }: Loop,
  images: Sources["images"],
  count: number,
): Promise<number | null> {
  const stopped = () => stop.signal !== null;
  const { model } = trainer.config;
  return averaged(trainer, () =>
    meanPsnr({ model, images, masks: sources.fixedMasks, size: o.imageSize, count, stopped }),
  );
}

/** The test folder's PSNR, once at the end. */
export async function measureTest(loop: Loop): Promise<void> {
  const { state, sources, reporter } = loop;
  if (!sources.test) return;
  const count = Math.min(sources.test.length, 10 * VALIDATION_IMAGES);
  const value = await measure(loop, sources.test, count);
  if (value !== null) reporter.measure(state.step, "test", value, count);
}
