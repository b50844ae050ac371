/** The script of docs/3-unet.md. */
import {
  deadLeaves,
  type Gpu,
  hstack,
  inpaint,
  InpaintingLoss,
  type MaskSource,
  openGpu,
  PConvUNet,
  type Picture,
  type PictureSource,
  psnr,
  RandomMaskSource,
  Rng,
  Trainer,
} from "pconv-webgpu";
import { masked } from "../tools/train/measure.js";
import { lineChart } from "./chart.js";
import { enlarged, type GuideOptions, saveChart, savePicture } from "./pictures.js";

const PAPER_SIZE = 512;
const SIZE = 64;
const SEED = 3;

/** Prints the levels of the paper's network. */
function describe(gpu: Gpu): void {
  const model = new PConvUNet(gpu);
  const parameters = new Map<string, number>();
  const windows = new Map<string, string>();
  for (const [name, { torchShape, size }] of model.namedParameters()) {
    const [block] = name.split(".");
    parameters.set(block, (parameters.get(block) ?? 0) + size);
    if (name.endsWith("conv.weight")) {
      const [to, from, high, wide] = torchShape;
      windows.set(block, `${high}x${wide}, ${from} -> ${to}`);
    }
  }
  let total = 0;
  for (const [block, count] of parameters) {
    const [half, level] = block.split("_");
    const side = PAPER_SIZE / 2 ** (half === "enc" ? Number(level) : Number(level) - 1);
    console.log(`${block}  ${windows.get(block)!.padEnd(17)} gives ${side}x${side}  ${count} parameters`);
    total += count;
  }
  console.log(`${total} parameters in all`);
  model.free();
}

export async function run(o: GuideOptions): Promise<void> {
  const gpu = await openGpu();
  describe(gpu);

  const truth = deadLeaves(SIZE, SIZE, Rng.of(SEED));
  const mask = await new RandomMaskSource().sample(SEED, 0, SIZE);
  const images: PictureSource = { description: "one picture", length: 1, sample: () => Promise.resolve(truth) };
  const masks: MaskSource = { description: "one mask", length: 1, sample: () => Promise.resolve(mask) };

  const model = new PConvUNet(gpu, { width: 0.25, depth: 5 }, SEED);
  const trainer = new Trainer({
    model,
    loss: new InpaintingLoss(), // pass { vgg } for the perceptual and style terms
    images,
    masks,
    imageSize: SIZE,
    batchSize: 1,
    lr: 2e-3,
    seed: SEED,
  });
  const shown: Picture[] = [masked(truth, mask)];
  const show = async () => {
    const { image, output } = await inpaint(model, truth, mask);
    shown.push(output);
    console.log(`after ${trainer.step} steps: PSNR ${psnr(image, truth).toFixed(2)} dB`);
  };
  const losses: [number, number][] = [];
  for (const step of o.quick ? [0, 2, 4, 6] : [0, 20, 100, 400]) {
    while (trainer.step < step) {
      const { loss } = await trainer.trainStep();
      losses.push([trainer.step, loss]);
    }
    await show();
  }
  await trainer.close();
  gpu.close();

  await savePicture(o, "3-fit", hstack([...shown, truth].map((picture) => enlarged(picture, 2))));
  const axes = { title: "Fitting one picture under one mask", x: "step", y: "loss" };
  await saveChart(o, "3-loss", lineChart(axes, [{ name: "loss", points: losses }], { log: true }));
}
