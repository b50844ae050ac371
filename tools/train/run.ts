/** One run of pconv-train, from options to the last checkpoint. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { FormatError, GpuError, UserError } from "../../src/errors.js";
import type { Precision } from "../../src/autograd/tensor.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { openGpu } from "../../src/gpu/node.js";
import { encodePng, writePicturePng } from "../../src/io/png.js";
import { readBytes } from "../../src/io/files.js";
import { RunFolder } from "../../src/io/runFolder.js";
import { readSafetensors, writeSafetensors } from "../../src/io/safetensors.js";
import { loadUNet } from "../../src/io/unetFile.js";
import { loadVgg } from "../../src/io/vggFile.js";
import { showingDownloads } from "../downloadProgress.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import { reestimateStatistics } from "../../src/pconv/reestimate.js";
import { Trainer, type TrainerConfig } from "../../src/pconv/trainer.js";
import { tuneTraining } from "../../src/pconv/tuneNetwork.js";
import { unetToSafetensors } from "../../src/pconv/unetWeights.js";
import { withTuning } from "../tuning.js";
import { meanPsnr, sampleStrip, VALIDATION_IMAGES } from "./measure.js";
import { checkModel, MODEL, startingModel } from "./model.js";
import {
  checkNewRun,
  frozenAfter,
  type Invocation,
  rateOf,
  runsFolder,
  totalSteps,
  type TrainOptions,
} from "./options.js";
import { duration, Reporter } from "./reporter.js";
import { openSources, type Sources } from "./sources.js";
import { StopSignal } from "./stop.js";
import { readState, resumedOptions, type RunState } from "./stored.js";

const OPTIMIZER = "optimizer.safetensors";
const AVERAGED = "ema.safetensors";
const STATE = "state.json";

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

/** Where a run begins or goes on. */
interface Start {
  readonly o: TrainOptions;
  readonly dir: string;
  /** The run that is resumed; null for a new one, whose folder is made once everything else is known to be right. */
  readonly folder: RunFolder | null;
  /** Step of the checkpoint to go on from; null when there is none, and the run starts over. */
  readonly from: number | null;
  readonly state: RunState;
}

/** Reads files of a checkpoint of the run; when they are damaged or gone, what was saved before is the way out. */
async function reading<T>(folder: RunFolder, step: number, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof UserError) || error instanceof GpuError) throw error;
    const help = `remove ${folder.checkpointPath(step)} to resume from what was saved before it`;
    throw new FormatError(error.where, error.problem, help, { cause: error });
  }
}

async function findStart(call: Invocation): Promise<Start> {
  const { options, given } = call;
  const fresh: RunState = { step: 0, best: null, interval: { sum: 0, count: 0 }, due: false };
  if (!call.resume) {
    checkNewRun(call);
    const time = new Date().toISOString().slice(0, 19).replace("T", "-").replaceAll(":", "");
    const dir = call.out ?? runsFolder(options.name ?? `${options.stage}-${time}`);
    await RunFolder.checkFree(dir);
    return { o: options, dir, folder: null, from: null, state: fresh };
  }
  const dir = call.out ?? (options.name === null ? await latestRun() : runsFolder(options.name));
  const folder = await RunFolder.resume(dir);
  const o = resumedOptions(await folder.readConfig(), call, folder.path("config.json"));
  const from = (await folder.checkpoints()).at(-1) ?? null;
  const state =
    from === null ? fresh : await reading(folder, from, () => readState(folder.checkpointPath(from, STATE), from));
  if (totalSteps(o) < state.step) {
    const option = given.has("epochs") ? "--epochs" : given.has("steps") ? "--steps" : folder.path("config.json");
    throw new UserError(
      option,
      `expected at least the ${state.step} steps that the run has made, got ${totalSteps(o)}`,
      "ask for more, or start a new run",
    );
  }
  return { o, dir, folder, from, state };
}

/** Opens everything, trains, and returns the exit code. */
export async function runTraining(call: Invocation): Promise<number> {
  const stop = new StopSignal();
  let gpu: Gpu | null = null;
  try {
    const start = await findStart(call);
    const { o, state } = start;
    if (start.folder && state.step === totalSteps(o) && !state.due && !call.given.has("test")) {
      console.error(
        `${start.dir}: the run is finished, all ${totalSteps(o)} steps are done; ${o.stage === "both" ? "--finetune-steps" : "--steps"} N trains on, --test DIR measures`,
      );
      return 0;
    }
    let reporter: Reporter | null = null;
    const warn = (text: string) =>
      reporter ? reporter.message(`warning: ${text}`) : console.error(`warning: ${text}`);
    const sources = await openSources(o, warn);
    gpu = await openGpu();
    return await train(gpu, start, call, sources, warn, stop, (r) => (reporter = r));
  } finally {
    stop.release();
    gpu?.close();
  }
}

/** @throws {UserError} when not even the images fit into the adapter's buffers: drawing them could take hours before that shows. */
function checkSize(gpu: Gpu, { imageSize, batchSize }: TrainOptions): void {
  const { maxStorageBufferBindingSize, maxBufferSize } = gpu.limits;
  const limit = Math.min(maxStorageBufferBindingSize, maxBufferSize);
  const bytes = batchSize * imageSize ** 2 * 16; // four float32 channels
  if (bytes <= limit) return;
  const mib = (b: number) => `${Math.ceil(b / 2 ** 20)} MiB`;
  throw new UserError(
    imageSize > 4096 ? "--image-size" : "--batch-size",
    `expected images of at most ${mib(limit)} in a step (this adapter's limit), got ${batchSize} of ${imageSize}x${imageSize}, ${mib(bytes)}`,
    "use smaller images or a smaller batch",
  );
}

/** The precision that the adapter can train with; says so where it is not the one asked for. */
export function usablePrecision(gpu: Pick<Gpu, "half">, wanted: Precision, warn: (text: string) => void): Precision {
  if (wanted === "f32" || gpu.half) return wanted;
  warn("--precision f16: this adapter has no half precision (shader-f16); training with f32");
  return "f32";
}

async function train(
  gpu: Gpu,
  { o: wanted, dir, folder: resumed, from, state }: Start,
  call: Invocation,
  sources: Sources,
  warn: (text: string) => void,
  stop: StopSignal,
  onReporter: (reporter: Reporter) => void,
): Promise<number> {
  const started = performance.now();
  // The run's folder says what it was trained with.
  const o = { ...wanted, precision: usablePrecision(gpu, wanted.precision, warn) };
  checkSize(gpu, o);
  const { vggPath } = o;
  const vgg = vggPath === null ? null : await showingDownloads((onProgress) => loadVgg(gpu, vggPath, { onProgress }));
  const model =
    resumed && from !== null
      ? await reading(resumed, from, () => loadUNet(gpu, resumed.checkpointPath(from, MODEL)))
      : await startingModel(gpu, o);
  if (resumed) checkModel(model, o, dir, "undo the changes to config.json");
  const config: TrainerConfig = {
    model,
    loss: new InpaintingLoss({ variant: o.loss, vgg, weights: o.lossWeights }),
    images: sources.images,
    masks: sources.masks,
    imageSize: o.imageSize,
    batchSize: o.batchSize,
    lr: (step) => rateOf(o, step),
    seed: o.seed,
    freezeBatchNorm: state.step > frozenAfter(o) ? o.freeze : "none",
    ...(o.clipGradNorm !== null && { maxGradNorm: o.clipGradNorm }),
    ...(o.ema !== null && { emaDecay: o.ema }),
    precision: o.precision,
    gradientCheckpointing: o.gradientCheckpointing,
  };
  await withTuning(gpu, warn, (options) => tuneTraining(config, options));
  const trainer = new Trainer(config);
  if (resumed && from !== null) {
    await reading(resumed, from, () => restoreOptimizer(trainer, (file) => resumed.checkpointPath(from, file)));
    trainer.step = state.step;
  } else if (o.checkpointOptimizer !== null) {
    trainer.optimizer.loadStateDict(await tensorsOf(o.checkpointOptimizer), o.checkpointOptimizer);
  }
  // From here on the run's folder is written to.
  const folder = resumed ?? (await RunFolder.create(dir, o));
  if (resumed) {
    const dropped = await resumed.truncateLog(state.step);
    if (dropped > 0)
      warn(
        `${resumed.path("log.jsonl")}: dropped ${dropped} line${dropped === 1 ? "" : "s"} that this command did not write`,
      );
    await resumed.writeConfig(o);
  }
  const parameters = model.namedParameters().reduce((sum, [, p]) => sum + p.size, 0);
  console.error(`adapter: ${gpu.adapter.name}`);
  console.error(`images: ${sources.images.description}; masks: ${sources.masks.description}`);
  console.error(`model: ${(parameters / 1e6).toFixed(2)} M parameters, ${o.depth} levels; run: ${folder.dir}`);
  if (resumed)
    console.error(from === null ? "resuming from the start: no checkpoint was saved" : `resuming after step ${from}`);

  const reporter = new Reporter(folder, {
    json: call.json,
    first: state.step,
    total: totalSteps(o),
    gradNorm: o.clipGradNorm !== null,
    batchSize: o.batchSize,
    stepsPerEpoch: o.stepsPerEpoch,
  });
  onReporter(reporter);
  stop.trainingStarts(reporter);
  const loop: Loop = { o, folder, trainer, state, sources, reporter, stop };
  try {
    await trainLoop(loop);
    if (stop.signal === null) await measureTest(loop);
    reporter.close();
  } catch (error) {
    try {
      reporter.close();
    } catch {
      // the first error is the one to report
    }
    if (resumed === null && state.step === 0) await folder.discard();
    throw error;
  } finally {
    await trainer.close();
  }
  const skipped = sources.skipped();
  if (skipped > 0) console.error(`skipped ${skipped} unusable file${skipped === 1 ? "" : "s"}`);
  const { allocated } = gpu.memory();
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  console.error(
    `${stop.signal === null ? "done" : `stopped by ${stop.signal}`} after step ${state.step}, ${duration((performance.now() - started) / 1000)}; device memory ${mib(allocated)}, process ${mib(process.memoryUsage().rss)}`,
  );
  console.error(`checkpoints, samples and log: ${folder.dir}`);
  return stop.exitCode;
}

const tensorsOf = async (path: string) => readSafetensors(await readBytes(path), path).tensors;

/** @throws {UserError} when the file is missing, damaged, or of another model. */
async function restoreOptimizer(trainer: Trainer, pathOf: (file: string) => string): Promise<void> {
  const path = pathOf(OPTIMIZER);
  trainer.optimizer.loadStateDict(await tensorsOf(path), path);
  trainer.ema?.loadStateDict(await tensorsOf(pathOf(AVERAGED)), pathOf(AVERAGED));
  if (trainer.optimizer.steps < 0)
    throw new FormatError(path, `expected a number of steps, got ${trainer.optimizer.steps}`, "use another checkpoint");
}

interface Loop {
  readonly o: TrainOptions;
  readonly folder: RunFolder;
  readonly trainer: Trainer;
  readonly state: RunState;
  readonly sources: Sources;
  readonly reporter: Reporter;
  readonly stop: StopSignal;
}

async function trainLoop(loop: Loop): Promise<void> {
  const { o, trainer, state, reporter, stop } = loop;
  const total = totalSteps(o);
  let saved = state.step;
  if (state.due) await reporter.pause(() => milestone(loop));
  while (state.step < total && stop.signal === null) {
    // Resumed right here, it is done again, and gives the same.
    if (state.step === frozenAfter(o) && !(await reporter.pause(() => freeze(loop)))) break;
    const report = await trainer.trainStep({ report: (state.step + 1) % o.logEvery === 0 });
    state.step = trainer.step;
    if (report) {
      state.interval.sum += report.loss;
      state.interval.count++;
    }
    reporter.step(state.step, report);
    if (state.step % o.saveEvery === 0 || state.step === o.steps || state.step === total) {
      await reporter.pause(() => milestone(loop));
      saved = state.step;
    }
  }
  // A signal may come between two milestones: nothing is measured then, so that the log stays that of an uninterrupted run.
  if (saved !== state.step) await save(loop);
}

/** The second stage begins: freezes batch norm. @returns false when a signal came first */
async function freeze({ o, trainer, reporter, stop }: Loop): Promise<boolean> {
  if (o.freezeStatistics === "reestimated") {
    const started = performance.now();
    let shown = started;
    reporter.message(`stage 2: taking batch norm's statistics over ${o.reestimateBatches} batches`);
    const complete = await reestimateStatistics({
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
    if (!complete) return false;
  }
  trainer.freezeBatchNorm(o.freeze);
  return true;
}

/** Validation, sample strip and checkpoint. A signal cuts the validation short; it is done again when the run is resumed. */
async function milestone(loop: Loop): Promise<void> {
  const { o, folder, trainer, state, sources, reporter } = loop;
  const { model } = trainer.config;
  await trainer.checkFinite();
  const mean = state.interval.sum / state.interval.count; // NaN, and never the best, where no step was logged
  let measured = { score: -mean, of: "training loss" };
  if (sources.validation) {
    const count = Math.min(VALIDATION_IMAGES, sources.validation.length);
    const value = await measure(loop, sources.validation, count);
    state.due = value === null;
    if (value === null) return save(loop);
    reporter.measure(state.step, "validation", value, count);
    measured = { score: value, of: `PSNR on ${o.validation}` };
  }
  state.interval = { sum: 0, count: 0 };
  const { best } = state;
  const comparable = best !== null && best.of === measured.of;
  if (Number.isFinite(measured.score) && (!comparable || measured.score > best.score))
    state.best = { step: state.step, ...measured };
  const strip = await averaged(trainer, () =>
    sampleStrip(model, sources.validation ?? sources.images, sources.fixedMasks, o.imageSize),
  );
  await writePicturePng(folder.path("samples", `step-${String(state.step).padStart(8, "0")}.png`), strip);
  reporter.image(state.step, encodePng(strip), strip.width, strip.height);
  await save(loop);
}

/** Runs something with the averaged weights, where there are any. */
const averaged = <T>({ ema }: Trainer, work: () => Promise<T>): Promise<T> => (ema ? ema.whileApplied(work) : work());

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
async function measureTest(loop: Loop): Promise<void> {
  const { state, sources, reporter } = loop;
  if (!sources.test) return;
  const count = Math.min(sources.test.length, 10 * VALIDATION_IMAGES);
  const value = await measure(loop, sources.test, count);
  if (value !== null) reporter.measure(state.step, "test", value, count);
}

async function save({ folder, trainer, state }: Loop): Promise<void> {
  await trainer.checkFinite();
  const weights = () => unetToSafetensors(trainer.config.model, { step: String(state.step) });
  const files = {
    [MODEL]: await weights(),
    ...(trainer.ema && { [AVERAGED]: await averaged(trainer, weights) }),
    [OPTIMIZER]: writeSafetensors(await trainer.optimizer.stateDict()),
    [STATE]: Buffer.from(`${JSON.stringify(state, null, 2)}\n`),
  };
  await folder.saveCheckpoint(state.step, files, state.best?.step ?? state.step);
}
