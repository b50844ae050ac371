/** What kernels make of weights that nobody trains is kept, and never out of date. */
import { expect, it } from "vitest";
import { Tape } from "../../src/autograd/tape.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { openGpu } from "../../src/gpu/node.js";
import { profile } from "../../src/gpu/timing.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";
import { Trainer } from "../../src/pconv/trainer.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { Vgg } from "../../src/pconv/vgg.js";
import { useGpu } from "../support/gpu.js";
import { tinyVggState } from "../support/tinyVgg.js";

const gpu = useGpu();
const SIZE = 32;
const OPTIONS = { width: 0.1, depth: 3 };
/** Kernels that only look at weights. */
const MAKERS = ["upWeight", "transposeWeight", "winogradWeight", "batchNormFold"];

const rng = Rng.of(5);
const image = Float32Array.from({ length: SIZE * SIZE * 3 }, () => rng.uniform());
const holes = Float32Array.from({ length: SIZE * SIZE }, (_, i) => Number(i % SIZE < 12 || i > 700));

/** The network's result, and how many of its dispatches made something of weights. */
async function infer(on: Gpu, model: PConvUNet): Promise<{ values: number[]; made: number }> {
  let values: number[] = [];
  const { kernels } = await profile(on, async () => {
    const tape = new Tape(on, { grad: false });
    const x = tape.upload({ n: 1, h: SIZE, w: SIZE, c: 3 }, image, "x");
    const { output } = model.eval().forward(tape, x, tape.uploadMask({ n: 1, h: SIZE, w: SIZE }, holes));
    values = Array.from((await on.read(output.storage))[0]);
    tape.dispose();
  });
  return { values, made: making(kernels) };
}

const making = (kernels: readonly { readonly kernel: string; readonly count: number }[]): number =>
  kernels.filter(({ kernel }) => MAKERS.includes(kernel)).reduce((sum, { count }) => sum + count, 0);

async function copyWeights(from: PConvUNet, to: PConvUNet): Promise<void> {
  const state = await from.stateDict();
  to.loadStateDict(
    new Map(
      [...state].map(([name, tensor]) => [
        name,
        { ...tensor, toFloat32: () => Float32Array.from(tensor.values, Number) },
      ]),
    ),
  );
}

/** What a network of the same weights gives that has kept nothing. */
async function fresh(model: PConvUNet): Promise<number[]> {
  const other = new PConvUNet(gpu(), OPTIONS, 2);
  await copyWeights(model, other);
  const { values } = await infer(gpu(), other);
  other.free();
  return values;
}

const trainer = (model: PConvUNet) =>
  new Trainer({
    model,
    loss: new InpaintingLoss({ vgg: new Vgg(gpu(), tinyVggState()) }),
    images: new DeadLeavesSource(),
    masks: new RandomMaskSource(),
    ...{ imageSize: SIZE, batchSize: 1, lr: 1e-2, seed: 3 },
  });

it("inference makes the forms of its weights once, and gives them back with the network", async () => {
  const empty = gpu().memory().inUse;
  const earlier = new PConvUNet(gpu(), OPTIONS, 1);
  await infer(gpu(), earlier);
  earlier.free();
  const before = gpu().memory().inUse;
  expect(before - empty).toBeLessThan(4096); // small constants stay with the GPU
  const model = new PConvUNet(gpu(), OPTIONS, 1);
  const first = await infer(gpu(), model);
  const second = await infer(gpu(), model);
  expect(first.made).toBeGreaterThan(5);
  expect(second.made).toBe(0);
  expect(second.values).toEqual(first.values);
  model.free();
  expect(gpu().memory().inUse).toBe(before);
});

it("they go when memory runs short, and are made again", async () => {
  const CHUNK = 2 ** 16;
  const memoryLimit = 8 * 2 ** 20;
  const small = await openGpu({ memoryLimit });
  const model = new PConvUNet(small, { width: 0.25, depth: 5 }, 1);
  const weights = small.memory().inUse;
  const { values } = await infer(small, model);
  const kept = small.memory().inUse - weights;
  expect(kept).toBeGreaterThan(4 * CHUNK);
  small.trim();
  const room = memoryLimit - small.memory().allocated;
  const chunks = Array.from({ length: Math.ceil((room + kept / 2) / CHUNK) }, () => small.alloc(CHUNK, "chunk"));
  for (const chunk of chunks) small.free(chunk);
  const again = await infer(small, model);
  expect(again.made).toBeGreaterThan(0);
  expect(again.values).toEqual(values);
  small.close();
});

it("new weights and statistics are taken at once, whoever wrote them", async () => {
  const model = new PConvUNet(gpu(), OPTIONS, 1);
  const before = await infer(gpu(), model);
  const other = new PConvUNet(gpu(), OPTIONS, 9);
  await copyWeights(other, model);
  other.free();
  const loaded = await infer(gpu(), model);
  expect(loaded.values).not.toEqual(before.values);
  expect(loaded.values).toEqual(await fresh(model));

  const run = trainer(model.train());
  await run.trainStep();
  const trained = await infer(gpu(), model);
  expect(trained.values).not.toEqual(loaded.values);
  expect(trained.values).toEqual(await fresh(model));
  await run.close();
  model.free();
});

it("training keeps what it makes of the loss network's weights, and nothing of those that it trains", async () => {
  const model = new PConvUNet(gpu(), OPTIONS, 1);
  const run = trainer(model);
  const steps: number[] = [];
  for (let i = 0; i < 3; i++) {
    const { kernels } = await profile(gpu(), async () => void (await run.trainStep()));
    steps.push(making(kernels));
  }
  expect(steps[1]).toBeLessThan(steps[0]);
  expect(steps[1]).toBeGreaterThan(5);
  expect(steps[2]).toBe(steps[1]);
  await run.close();
  model.free();
});
