/** Training does not grow: neither on the device nor in the process. */
import v8 from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, it } from "vitest";
import type { Gpu } from "../../src/gpu/gpu.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import { Trainer } from "../../src/pconv/trainer.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { Vgg } from "../../src/pconv/vgg.js";
import { useGpu } from "../support/gpu.js";
import { tinyVggState } from "../support/tinyVgg.js";

const gpu = useGpu();

/** By then every buffer size has been asked for. */
const WARM = 50;
const STEPS = 300;
/**
 * What may be added in the 250 steps between, in MiB. Live JavaScript memory, after a collection: a leak of one batch a step
 * (two 32x32 RGB pictures and masks) would be 8. All resident memory: V8 widens its heap by up to 50 in the first hundreds of steps
 * whatever is live, and then keeps it (flat from step 250 to step 1500 when this was measured).
 */
const ALLOWED = { live: 5, resident: 96 };

v8.setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

function memory(on: Gpu) {
  collect();
  const { inUse, allocated } = on.memory();
  const { rss, heapUsed, external } = process.memoryUsage();
  return { inUse, allocated, live: heapUsed + external, resident: rss };
}

const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(2);

/** SwiftShader takes half a second for a step, and more when it shares the machine. */
const TIMEOUT = 400_000;

it(`device bytes and resident memory are flat from step ${WARM} to step ${STEPS}`, { timeout: TIMEOUT }, async () => {
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
    freezeBatchNorm: "none",
  });
  const seen = new Map<number, ReturnType<typeof memory>>();
  while (trainer.step < STEPS) {
    const { step, loss } = await trainer.trainStep();
    expect(loss).toBeLessThan(Infinity);
    if (step !== WARM && step % 100 !== 0) continue;
    const m = memory(gpu());
    seen.set(step, m);
    console.log(
      `step ${step}: device ${mib(m.inUse)} MiB in use, ${mib(m.allocated)} MiB allocated; ` +
        `process ${mib(m.resident)} MiB resident, ${mib(m.live)} live in JavaScript`,
    );
  }
  const [warm, last] = [seen.get(WARM)!, seen.get(STEPS)!];
  expect(last.inUse).toBe(warm.inUse);
  expect(last.allocated).toBe(warm.allocated);
  for (const [kind, allowed] of Object.entries(ALLOWED) as [keyof typeof ALLOWED, number][]) {
    expect((last[kind] - warm[kind]) / 2 ** 20, kind).toBeLessThan(allowed);
  }
  await trainer.close();
});
