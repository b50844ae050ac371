/** Options of pconv-train: declaration, defaults, and what must go together. */
import { join } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { UserError } from "../../src/errors.js";
import type { Precision } from "../../src/autograd/tensor.js";
import type { HoleColour } from "../../src/pconv/maskAugment.js";
import { learningRate, LR_SCHEDULES, type LrSchedule } from "../../src/pconv/learningRate.js";
import type { LossVariant } from "../../src/pconv/loss.js";
import { above, integer } from "../command.js";
import { TUNING_HELP } from "../tuning.js";

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
  readonly augment: boolean;
  /** `both`: `steps` of the first, then `finetuneSteps` of the second. */
  readonly stage: "train" | "finetune" | "both";
  readonly checkpoint: string | null;
  readonly vggPath: string | null;
  readonly loss: LossVariant;
  readonly imageSize: number;
  readonly width: number;
  readonly depth: number;
  readonly bnStatistics: "valid" | "all";
  readonly batchSize: number;
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

/** A name that is one folder's name on every system. */
function runName(text: string): string {
  if (!/^[^\\/:*?"<>|\p{Cc}]+$/u.test(text) || /^\.+$/.test(text) || text.trim() !== text) {
    throw new InvalidArgumentError(
      `expected a name without slashes and the like, got ${JSON.stringify(text)}; --out takes a path`,
    );
  }
  return text;
}

/** A path; an unset shell variable must not become the working folder. */
function path(text: string): string {
  if (text === "") throw new InvalidArgumentError("expected a path, got an empty text");
  return text;
}

/** The decay of an average. */
function decay(text: string): number {
  const value = above(0, 1)(text);
  if (value === 1) throw new InvalidArgumentError("expected a number below 1, got 1");
  return value;
}

function dilation(text: string): [number, number] {
  const [low, high, ...rest] = text.split(",").map((part) => (part.trim() === "" ? NaN : Number(part)));
  if (rest.length > 0 || !(Number.isFinite(low) && Number.isFinite(high) && low >= 0 && high >= low)) {
    throw new InvalidArgumentError(`expected two numbers such as 9,49, the smaller one first, got ${text}`);
  }
  return [low, high];
}

/** Declares the command. */
export function trainCommand(): Command {
  return new Command("pconv-train")
    .description("Trains a partial convolution U-Net for image inpainting (Liu et al. 2018) on your own images.")
    .option(
      "--train <dir>",
      "folder of training images (JPEG, PNG, WebP); without it, images are drawn (dead-leaves model)",
      path,
    )
    .option(
      "--validation <dir>",
      "folder of validation images: PSNR of the composite, best checkpoint, sample strips",
      path,
    )
    .option("--test <dir>", "folder of test images, measured once at the end", path)
    .option("--masks <dir>", "folder of mask images; without it, masks are drawn (lines, circles, ellipses)", path)
    .addOption(
      new Option("--holes <colour>", "colour of the hole in --masks").choices(["white", "black"]).default("white"),
    )
    .option(
      "--mask-dilation <min,max>",
      "grow the holes of --masks by a random amount; the paper's is 9,49 (pixels at 512)",
      dilation,
      [0, 0],
    )
    .option("--no-augment", "no rotation, shift and flip of training images and masks")
    .option("--name <name>", "name of the run (default: the stage and the time)", runName)
    .option("--out <dir>", "folder of the run (default: runs/<name>)", path)
    .addOption(
      new Option("--stage <stage>", "train, or finetune: batch norm frozen, smaller learning rate")
        .choices(["train", "finetune"])
        .default("train"),
    )
    .addOption(
      new Option(
        "--stages <both>",
        "both stages in one run: --steps (or --epochs) of the first, then --finetune-steps of the second",
      ).choices(["both"]),
    )
    .option(
      "--finetune-steps <n>",
      "steps of the second stage of --stages both (default: as many as of the first)",
      integer(1),
    ) // prettier-ignore
    .option("--finetune-lr <rate>", "learning rate of the second stage of --stages both (default: 5e-5)", above(0))
    .addOption(
      new Option(
        "--freeze <which>",
        "whose batch norm the second stage freezes: all, so that it trains what inference runs, or the encoder's (the paper)",
      )
        .choices(["all", "encoder"])
        .default("all"),
    )
    .addOption(
      new Option(
        "--freeze-statistics <which>",
        "what it is frozen with: statistics taken anew over many pictures, or the running averages of the first stage, as the " +
          "references do",
      )
        .choices(["reestimated", "running"])
        .default("reestimated"),
    )
    .option("--reestimate-batches <n>", "batches that they are taken over", integer(2), 64)
    .option(
      "--checkpoint <file>",
      "start from these weights (a checkpoint folder, .safetensors or .pth); finetune needs it",
      path,
    )
    .option(
      "--resume",
      "continue the run of --out or --name (default: the latest in runs/) where its last checkpoint stands",
    )
    .option(
      "--vgg-path <file>",
      "VGG16 or VGG19 weights for the perceptual and style terms (.pth, .safetensors, .h5), or their URL; auto downloads " +
        "torchvision's VGG16 (528 MiB) once",
      path,
    )
    .option("--no-vgg", "train without the perceptual and style terms")
    .addOption(
      new Option("--loss <variant>", "form of the loss")
        .choices(["paper", "pytorch", "keras", "nvidia"])
        .default("paper"),
    )
    .option("--image-size <pixels>", "side of the square training images", integer(8), 512)
    .option("--width <factor>", "factor on the paper's channels", above(0, 8), 1)
    .option("--depth <levels>", "levels of the U-Net", integer(1, 12), 8)
    .addOption(
      new Option("--bn-statistics <pixels>", "pixels that batch norm counts")
        .choices(["valid", "all"])
        .default("valid"),
    )
    .option("--batch-size <images>", "images in a step (default: 1; paper: 6)", integer(1))
    .option("--epochs <n>", "epochs", integer(1), 50)
    .option("--steps-per-epoch <n>", "steps in an epoch", integer(1), 10000)
    .option("--steps <n>", "steps in all, instead of --epochs", integer(1))
    .option(
      "--save-every <n>",
      "steps between checkpoints, samples and validation (default: a twentieth of the run, 25 to 1000)",
      integer(1),
    )
    .option(
      "--log-every <n>",
      "steps between two lines of the log; each makes the computer wait for the adapter, and a loss that is not finite is found at the next",
      integer(1),
      1,
    )
    .option("--lr <rate>", "learning rate (default: 1e-4; paper: 2e-4; finetune: 5e-5)", above(0))
    .addOption(
      new Option(
        "--lr-schedule <form>",
        "how the learning rate falls over a stage: to nothing along a cosine or a line, or not",
      )
        .choices([...LR_SCHEDULES])
        .default("constant"),
    )
    .option("--lr-warmup <steps>", "steps over which the learning rate rises at the start of the run", integer(0), 0)
    .option("--clip-grad-norm <norm>", "scale gradients down to this norm over all parameters", above(0))
    .option(
      "--ema <decay>",
      "keep an exponential moving average of the weights, such as 0.999, as ema.safetensors; it is what is validated and shown",
      decay,
    )
    .addOption(
      new Option("--preset <name>", "defaults of the Keras implementation or of the paper")
        .choices(["keras", "paper"])
        .default("keras"),
    )
    .option("--seed <n>", "equal seeds give equal runs", integer(0), 1)
    .addOption(
      new Option(
        "--precision <type>",
        "storage of activations: float32, or float16 with loss scaling (half the memory, and matrix units where the adapter " +
          "has them; falls back to f32 on adapters without half precision)",
      )
        .choices(["f32", "f16"])
        .default("f32"),
    )
    .option(
      "--gradient-checkpointing",
      "compute some activations again in the backward pass instead of keeping them: less memory, more time, the same bits",
    )
    .option("--no-gradient-checkpointing", "keep them, which is the default; for runs that are resumed")
    .option("--json", "a line of JSON for each logged step on stdout")
    .option("--debug", "show stack traces")
    .addHelpText(
      "after",
      `
Examples:
  pconv-train --no-vgg --image-size 64 --width 0.25 --depth 5 --steps 200       (no files needed)
  pconv-train --train photos/train --validation photos/val --vgg-path vgg16-397923af.pth --name mine
  pconv-train --resume --name mine
  pconv-train --stages both --train photos/train --vgg-path vgg16-397923af.pth --steps 20000 --finetune-steps 5000
  pconv-train --stage finetune --checkpoint runs/mine/step-00500000 --train photos/train --vgg-path vgg16-397923af.pth

A run's folder holds config.json, log.jsonl (one line a step, or as --log-every says), TensorBoard events, samples/
(masked | output | composite | truth) and the checkpoints step-*/: the last three, and the best one by validation PSNR, or
by the logged training losses without --validation. Ctrl-C saves a checkpoint and exits with 130; a killed run resumes from its last checkpoint, bit for bit.

Lines of --json (terms that the run leaves out are 0):
  {"step","epoch","loss","terms":{"valid","hole","perceptual","styleOut","styleComp","tv"},"lr","imagesPerSecond"}
with --precision f16 also "lossScale" (of the next step) and "skipped" (steps so far whose gradients overflowed).

${TUNING_HELP}`,
    );
}

/** Steps of all stages of a run. */
export const totalSteps = (o: Pick<TrainOptions, "steps" | "finetuneSteps">): number => o.steps + o.finetuneSteps;

/** The step after which the encoder's batch norm is frozen; Infinity where it never is. */
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
    augment: o["augment"] !== false,
    stage: both ? "both" : finetune ? "finetune" : "train",
    checkpoint: text("checkpoint"),
    vggPath: text("vggPath"),
    loss: o["loss"] as LossVariant,
    imageSize: number("imageSize", 512),
    width: number("width", 1),
    depth: number("depth", 8),
    bnStatistics: o["bnStatistics"] as "valid" | "all",
    batchSize: number("batchSize", paper ? 6 : 1),
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
    reestimateBatches: number("reestimateBatches", 32),
    clipGradNorm: typeof o["clipGradNorm"] === "number" ? o["clipGradNorm"] : null,
    ema: typeof o["ema"] === "number" ? o["ema"] : null,
    seed: number("seed", 1),
    precision: o["precision"] as Precision,
    gradientCheckpointing: o["gradientCheckpointing"] === true,
  };
  return { out: text("out"), resume: o["resume"] === true, json: o["json"] === true, given, epochs, options };
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
  if (options.stage === "finetune" && options.checkpoint === null) {
    throw new UserError(
      "--stage finetune",
      "expected the weights of the first stage, got none",
      "pass --checkpoint runs/NAME/step-XXXXXXXX",
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
  for (const [a, b] of [
    ["holes", "masks"],
    ["maskDilation", "masks"],
  ] as const) {
    if (given.has(a) && options[b] === null) {
      throw new UserError(
        a === "holes" ? "--holes" : "--mask-dilation",
        "expected --masks with it, got none",
        "pass --masks, or leave it out",
      );
    }
  }
}
