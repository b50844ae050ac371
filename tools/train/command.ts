/** The options of pconv-train as its help shows them. */
import { Command, InvalidArgumentError, Option } from "commander";
import { LR_SCHEDULES } from "../../src/pconv/learningRate.js";
import { above, integer, path } from "../command.js";
import { TUNING_HELP } from "../tuning.js";
import { lossWeight } from "./lossWeights.js";

/** A name that is one folder's name on every system. */
function runName(text: string): string {
  if (!/^[^\\/:*?"<>|\p{Cc}]+$/u.test(text) || /^\.+$/.test(text) || text.trim() !== text) {
    throw new InvalidArgumentError(
      `expected a name without slashes and the like, got ${JSON.stringify(text)}; --out takes a path`,
    );
  }
  return text;
}

const between =
  (low: number, high: number) =>
  (text: string): number => {
    const value = text.trim() === "" ? NaN : Number(text);
    if (!(value >= low && value <= high))
      throw new InvalidArgumentError(`expected a share from ${low} to ${high}, got ${text}`);
    return value;
  };

/** The decay of an average. */
function decay(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && value > 0 && value < 1) return value;
  throw new InvalidArgumentError(`expected a number above 0 and below 1, got ${text}`);
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
    .option(
      "--drawn-images <share>",
      "share of drawn images among those of --train, 0 to 1 (default: 0)",
      between(0, 1),
    )
    .option("--drawn-masks <share>", "share of drawn masks among those of --masks, 0 to 1 (default: 0)", between(0, 1))
    .option(
      "--min-crop <share>",
      "smallest random crop, as a share of the short side, 0.1 to 1: below 1 the magnification varies too (default: 1)",
      between(0.1, 1),
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
      "--checkpoint-optimizer <file>",
      "start from Adam's moments of a checkpoint too (optimizer.safetensors); needs --checkpoint",
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
    .option(
      "--loss-weights <term=factor...>",
      "factors of the loss terms that differ from the paper's: valid=1 hole=6 perceptual=0.05 styleOut=120 styleComp=120 tv=0.1 (nvidia: valid=5)",
      lossWeight,
    )
    .option("--image-size <pixels>", "side of the square training images", integer(8, 16384), 512)
    .option("--width <factor>", "factor on the paper's channels", above(0, 8), 1)
    .option("--depth <levels>", "levels of the U-Net", integer(1, 12), 8)
    .addOption(
      new Option("--bn-statistics <pixels>", "pixels that batch norm counts")
        .choices(["valid", "all"])
        .default("valid"),
    )
    .addOption(
      new Option(
        "--base <what>",
        "what the network adds to: nothing (the paper), or the smooth interpolation of the picture into its holes, of which it then learns what is missing",
      )
        .choices(["none", "harmonic"])
        .default("none"),
    )
    .option("--no-ratio", "partial convolution without the ratio sum(1)/sum(M): to see what that is worth")
    .option("--batch-size <images>", "images in a step, on each rank under mpirun (default: 1; paper: 6)", integer(1))
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
    .option(
      "--watchdog <seconds>",
      "end the run when the device completes nothing for so long, 0: never (default: 600, on software adapters 3600)",
      integer(0, 1_000_000),
    )
    .option(
      "--sync-batch-norm",
      "under mpirun: batch norm over the images of all ranks, as if one had them all (default: each rank's own, as in PyTorch's DDP)",
    )
    .option(
      "--verify-every <n>",
      "under mpirun: steps between two checks that all ranks hold equal weights and moments (default: at checkpoints)",
      integer(1),
    )
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

  mpirun -n 4 --bind-to none pconv-train --train photos/train --vgg-path vgg16-397923af.pth --batch-size 6   (24 images a step)

On several ranks (mpirun, mpiexec, srun) each rank takes --batch-size images of every step, gradients are averaged, and the first
rank writes the run; --resume works with any number of ranks. A signal to any of them stops all after the same step, with a checkpoint.
Open MPI's mpirun kills what it has told to end a second later, but passes SIGUSR2 on and waits, as srun and batch systems do.

A run's folder holds config.json, log.jsonl (one line a step, or as --log-every says), TensorBoard events, samples/
(masked | output | composite | truth) and the checkpoints step-*/: the last three, and the best one by validation PSNR, or
by the logged training losses without --validation. Ctrl-C saves a checkpoint and exits with 130; a killed run resumes from its last checkpoint, bit for bit.
Lost devices, full disks and damaged checkpoints do not end a run either: docs/reliability.md. PCONV_MEMORY_LIMIT=MiB bounds the device's memory.

Lines of --json (terms that the run leaves out are 0):
  {"step","epoch","loss","terms":{"valid","hole","perceptual","styleOut","styleComp","tv"},"lr","imagesPerSecond"}
with --precision f16 also "lossScale" (of the next step) and "skipped" (steps so far whose gradients overflowed).

${TUNING_HELP}`,
    );
}
