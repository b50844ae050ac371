/** The script of docs/4-training.md. */
import {
  DeadLeavesSource,
  type Gpu,
  grid,
  inpaint,
  InpaintingLoss,
  learningRate,
  openGpu,
  PConvUNet,
  type Picture,
  psnr,
  RandomMaskSource,
  reestimateStatistics,
  Trainer,
} from "pconv-webgpu";
import { masked } from "../tools/train/measure.js";
import { lineChart, type Series } from "./chart.js";
import { enlarged, type GuideOptions, mean, saveChart, savePicture, times } from "./pictures.js";

const SIZE = 64;
const SEED = 4;
/** Pictures and masks of this seed are in no training batch. */
const TEST_SEED = 1000;
const TEST_PICTURES = 6;
/** As many of them are shown. */
const SHOWN = 4;

const images = new DeadLeavesSource();
const masks = new RandomMaskSource();

/** What sets the two runs apart. */
interface Setup {
  readonly name: string;
  /** As the references do: statistics that count holes, running averages frozen as they are, in the encoder only. */
  readonly original: boolean;
}

interface Steps {
  readonly first: number;
  readonly second: number;
}

interface Run {
  readonly losses: readonly number[];
  /** Composites after the first stage. */
  readonly fills: readonly Picture[];
}

/** Composites of the test pictures; prints their mean PSNR. */
async function test(model: PConvUNet, what: string): Promise<Picture[]> {
  const fills: Picture[] = [];
  let sum = 0;
  for (let i = 0; i < TEST_PICTURES; i++) {
    const truth = await images.sample(TEST_SEED, i, SIZE);
    const { image } = await inpaint(model, truth, await masks.sample(TEST_SEED, i, SIZE));
    fills.push(image);
    sum += psnr(image, truth) / TEST_PICTURES;
  }
  console.log(`${what}: PSNR ${sum.toFixed(2)} dB`);
  return fills;
}

async function trainBothStages(gpu: Gpu, setup: Setup, steps: Steps): Promise<Run> {
  const bnStatistics = setup.original ? "all" : "valid";
  const model = new PConvUNet(gpu, { width: 0.25, depth: 6, bnStatistics }, SEED);
  const trainer = new Trainer({
    model,
    loss: new InpaintingLoss(),
    images,
    masks,
    imageSize: SIZE,
    batchSize: 1,
    lr: (step) =>
      step <= steps.first ? learningRate({ schedule: "cosine", lr: 2e-3, warmup: 10, steps: steps.first }, step) : 5e-5,
    maxGradNorm: 1,
    emaDecay: 0.99,
    seed: SEED,
  });
  const losses: number[] = [];
  while (trainer.step < steps.first) losses.push((await trainer.trainStep()).loss);
  const fills = await test(model, `${setup.name}, after the first stage`);

  if (!setup.original) {
    await reestimateStatistics({ model, images, masks, imageSize: SIZE, batchSize: 1, seed: SEED, batches: 32 });
    await test(model, `${setup.name}, with statistics taken anew`);
  }
  trainer.freezeBatchNorm(setup.original ? "encoder" : "all");
  while (trainer.step < steps.first + steps.second) losses.push((await trainer.trainStep()).loss);
  await test(model, `${setup.name}, after the second stage`);
  await trainer.ema!.whileApplied(() => test(model, `${setup.name}, average of the weights`));
  const window = Math.min(steps.first, steps.second, 50);
  const [before, after] = [losses.slice(steps.first - window, steps.first), losses.slice(steps.first).slice(0, window)];
  console.log(
    `${setup.name}: mean loss of the ${window} steps before the change ${mean(before).toFixed(3)}, after it ${mean(after).toFixed(3)}`,
  );
  await trainer.close();
  model.free();
  return { losses, fills };
}

/** One point for `width` steps: single pictures differ more from each other than the network changes. */
const smoothed = (name: string, losses: readonly number[], width: number): Series => ({
  name,
  points: times(Math.floor(losses.length / width), (i) => [
    (i + 0.5) * width,
    mean(losses.slice(i * width, (i + 1) * width)),
  ]),
});

export async function run(o: GuideOptions): Promise<void> {
  const steps = o.quick ? { first: 6, second: 4 } : { first: 200, second: 60 };
  const gpu = await openGpu();
  const ours = await trainBothStages(gpu, { name: "default", original: false }, steps);
  const original = await trainBothStages(gpu, { name: "original", original: true }, steps);
  gpu.close();

  const width = o.quick ? 2 : 10;
  const series = [smoothed("default", ours.losses, width), smoothed("original", original.losses, width)];
  const axes = { title: `Training loss, mean of ${width} steps`, x: "step", y: "loss" };
  const marks = [{ x: steps.first, label: "stage 2" }];
  await saveChart(o, "4-loss", lineChart(axes, series, { marks }));
  const rows = await Promise.all(
    times(SHOWN, async (i) => {
      const [truth, mask] = [await images.sample(TEST_SEED, i, SIZE), await masks.sample(TEST_SEED, i, SIZE)];
      return [masked(truth, mask), original.fills[i], ours.fills[i], truth].map((picture) => enlarged(picture, 2));
    }),
  );
  await savePicture(o, "4-fills", grid(rows));
}
