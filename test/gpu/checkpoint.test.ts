/** Gradient checkpointing: the same bits with less memory. */
import { expect, it } from "vitest";
import { l1 } from "../../src/autograd/ops/l1.js";
import { Tape } from "../../src/autograd/tape.js";
import { openGpu } from "../../src/gpu/node.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import { Trainer } from "../../src/pconv/trainer.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { expectExact } from "../support/close.js";
import { Draw } from "../support/draw.js";

it("gradients are equal bit for bit, running statistics too, and the peak is lower", async () => {
  const draw = new Draw(0x636b7074);
  const [n, size] = [2, 64];
  const pixels = draw.floats(n * size * size * 3, 0, 1);
  const valid = draw.mask(n * size * size, 0.3);
  const run = async (checkpoint: boolean) => {
    const gpu = await openGpu();
    try {
      const model = new PConvUNet(gpu, { channels: [16, 24, 32] }, 7);
      model.train();
      const before = gpu.memory().peak;
      const tape = new Tape(gpu, { grad: true, checkpoint });
      const truth = tape.upload({ n, h: size, w: size, c: 3 }, pixels, "truth");
      const { output } = model.forward(tape, truth, tape.uploadMask({ n, h: size, w: size }, valid));
      const kept = gpu.memory().inUse;
      tape.backward(l1(tape, output, truth, { factor: 1 / pixels.length }));
      const state = [...model.namedParameters()];
      const gradients = await gpu.read(...state.map(([, p]) => p.grad!.storage));
      const buffers = await model.stateDict();
      tape.dispose();
      return { names: state.map(([name]) => name), gradients, buffers, kept, peak: gpu.memory().peak - before };
    } finally {
      gpu.close();
    }
  };
  const [kept, again] = [await run(false), await run(true)];
  kept.gradients.forEach((want, i) => expectExact(kept.names[i], again.gradients[i], want, draw.seed));
  for (const [name, tensor] of kept.buffers) {
    if (tensor.dtype === "F32") expectExact(name, again.buffers.get(name)!.values as Float32Array, tensor.values, draw.seed); // prettier-ignore
  }
  // The outputs of batch-normalised levels: 24 and 32 channels down, 24 and 16 up.
  const zs = n * 4 * (24 * 16 ** 2 + 32 * 8 ** 2 + 24 * 16 ** 2 + 16 * 32 ** 2);
  expect(again.kept).toBeLessThanOrEqual(kept.kept - zs);
  expect(again.peak).toBeLessThan(kept.peak);
});

it("a trainer that does it reports the same losses, and takes less memory", async () => {
  const run = async (gradientCheckpointing: boolean) => {
    const gpu = await openGpu();
    try {
      const trainer = new Trainer({
        model: new PConvUNet(gpu, { channels: [16, 24, 32] }, 7),
        loss: new InpaintingLoss(),
        images: new DeadLeavesSource(),
        masks: new RandomMaskSource(),
        ...{ imageSize: 64, batchSize: 2, lr: 1e-3, seed: 3, freezeBatchNorm: "none", gradientCheckpointing },
      });
      const reports = [await trainer.trainStep(), await trainer.trainStep(), await trainer.trainStep()];
      await trainer.close();
      return { reports, peak: gpu.memory().peak };
    } finally {
      gpu.close();
    }
  };
  const [kept, again] = [await run(false), await run(true)];
  expect(again.reports).toEqual(kept.reports);
  expect(again.peak).toBeLessThan(kept.peak);
});
