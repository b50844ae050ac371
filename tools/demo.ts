#!/usr/bin/env node
/**
 * `npm run demo`: no download, no files: trains a small U-Net on drawn images for a few minutes, then fills holes with it
 * and writes a picture of how it got better.
 */
import { join, resolve } from "node:path";
import { SingleBar } from "cli-progress";
import { Command } from "commander";
import { openGpu } from "../src/gpu/node.js";
import { writePicturePng } from "../src/io/png.js";
import { writeWhole } from "../src/io/files.js";
import { grid } from "../src/pconv/contactSheet.js";
import { DeadLeavesSource } from "../src/pconv/deadLeaves.js";
import { inpaint } from "../src/pconv/inpaint.js";
import { InpaintingLoss } from "../src/pconv/loss.js";
import { psnr } from "../src/pconv/metrics.js";
import type { MaskPicture, Picture } from "../src/pconv/picture.js";
import { RandomMaskSource } from "../src/pconv/randomMask.js";
import { Trainer } from "../src/pconv/trainer.js";
import { PConvUNet } from "../src/pconv/unet.js";
import { unetToSafetensors } from "../src/pconv/unetWeights.js";
import { above, integer, runCommand } from "./command.js";
import { masked } from "./train/measure.js";
import { duration } from "./train/reporter.js";

const SIZE = 64;
/** Pixels of the written picture for each pixel of the network: 64 are too small to look at. */
const SCALE = 2;
const BATCH = 4;
const SEED = 7;
/** Test pictures are samples that training never reaches. */
const TEST_SEED = 1234;
const TEST_PICTURES = 6;

interface TestCase {
  readonly truth: Picture;
  readonly mask: MaskPicture;
}

/** Each pixel as a square of {@link SCALE}. */
function enlarged({ width, height, pixels }: Picture): Picture {
  const large = new Float32Array(width * height * SCALE * SCALE * 3);
  for (let i = 0; i < large.length; i++) {
    const [pixel, channel] = [Math.floor(i / 3), i % 3];
    const x = Math.floor((pixel % (width * SCALE)) / SCALE);
    const y = Math.floor(pixel / (width * SCALE) / SCALE);
    large[i] = pixels[(y * width + x) * 3 + channel];
  }
  return { width: width * SCALE, height: height * SCALE, pixels: large };
}

async function fill(model: PConvUNet, cases: readonly TestCase[]): Promise<{ images: Picture[]; mean: number }> {
  const images: Picture[] = [];
  let sum = 0;
  for (const { truth, mask } of cases) {
    const { image } = await inpaint(model, truth, mask);
    images.push(image);
    sum += psnr(image, truth) / cases.length;
  }
  return { images, mean: sum };
}

const command = new Command("demo")
  .description("Trains a small network on drawn images and shows it getting better. No files needed.")
  .option("--out <dir>", "folder for the picture and the weights", "demo")
  .option("--steps <n>", "training steps", integer(1), 400)
  .option("--minutes <n>", "take no longer than about this", above(0), 2.5)
  .option("--debug", "show stack traces")
  .action(async (o: { out: string; steps: number; minutes: number }) => {
    const started = performance.now();
    const gpu = await openGpu();
    console.error(`adapter: ${gpu.adapter.name}`);
    const images = new DeadLeavesSource();
    const masks = new RandomMaskSource();
    const cases: TestCase[] = [];
    for (let i = 0; i < TEST_PICTURES; i++) {
      cases.push({ truth: await images.sample(TEST_SEED, i, SIZE), mask: await masks.sample(TEST_SEED, i, SIZE) });
    }
    const model = new PConvUNet(gpu, { width: 0.25, depth: 5 }, SEED);
    const trainer = new Trainer({
      model,
      loss: new InpaintingLoss(),
      images,
      masks,
      imageSize: SIZE,
      batchSize: BATCH,
      lr: 2e-3,
      seed: SEED,
      freezeBatchNorm: "none",
    });
    const picture = join(o.out, "strip.png");
    const weights = join(o.out, "model.safetensors");
    const columns: { step: number; images: Picture[]; mean: number }[] = [];
    /** Written again with each column: a place that cannot be written to shows before the training, not after it. */
    const addColumn = async () => {
      columns.push({ step: trainer.step, ...(await fill(model, cases)) });
      const rows = cases.map(({ truth, mask }, i) => [masked(truth, mask), ...columns.map((c) => c.images[i]), truth]);
      await writePicturePng(picture, grid(rows.map((row) => row.map(enlarged))));
    };
    console.error(
      `training ${o.steps} steps of ${BATCH} drawn images of ${SIZE}x${SIZE} (at most ${o.minutes} minutes); the kernels compile during the first`,
    );
    await addColumn();

    const tty = process.stderr.isTTY;
    const bar = new SingleBar({
      stream: process.stderr,
      format: "step {value}/{total} [{bar}] loss {loss} | ETA {left}",
      noTTYOutput: !tty,
      notTTYSchedule: 10_000,
      gracefulExit: false,
    });
    let stopped = false;
    const onInterrupt = () => {
      stopped = true; // a second Ctrl-C finds no listener and ends the program
      bar.stop();
      console.error("stopping: the picture is finished with what has been learnt");
    };
    process.once("SIGINT", onInterrupt);
    bar.start(o.steps, 0, { loss: "-", left: "-" });
    const trainingStarted = performance.now();
    const seconds = (since: number) => (performance.now() - since) / 1000;
    const limit = Math.max(1, o.minutes * 60 - seconds(started));
    // By time as well as by steps: a slow machine, which does not come to the last step, shows the same progress.
    const shown = [0.05, 0.25];
    let share = 0;
    while (share < 1 && !stopped) {
      const { step, loss } = await trainer.trainStep();
      const elapsed = seconds(trainingStarted);
      share = Math.max(step / o.steps, elapsed / limit);
      const left = Math.min((elapsed / step) * (o.steps - step), limit - elapsed);
      if (!stopped) bar.update(step, { loss: loss.toFixed(4), left: duration(Math.max(0, left)) });
      if (share >= shown[0] && share < 1) {
        while (share >= shown[0]) shown.shift();
        await addColumn();
      }
    }
    process.off("SIGINT", onInterrupt);
    bar.stop();
    await addColumn();
    await writeWhole(weights, await unetToSafetensors(model));
    for (const { step, mean } of columns) {
      console.log(`after ${String(step).padStart(4)} steps: PSNR ${mean.toFixed(2)} dB`);
    }
    console.log(`trained ${trainer.step} steps in ${duration(seconds(started))}`);
    console.log(`columns: masked | ${columns.map((c) => `step ${c.step}`).join(" | ")} | truth`);
    console.log(`picture: ${resolve(picture)}`);
    console.log(`weights: ${resolve(weights)}`);
    await trainer.close();
    gpu.close();
    if (stopped) process.exitCode = 130;
  });

await runCommand(command);
