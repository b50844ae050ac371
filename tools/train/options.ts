/** Options of pconv-train: what they are read into, their defaults, and what must go together. */
import { join } from "node:path";
import type { Command } from "commander";
import { UserError } from "../../src/errors.js";
import type { Precision } from "../../src/autograd/tensor.js";
import { launchOf } from "../../src/io/mpi/launcher.js";
import type { HoleColour } from "../../src/pconv/maskAugment.js";
import { learningRate, type LrSchedule } from "../../src/pconv/learningRate.js";
import type { LossVariant } from "../../src/pconv/loss.js";
import type { LossWeights } from "./lossWeights.js";

/** Everything that a run depends on, as config.json keeps it. */
export interface TrainOptions {
  /** What --name said; the folder's name unless --out gives another. */
  readonly name: string | null;
  readonly train: string | null;
  readonly validation: string | null;
  readonly test: string | null;
  readonly masks: string | null;
  readonly holes: HoleColour;
  readonly maskDilation: readonly [number, number];
  /** Shares of drawn images and masks among those of the folders, 0 to 1. */
  readonly drawnImages: number;
  readonly drawnMasks: number;
  /** Smallest random crop as a share of the short side. */
  readonly minCrop: number;
  readonly augment: boolean;
  /** `both`: `steps` of the first, then `finetuneSteps` of the second. */
  readonly stage: "train" | "finetune" | "both";
  readonly checkpoint: string | null;
  readonly checkpointOptimizer: string | null;
  readonly vggPath: string | null;
  readonly loss: LossVariant;
  readonly lossWeights: LossWeights;
  readonly imageSize: number;
  readonly width: number;
  readonly depth: number;
  readonly bnStatistics: "valid" | "all";
  /** What the network adds to. */
  readonly base: "none" | "harmonic";
  /** False: partial convolution without sum(1)/sum(M). */
  readonly ratio: boolean;
  /** Images in a step of each rank. */
  readonly batchSize: number;
  /** Processes that train together. */
  readonly ranks: number;
  /** Batch norm's statistics over all ranks. */
  readonly syncBatchNorm: boolean;
  readonly steps: number;
  /** Of the second stage where both are run, else 0. */
  readonly finetuneSteps: number;
  readonly stepsPerEpoch: number;
  readonly saveEvery: number;
  readonly logEvery: number;
  readonly lr: number;
  /** Of the second stage where both are run. */
  readonly finetuneLr: number;
  readonly lrSchedule: LrSchedule;
  readonly lrWarmup: number;
  /** Whose batch norm the second stage freezes. */
  readonly freeze: "encoder" | "all";
  readonly freezeStatistics: "reestimated" | "running";
  readonly reestimateBatches: number;
  readonly clipGradNorm: number | null;
  readonly ema: number | null;
  readonly seed: number;
  readonly precision: Precision;
  readonly gradientCheckpointing: boolean;
}

/** How this start of the command behaves; not part of the run. */
export interface Invocation {
  readonly out: string | null;
  readonly resume: boolean;
  readonly json: boolean;
  /** Seconds in which the device must complete something, 0 for any time; null: the adapter's default. */
  readonly watchdog: number | null;
  /** Steps between two checks that all ranks hold the same; null: at checkpoints. */
  readonly verifyEvery: number | null;
  /** Options given on the command line, by their names in {@link TrainOptions}. */
  readonly given: ReadonlySet<string>;
  /** Epochs asked for, or their default; `options.steps` follows from them unless --steps was given. */
  readonly epochs: number;
  readonly options: TrainOptions;
}

const VGG_HELP =
  "pass --vgg-path auto, which downloads torchvision's VGG16 once, or --vgg-path with VGG16 or VGG19 weights " +
  "(https://download.pytorch.org/models/vgg16-397923af.pth), " +
  "or --no-vgg to train without these terms";

/** Steps of all stages of a run. */
export const totalSteps = (o: Pick<TrainOptions, "steps" | "finetuneSteps">): number => o.steps + o.finetuneSteps;

/** The step after which batch norm is frozen; Infinity where it never is. */
export const frozenAfter = (o: Pick<TrainOptions, "stage" | "steps">): number =>
  ({ train: Infinity, finetune: 0, both: o.steps })[o.stage];

/** The learning rate of a step, counted from 1 over the whole run. */
export function rateOf(o: TrainOptions, step: number): number {
  const { lrSchedule: schedule, lrWarmup: warmup } = o;
  if (o.stage === "both" && step > o.steps)
    return learningRate({ schedule, lr: o.finetuneLr, warmup: 0, steps: o.finetuneSteps }, step - o.steps);
  return learningRate({ schedule, lr: o.lr, warmup, steps: o.steps }, step);
}

/** Where a run without --out goes. */
export const runsFolder = (name: string): string => join("runs", name);

/**
 * Reads the parsed command into options with all defaults filled in.
 * @throws {UserError} for options that contradict each other.
 */
export function invocation(command: Command): Invocation {
  const o = command.opts<Record<string, unknown>>();
  const given = new Set(Object.keys(o).filter((k) => command.getOptionValueSource(k) === "cli"));
  const text = (k: string) => (typeof o[k] === "string" ? o[k] : null);
  const number = (k: string, other: number) => (typeof o[k] === "number" ? o[k] : other);
  const paper = o["preset"] === "paper";
  const both = o["stages"] === "both";
  if (both && given.has("stage"))
    throw new UserError("--stages", "expected only one of --stage and --stages, got both", "leave one of them out");
  const finetune = !both && o["stage"] === "finetune";
  const stepsPerEpoch = number("stepsPerEpoch", 10000);
  const epochs = number("epochs", 50);
  const steps = number("steps", epochs * stepsPerEpoch);
  const finetuneSteps = number("finetuneSteps", both ? steps : 0);
  if (given.has("steps") && given.has("epochs")) {
    throw new UserError("--epochs", "expected only one of --epochs and --steps, got both", "leave one of them out");
  }
  if (!Number.isSafeInteger(steps + finetuneSteps)) {
    const problem = `expected at most ${Number.MAX_SAFE_INTEGER} steps in all, got ${steps + finetuneSteps}`;
    throw new UserError(given.has("epochs") ? "--epochs" : "--steps", problem, "ask for fewer");
  }
  if (given.has("vgg")) given.add("vggPath"); // --no-vgg
  if (given.delete("stages")) given.add("stage");
  if (given.has("preset")) for (const k of ["batchSize", "lr"]) given.add(k);
  if (text("vggPath") && o["vgg"] === false) {
    throw new UserError("--no-vgg", "expected only one of --vgg-path and --no-vgg, got both", "leave one of them out");
  }
  const options: TrainOptions = {
    name: text("name"),
    train: text("train"),
    validation: text("validation"),
    test: text("test"),
    masks: text("masks"),
    holes: o["holes"] as HoleColour,
    maskDilation: o["maskDilation"] as [number, number],
    drawnImages: number("drawnImages", 0),
    drawnMasks: number("drawnMasks", 0),
    minCrop: number("minCrop", 1),
    augment: o["augment"] !== false,
    stage: both ? "both" : finetune ? "finetune" : "train",
    checkpoint: text("checkpoint"),
    checkpointOptimizer: text("checkpointOptimizer"),
    vggPath: text("vggPath"),
    loss: o["loss"] as LossVariant,
    lossWeights: o["lossWeights"] ?? {},
    imageSize: number("imageSize", 512),
    width: number("width", 1),
    depth: number("depth", 8),
    bnStatistics: o["bnStatistics"] as "valid" | "all",
    base: o["base"] as "none" | "harmonic",
    ratio: o["ratio"] !== false,
    batchSize: number("batchSize", paper ? 6 : 1),
    ranks: launchOf()?.size ?? 1,
    syncBatchNorm: o["syncBatchNorm"] === true,
    steps,
    finetuneSteps,
    stepsPerEpoch,
    saveEvery: number("saveEvery", Math.min(1000, Math.max(25, Math.ceil((steps + finetuneSteps) / 20)))),
    logEvery: number("logEvery", 1),
    lr: number("lr", finetune ? 5e-5 : paper ? 2e-4 : 1e-4),
    finetuneLr: number("finetuneLr", 5e-5),
    lrSchedule: o["lrSchedule"] as LrSchedule,
    lrWarmup: number("lrWarmup", 0),
    freeze: o["freeze"] as "encoder" | "all",
    freezeStatistics: o["freezeStatistics"] as "reestimated" | "running",
    reestimateBatches: number("reestimateBatches", 64),
    clipGradNorm: typeof o["clipGradNorm"] === "number" ? o["clipGradNorm"] : null,
    ema: typeof o["ema"] === "number" ? o["ema"] : null,
    seed: number("seed", 1),
    precision: o["precision"] as Precision,
    gradientCheckpointing: o["gradientCheckpointing"] === true,
  };
  const watchdog = typeof o["watchdog"] === "number" ? o["watchdog"] : null;
  const verifyEvery = typeof o["verifyEvery"] === "number" ? o["verifyEvery"] : null;
  const [resume, json] = [o["resume"] === true, o["json"] === true];
  return { out: text("out"), resume, json, watchdog, verifyEvery, given, epochs, options };
}

/** A term that was given a factor and is not in the loss. */
const unusedTerm = ({ lossWeights, loss, vggPath }: TrainOptions): string | undefined =>
  Object.keys(lossWeights).find(
    (term) =>
      (vggPath === null && ["perceptual", "styleOut", "styleComp"].includes(term)) ||
      (loss === "nvidia" && ["hole", "styleComp", "tv"].includes(term)),
  );

/** @throws {UserError} for options that need several ranks, with one */
export function checkRanks({ options, given }: Invocation): void {
  for (const [name, option] of [
    ["syncBatchNorm", "--sync-batch-norm"],
    ["verifyEvery", "--verify-every"],
  ]) {
    if (given.has(name) && options.ranks === 1)
      throw new UserError(option, "expected several ranks with it, got one", "start it by mpirun or srun, or leave it out"); // prettier-ignore
  }
}

/** @throws {UserError} when a new run lacks something that it must be told. */
export function checkNewRun({ options, given }: Invocation): void {
  if (options.vggPath === null && !given.has("vgg")) {
    throw new UserError(
      "--vgg-path",
      "expected VGG weights for the perceptual and style terms of the loss, got none",
      VGG_HELP,
    );
  }
  if (options.loss === "nvidia" && options.vggPath === null) {
    throw new UserError(
      "--loss nvidia",
      "expected VGG weights, got --no-vgg",
      "pass --vgg-path, or choose another form of the loss",
    );
  }
  const unused = unusedTerm(options);
  if (unused !== undefined) {
    throw new UserError(
      "--loss-weights",
      `expected factors of terms that the loss has, got one of ${unused}, which ${options.vggPath === null ? "needs VGG" : `--loss ${options.loss} leaves out`}`,
      "leave the factor out, or choose another loss",
    );
  }
  if (options.stage === "finetune" && options.checkpoint === null) {
    throw new UserError(
      "--stage finetune",
      "expected the weights of the first stage, got none",
      "pass --checkpoint runs/NAME/step-XXXXXXXX",
    );
  }
  if (options.checkpointOptimizer !== null && options.checkpoint === null) {
    throw new UserError(
      "--checkpoint-optimizer",
      "expected the weights that the moments belong to, got none",
      "pass --checkpoint with the same checkpoint, or leave it out",
    );
  }
  for (const [name, option] of [
    ["finetuneSteps", "--finetune-steps"],
    ["finetuneLr", "--finetune-lr"],
  ]) {
    if (given.has(name) && options.stage !== "both")
      throw new UserError(option, "expected --stages both with it, got none", "pass --stages both, or leave it out");
  }
  for (const [name, option] of [
    ["freeze", "--freeze"],
    ["freezeStatistics", "--freeze-statistics"],
    ["reestimateBatches", "--reestimate-batches"],
  ]) {
    if (given.has(name) && options.stage === "train")
      throw new UserError(
        option,
        "expected --stage finetune or --stages both with it, got none",
        "batch norm is frozen in the second stage only",
      );
  }
  if (given.has("minCrop") && !options.augment)
    throw new UserError(
      "--min-crop",
      "expected it without --no-augment, got both",
      "crops are random with augmentation only: leave one of them out",
    );
  for (const [name, option, folder] of [
    ["holes", "--holes", "masks"],
    ["maskDilation", "--mask-dilation", "masks"],
    ["drawnMasks", "--drawn-masks", "masks"],
    ["drawnImages", "--drawn-images", "train"],
    ["minCrop", "--min-crop", "train"],
  ] as const) {
    if (given.has(name) && options[folder] === null)
      throw new UserError(option, `expected --${folder} with it, got none`, `pass --${folder}, or leave it out`);
  }
}
