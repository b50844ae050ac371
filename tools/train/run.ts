/** One run of pconv-train, from options to the last checkpoint. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { FormatError, UserError } from "../../src/errors.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { openGpu } from "../../src/gpu/node.js";
import { encodePng, writePicturePng } from "../../src/io/png.js";
import { RunFolder } from "../../src/io/runFolder.js";
import { readSafetensors, writeSafetensors } from "../../src/io/safetensors.js";
import { loadVgg } from "../../src/io/vggFile.js";
import { readWeightsFile } from "../../src/io/weightsFile.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import { Trainer } from "../../src/pconv/trainer.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { unetFromCheckpoint, unetToSafetensors } from "../../src/pconv/unetWeights.js";
import { meanPsnr, sampleStrip, VALIDATION_IMAGES } from "./measure.js";
import { checkNewRun, type Invocation, resumedOptions, type TrainOptions } from "./options.js";
import { duration, Reporter } from "./reporter.js";
import { openSources, type Sources } from "./sources.js";

const MODEL = "model.safetensors";
const OPTIMIZER = "optimizer.safetensors";
const STATE = "state.json";

/** What a checkpoint knows beside weights and moments. */
interface RunState {
  step: number;
  /** Best measure so far: validation PSNR, or minus the mean training loss between two checkpoints. */
  best: { step: number; score: number } | null;
  /** Training losses since the last regular checkpoint. */
  interval: { sum: number; count: number };
}

/** The latest folder in runs/ that holds a run. */
async function latestRun(): Promise<string> {
  const found: { dir: string; time: number }[] = [];
  for (const name of await readdir("runs").catch(() => [])) {
    const config = await stat(join("runs", name, "config.json")).catch(() => null);
    if (config) found.push({ dir: join("runs", name), time: config.mtimeMs });
  }
  if (found.length === 0) throw new UserError("--resume", "expected a run in runs/, got none", "pass --name or --out, or leave --resume out");
  return found.sort((a, b) => b.time - a.time)[0].dir;
}

/** Weights of `--checkpoint`: a checkpoint folder of a run, or a weight file. */
async function startingModel(gpu: Gpu, o: TrainOptions): Promise<PConvUNet> {
  const wanted = { width: o.width, depth: o.depth, bnStatistics: o.bnStatistics };
  const fresh = new PConvUNet(gpu, wanted, o.seed);
  if (o.checkpoint === null) return fresh;
  const isFolder = await stat(o.checkpoint).then((s) => s.isDirectory(), () => false); // prettier-ignore
  const path = isFolder ? join(o.checkpoint, MODEL) : o.checkpoint;
  const loaded = unetFromCheckpoint(gpu, await readWeightsFile(path), path);
  if (loaded.config.channels.join() !== fresh.config.channels.join()) {
    throw new FormatError(
      path,
      `expected a network of ${fresh.config.channels.join(", ")} channels (--width ${o.width} --depth ${o.depth}), got ${loaded.config.channels.join(", ")}`,
      "pass the --width and --depth that the checkpoint was trained with",
    );
  }
  const { range, convention } = loaded.config;
  if (range !== "unit" || convention !== "paper") {
    throw new FormatError(path, `expected a network on images in 0..1 with the paper's layer, got ${range} and ${convention}`, "train on with weights of this library");
  }
  fresh.free();
  return loaded;
}

/** Opens everything, trains, and returns the exit code. */
export async function runTraining(call: Invocation): Promise<number> {
  const started = performance.now();
  const resumedDir = call.resume ? (call.out ?? (call.name === null ? await latestRun() : join("runs", call.name))) : null;
  let folder = resumedDir === null ? null : await RunFolder.resume(resumedDir);
  if (!folder) checkNewRun(call);
  const o = folder ? resumedOptions(await folder.readConfig(), call, folder.path("config.json")) : call.options;

  let reporter: Reporter | null = null;
  const warn = (text: string) => (reporter ? reporter.message(`warning: ${text}`) : console.error(`warning: ${text}`));
  const sources = await openSources(o, warn);
  const gpu = await openGpu();
  console.error(`adapter: ${gpu.adapter.name}`);
  const vgg = o.vggPath === null ? null : await loadVgg(gpu, o.vggPath);
  const model = await startingModel(gpu, o);
  const trainer = new Trainer({
    model,
    loss: new InpaintingLoss({ variant: o.loss, vgg }),
    images: sources.images,
    masks: sources.masks,
    imageSize: o.imageSize,
    batchSize: o.batchSize,
    lr: o.lr,
    seed: o.seed,
    freezeEncoderBatchNorm: o.stage === "finetune",
  });
  const state: RunState = { step: 0, best: null, interval: { sum: 0, count: 0 } };
  if (folder) await restore(folder, trainer, state);
  else {
    const time = new Date().toISOString().slice(0, 19).replace("T", "-").replaceAll(":", "");
    folder = await RunFolder.create(call.out ?? join("runs", call.name ?? `${o.stage}-${time}`), o);
  }
  const parameters = model.namedParameters().reduce((sum, [, p]) => sum + p.size, 0);
  console.error(`images: ${sources.images.description}; masks: ${sources.masks.description}`);
  console.error(`model: ${(parameters / 1e6).toFixed(2)} M parameters, ${o.depth} levels; run: ${folder.dir}`);
  if (state.step > 0) console.error(`resuming after step ${state.step}`);
  if (vgg && o.imageSize < 8) throw new UserError("--image-size", `expected at least 8 with VGG, got ${o.imageSize}`, "use larger images");

  reporter = new Reporter(folder, { json: call.json, first: state.step, total: o.steps, batchSize: o.batchSize, stepsPerEpoch: o.stepsPerEpoch });
  const stop = new StopSignal(reporter);
  try {
    await trainLoop({ o, folder, trainer, state, sources, reporter, stop });
    if (stop.signal === null && sources.test) {
      const count = Math.min(sources.test.length, 10 * VALIDATION_IMAGES);
      const value = await meanPsnr(model, sources.test, sources.fixedMasks, o.imageSize, count);
      reporter.measure(state.step, "test", value, count);
    }
  } finally {
    stop.release();
    reporter.close();
  }
  const skipped = sources.skipped();
  if (skipped > 0) console.error(`skipped ${skipped} broken file${skipped === 1 ? "" : "s"}`);
  const { allocated } = gpu.memory();
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  console.error(`${stop.signal === null ? "done" : `stopped by ${stop.signal}`} after step ${state.step}, ${duration((performance.now() - started) / 1000)}; device memory ${mib(allocated)}, process ${mib(process.memoryUsage().rss)}`);
  console.error(`checkpoints, samples and log: ${folder.dir}`);
  await trainer.close();
  gpu.close();
  return stop.exitCode;
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
  let saved = state.step;
  while (state.step < o.steps && stop.signal === null) {
    const report = await trainer.trainStep();
    state.step = report.step;
    state.interval.sum += report.loss;
    state.interval.count++;
    reporter.step(report);
    if (state.step % o.saveEvery === 0 || state.step === o.steps) {
      await reporter.pause(() => milestone(loop));
      saved = state.step;
    }
  }
  // A signal may come between two milestones: nothing is measured then, so that the log stays that of an uninterrupted run.
  if (saved !== state.step) await save(loop);
}

/** Validation, sample strip and checkpoint. */
async function milestone(loop: Loop): Promise<void> {
  const { o, folder, trainer, state, sources, reporter } = loop;
  const { model } = trainer.config;
  let score = -state.interval.sum / Math.max(1, state.interval.count);
  if (sources.validation) {
    const count = Math.min(VALIDATION_IMAGES, sources.validation.length);
    score = await meanPsnr(model, sources.validation, sources.fixedMasks, o.imageSize, count);
    reporter.measure(state.step, "validation", score, count);
  }
  state.interval = { sum: 0, count: 0 };
  if (state.best === null || score > state.best.score) state.best = { step: state.step, score };
  const strip = await sampleStrip(model, sources.validation ?? sources.images, sources.fixedMasks, o.imageSize);
  await writePicturePng(folder.path("samples", `step-${String(state.step).padStart(8, "0")}.png`), strip);
  reporter.image(state.step, encodePng(strip), strip.width, strip.height);
  await save(loop);
}

async function save({ folder, trainer, state }: Loop): Promise<void> {
  const files = {
    [MODEL]: await unetToSafetensors(trainer.config.model, { step: String(state.step) }),
    [OPTIMIZER]: writeSafetensors(await trainer.optimizer.stateDict()),
    [STATE]: Buffer.from(`${JSON.stringify(state, null, 2)}\n`),
  };
  await folder.saveCheckpoint(state.step, files, state.best?.step ?? state.step);
}

/** Puts a trainer where the run's last checkpoint stands; a run without one starts over. */
async function restore(folder: RunFolder, trainer: Trainer, state: RunState): Promise<void> {
  const step = (await folder.checkpoints()).at(-1);
  if (step !== undefined) {
    const read = async (file: string) => readSafetensors(new Uint8Array(await folder.readCheckpoint(step, file)), `step ${step}, ${file}`).tensors;
    trainer.config.model.loadStateDict(await read(MODEL), `step ${step}, ${MODEL}`);
    trainer.optimizer.loadStateDict(await read(OPTIMIZER), `step ${step}, ${OPTIMIZER}`);
    const text = (await folder.readCheckpoint(step, STATE)).toString("utf8");
    Object.assign(state, JSON.parse(text) as RunState);
    trainer.step = state.step;
  }
  await folder.truncateLog(state.step);
}

/** Ctrl-C and SIGTERM: the first lets the step end and saves, the second exits at once. */
class StopSignal {
  signal: NodeJS.Signals | null = null;

  constructor(private readonly reporter: Reporter) {
    for (const name of ["SIGINT", "SIGTERM"] as const) process.on(name, this.handle);
  }

  private readonly handle = (name: NodeJS.Signals) => {
    if (this.signal !== null) process.exit(this.exitCode);
    this.signal = name;
    this.reporter.message(`${name}: saving a checkpoint; once more to exit without`);
  };

  /** 128 plus the signal's number, as shells expect; 0 without a signal. */
  get exitCode(): number {
    return this.signal === null ? 0 : this.signal === "SIGINT" ? 130 : 143;
  }

  release(): void {
    for (const name of ["SIGINT", "SIGTERM"] as const) process.off(name, this.handle);
  }
}
