/** Tuning of whole networks: every convolution of a step is known afterwards, and nothing else has changed. */
import { describe, expect, it, vi } from "vitest";
import type { Gpu } from "../../src/gpu/gpu.js";
import type { TuningStore } from "../../src/gpu/tuningStore.js";
import { callClass, tunedOf } from "../../src/kernels/conv/tuned.js";
import { collectConvolutions } from "../../src/kernels/conv/tuning.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { inpaint } from "../../src/pconv/inpaint.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import { Trainer, type TrainerConfig } from "../../src/pconv/trainer.js";
import { tuneInference, tuneTraining } from "../../src/pconv/tuneNetwork.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { Vgg } from "../../src/pconv/vgg.js";
import { useGpu } from "../support/gpu.js";
import { tinyVggState } from "../support/tinyVgg.js";

const gpu = useGpu();

/** As small as a U-Net with VGG's terms gets: software adapters compile every candidate for a while. */
function configOf(device: Gpu): TrainerConfig {
  return {
    model: new PConvUNet(device, { channels: [4] }, 3),
    loss: new InpaintingLoss({ vgg: new Vgg(device, tinyVggState([4, 4, 4, 4, 4, 4, 4])) }),
    images: new DeadLeavesSource(),
    masks: new RandomMaskSource(),
    ...{ imageSize: 8, batchSize: 1, lr: 1e-3, seed: 1, freezeBatchNorm: "none" },
  };
}

/** The GPU as another object, on which nothing is measured yet, and as a real one if wanted. */
const fresh = (software = true): Gpu =>
  Object.create(gpu(), { adapter: { value: { ...gpu().adapter, software } } }) as Gpu;

function memory(): TuningStore & { text: string | null } {
  const store = {
    name: "memory",
    text: null as string | null,
    read: () => Promise.resolve(store.text),
    write: (text: string) => {
      store.text = text;
      return Promise.resolve();
    },
  };
  return store;
}

describe("tuneTraining", () => {
  it("measures every convolution of a step, keeps that, and leaves the model as it was", async () => {
    const device = fresh();
    const config = configOf(device);
    const before = await config.model.stateDict();
    const store = memory();
    const progress: number[] = [];
    const onProgress = (done: number, total: number) => progress.push(done / total);
    const report = await tuneTraining(config, { mode: "force", store, onProgress });

    expect(report).toEqual({ measured: progress.length - 1, known: 0 });
    expect([progress[0], progress.at(-1)]).toEqual([0, 1]);
    expect(await config.model.stateDict()).toEqual(before);
    expect(config.model.namedParameters().every(([, p]) => p.grad === null)).toBe(true);
    const { choices } = JSON.parse(store.text!) as { choices: Record<string, unknown> };
    expect(Object.keys(choices).sort()).toEqual([...tunedOf(device).choices.keys()].sort());

    const trainer = new Trainer(config);
    const calls = await collectConvolutions(device, async () => void (await trainer.trainStep({ report: false })));
    await trainer.close();
    const wanted = calls.map(callClass);
    expect(wanted.some((name) => name.startsWith("weight"))).toBe(true);
    expect(wanted.some((name) => name.startsWith("backwardInput"))).toBe(true);
    expect([...tunedOf(device).choices.keys()].sort()).toEqual(wanted.sort());

    // Another process: nothing is measured again, and no memory stays behind but the forms of the loss network's weights.
    const later = fresh(false);
    const again = configOf(later);
    expect(await tuneTraining(again, { store })).toEqual({ measured: 0, known: report.measured });
    const { inUse } = later.memory();
    await tuneTraining(again, { store });
    expect(later.memory().inUse).toBe(inUse);
    expect(tunedOf(later).choices).toEqual(tunedOf(device).choices);
  }, 300_000); // with cold caches
});

describe("tuneInference", () => {
  it("measures every convolution of inpainting, and leaves the model in its mode", async () => {
    const device = fresh();
    const { model } = configOf(device);
    model.train();
    const report = await tuneInference(model, { height: 8, width: 8 }, { mode: "force" });
    expect(report.measured).toBe(tunedOf(device).choices.size);
    expect(model.training).toBe(true);
    const picture = { width: 8, height: 8, pixels: new Float32Array(192).fill(0.5) };
    const mask = { width: 8, height: 8, values: new Uint8Array(64).fill(1) };
    const calls = await collectConvolutions(device, async () => void (await inpaint(model, picture, mask)));
    expect([...tunedOf(device).choices.keys()].sort()).toEqual(calls.map(callClass).sort());
  });
});

describe("without force", () => {
  it("builds nothing on software adapters, nor anywhere with PCONV_TUNE=off", async () => {
    const check = async (device: Gpu) => {
      const config = configOf(device);
      const alloc = vi.spyOn(device, "alloc");
      const dispatch = vi.spyOn(device, "dispatch");
      expect(await tuneTraining(config)).toEqual({ measured: 0, known: 0 });
      expect(await tuneInference(config.model, { height: 8, width: 8 })).toEqual({ measured: 0, known: 0 });
      expect(alloc).not.toHaveBeenCalled();
      expect(dispatch).not.toHaveBeenCalled();
    };
    await check(fresh(true));
    vi.stubEnv("PCONV_TUNE", "off");
    await check(fresh(false));
    vi.unstubAllEnvs();
  });
});
