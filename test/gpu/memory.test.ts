/** Training does not grow: neither on the device nor in the process. */
import { expect, it } from "vitest";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import { Trainer } from "../../src/pconv/trainer.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { Vgg } from "../../src/pconv/vgg.js";
import { useGpu } from "../support/gpu.js";
import { tinyVggState } from "../support/tinyVgg.js";

const gpu = useGpu();

/** By then every buffer size has been asked for, and the engine has compiled what it will. */
const WARM = 50;
const STEPS = 300;
/** What the process may grow by in the 250 steps after; a leak of one 32x32 RGB batch a step would be 6 MiB. */
const ALLOWED_MIB = 32;

const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(2);

it(`device bytes and resident memory are flat from step ${WARM} to step ${STEPS}`, async () => {
  const model = new PConvUNet(gpu(), { width: 0.1, depth: 3 }, 1);
  const trainer = new Trainer({
    model,
    loss: new InpaintingLoss({ vgg: new Vgg(gpu(), tinyVggState()) }),
    images: new DeadLeavesSource(),
    masks: new RandomMaskSource(),
    imageSize: 32,
    batchSize: 2,
    lr: 1e-3,
    seed: 3,
    freezeEncoderBatchNorm: false,
  });
  const seen: { step: number; inUse: number; allocated: number; rss: number }[] = [];
  while (trainer.step < STEPS) {
    const { step, loss } = await trainer.trainStep();
    expect(loss).toBeLessThan(Infinity);
    if (step === WARM || step % 100 === 0) {
      const { inUse, allocated } = gpu().memory();
      const { rss } = process.memoryUsage();
      seen.push({ step, inUse, allocated, rss });
      console.log(
        `step ${step}: device ${mib(inUse)} MiB in use, ${mib(allocated)} MiB allocated; process ${mib(rss)} MiB`,
      );
    }
  }
  const [warm, last] = [seen[0], seen[seen.length - 1]];
  expect([warm.step, last.step]).toEqual([WARM, STEPS]);
  expect(last.inUse).toBe(warm.inUse);
  expect(last.allocated).toBe(warm.allocated);
  expect((last.rss - warm.rss) / 2 ** 20).toBeLessThan(ALLOWED_MIB);
  await trainer.close();
});
