/** The second stage and what leads to it: statistics taken anew, freezing in mid-run, averaged weights, schedules. */
import { describe, expect, it } from "vitest";
import { Tensor } from "../../src/autograd/tensor.js";
import { Parameter } from "../../src/nn/parameter.js";
import { Adam } from "../../src/optim/adam.js";
import { BatchNorm2d } from "../../src/nn/layers.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { learningRate } from "../../src/pconv/learningRate.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import { reestimateStatistics, totalStatistics } from "../../src/pconv/reestimate.js";
import { Trainer, type TrainerConfig } from "../../src/pconv/trainer.js";
import { PConvUNet, type UNetConfig } from "../../src/pconv/unet.js";
import { expectClose, expectExact } from "../support/close.js";
import { useGpu } from "../support/gpu.js";

const gpu = useGpu();
const SOURCES = { images: new DeadLeavesSource(), masks: new RandomMaskSource(), imageSize: 16, batchSize: 1, seed: 9 };

/** Four levels on 16x16: the bottom is 1x1. */
const makeModel = (config: Partial<UNetConfig> = {}) => new PConvUNet(gpu(), { width: 0.1, depth: 4, ...config }, 1);

const normsOf = (model: PConvUNet): [string, BatchNorm2d][] =>
  model
    .children()
    .flatMap(([name, block]) =>
      block.children().flatMap(([, l]): [string, BatchNorm2d][] => (l instanceof BatchNorm2d ? [[name, l]] : [])),
    );

const statisticsOf = async (model: PConvUNet) =>
  new Map(
    [...(await model.stateDict())].filter(([name]) => name.includes("running")).map(([n, t]) => [n, [...t.values].map(Number)]), // prettier-ignore
  );

async function makeTrainer(more: Partial<TrainerConfig>, run: (trainer: Trainer, model: PConvUNet) => Promise<void>) {
  const model = makeModel();
  const loss = new InpaintingLoss({});
  const trainer = new Trainer({ ...SOURCES, model, loss, lr: 1e-3, freezeBatchNorm: "none", ...more });
  try {
    await run(trainer, model);
  } finally {
    await trainer.close();
    model.free();
  }
}

const weightsOf = async (model: PConvUNet) =>
  (await gpu().read(...model.namedParameters().map(([, p]) => p.storage))).flatMap((v) => [...v]);

describe("statistics taken anew", () => {
  it("are those of all pixels of all batches, the law of total variance", () => {
    const batches = [
      [1, 2, 6],
      [10, 10, 13],
    ];
    const moments = batches.map((b) => {
      const mean = b.reduce((x, y) => x + y) / 3;
      return { mean: Float32Array.of(mean), variance: Float32Array.of(b.reduce((s, x) => s + (x - mean) ** 2, 0) / 3) };
    });
    const all = batches.flat();
    const mean = all.reduce((x, y) => x + y) / 6;
    const got = totalStatistics(moments);
    expect(got.mean[0]).toBeCloseTo(mean, 6);
    expect(got.variance[0]).toBeCloseTo(all.reduce((s, x) => s + (x - mean) ** 2, 0) / 6, 5);
  });

  it("have a variance at the bottom, where one picture is one pixel; running averages of PyTorch's form have none", async () => {
    const model = makeModel({ bnStatistics: "all" });
    const bottom = normsOf(model).find(([name]) => name === "enc_4")![1];
    bottom.running_var.set(new Float32Array(bottom.running_var.size)); // what a long run leaves of the initial ones
    expect(await reestimateStatistics({ ...SOURCES, model, batches: 1 })).toBe(true);
    const of = async () => Math.max(...(await bottom.running_var.values()));
    expect(await of()).toBe(0);
    expect(await reestimateStatistics({ ...SOURCES, model, batches: 8 })).toBe(true);
    expect(await of()).toBeGreaterThan(1e-3);
    model.free();
  });

  it("change nothing else, and not those that are frozen", async () => {
    const model = makeModel();
    model.freezeBatchNorm("encoder");
    model.eval();
    const [weights, before] = [await weightsOf(model), await statisticsOf(model)];
    await reestimateStatistics({ ...SOURCES, model, batches: 3 });
    expectExact("weights", await weightsOf(model), weights, "seed 9");
    const after = await statisticsOf(model);
    for (const [name, values] of before) {
      if (name.startsWith("enc_")) expect(after.get(name), name).toEqual(values);
      else expect(after.get(name), name).not.toEqual(values);
    }
    expect(model.training).toBe(false);
    expect(normsOf(model).map(([, bn]) => [bn.momentum, bn.num_batches_tracked.value])).toEqual(
      normsOf(model).map(() => [0.1, 0]),
    );
    model.free();
  });

  it("are left as they were when it is stopped, and equal for equal seeds", async () => {
    const [a, b] = [makeModel(), makeModel()];
    const before = await statisticsOf(a);
    let asked = 0;
    expect(await reestimateStatistics({ ...SOURCES, model: a, batches: 4, stopped: () => asked++ === 2 })).toBe(false);
    expect(await statisticsOf(a)).toEqual(before);
    for (const model of [a, b]) await reestimateStatistics({ ...SOURCES, model, batches: 4 });
    expect(await statisticsOf(a)).toEqual(await statisticsOf(b));
    a.free();
    b.free();
  });

  it("make inference agree with training where running averages of PyTorch's form do not", async () => {
    // One picture to a batch for many steps: the bottom's running variance is next to nothing.
    const model = makeModel({ bnStatistics: "all" });
    const trainer = new Trainer({ ...SOURCES, model, loss: new InpaintingLoss({}), lr: 1e-3, freezeBatchNorm: "none" }); // prettier-ignore
    for (let i = 0; i < 120; i++) await trainer.trainStep({ report: false });
    await trainer.checkFinite();
    const bottom = normsOf(model).find(([name]) => name === "enc_4")![1];
    const within = Math.max(...(await bottom.running_var.values()));
    await reestimateStatistics({ ...SOURCES, model, batches: 16 });
    const total = Math.max(...(await bottom.running_var.values()));
    expect(total).toBeGreaterThan(100 * within);
    await trainer.close();
    model.free();
  });
});

describe("a trainer", () => {
  it("freezes the encoder's statistics from the step on that it is told", async () => {
    await makeTrainer({}, async (trainer, model) => {
      const encoder = async () => [...(await statisticsOf(model))].filter(([name]) => name.startsWith("enc_"));
      const decoder = async () => [...(await statisticsOf(model))].filter(([name]) => name.startsWith("dec_"));
      await trainer.trainStep();
      const first = await encoder();
      await trainer.trainStep();
      const second = await encoder();
      expect(second).not.toEqual(first);
      trainer.freezeBatchNorm("encoder");
      const before = await decoder();
      await trainer.trainStep();
      await trainer.trainStep();
      expect(await encoder()).toEqual(second);
      expect(await decoder()).not.toEqual(before);
      trainer.freezeBatchNorm("all");
      const all = await statisticsOf(model);
      await trainer.trainStep();
      expect(await statisticsOf(model)).toEqual(all);
      trainer.freezeBatchNorm("none");
      await trainer.trainStep();
      expect(await encoder()).not.toEqual(second);
    });
  });

  it("keeps an average of the weights, lends it to the model and gives the weights back", async () => {
    await makeTrainer({ emaDecay: 0.999 }, async (trainer, model) => {
      const want = (await weightsOf(model)).map(Number);
      for (let step = 1; step <= 4; step++) {
        await trainer.trainStep();
        const decay = Math.min(0.999, (1 + step) / (10 + step));
        (await weightsOf(model)).forEach((w, i) => (want[i] += (1 - decay) * (w - want[i])));
      }
      const own = await weightsOf(model);
      const average = await trainer.ema!.whileApplied(() => weightsOf(model));
      expectClose("average", average, want, 1e-5, "seed 9");
      expect(average.some((v, i) => Math.abs(v - own[i]) > 1e-4)).toBe(true);
      expectExact("weights", await weightsOf(model), own, "seed 9");
      const saved = await trainer.ema!.whileApplied(() => model.stateDict());
      const loadable = new Map([...saved].map(([n, t]) => [n, { shape: t.shape, toFloat32: () => Float32Array.from(t.values, Number) }])); // prettier-ignore
      await trainer.trainStep();
      trainer.ema!.loadStateDict(loadable);
      expectExact("restored", await trainer.ema!.whileApplied(() => weightsOf(model)), average, "seed 9");
    });
  });

  it("follows a learning rate that is a function, and says the gradients' norm", async () => {
    await makeTrainer({ lr: (step) => step / 1000, maxGradNorm: 1e-6 }, async (trainer) => {
      for (let step = 1; step <= 3; step++) {
        const report = await trainer.trainStep();
        expect(report.lr).toBe(step / 1000);
        expect(report.gradNorm).toBeGreaterThan(1e-6); // before clipping
      }
    });
  });

  it("clips without a guard too", async () => {
    const parameter = new Parameter(gpu(), [4], "p", [0, 0, 0, 0]);
    const adam = new Adam([["p", parameter]], { lr: 1, betas: [0, 0], eps: 1, maxGradNorm: 1 });
    parameter.grad = Tensor.from(gpu(), parameter.shape, [0, 3, 0, 4], "gradient");
    adam.step();
    const moved = (g: number) => -g / (g + 1); // clipped to 3/5 and 4/5
    expectClose("p", await parameter.values(), [0, moved(0.6), 0, moved(0.8)], 1e-5, "clip");
    adam.free();
    parameter.free();
  });

  it("names the first tensor that is not finite", async () => {
    await makeTrainer({}, async (trainer, model) => {
      await trainer.trainStep();
      const weight = new Map(model.namedParameters()).get("dec_3.conv.weight")!;
      const values = await weight.values();
      gpu().write(weight.storage, Float32Array.from(values).fill(NaN, 3, 4));
      await expect(trainer.trainStep()).rejects.toThrow(
        /step 2: expected a finite loss, got total = .*first tensor that is not finite is the parameter dec_3.conv.weight/,
      );
    });
    await makeTrainer({}, async (trainer, model) => {
      await trainer.trainStep();
      // Finite itself, but its products are not.
      const gamma = new Map(model.namedParameters()).get("dec_2.bn.weight")!;
      gamma.set(new Float32Array(gamma.size).fill(3e38));
      await expect(trainer.trainStep()).rejects.toThrow(/not finite is the result of \w+ of dec_2/);
    });
  });
});

describe("learningRate", () => {
  const at = (schedule: "constant" | "cosine" | "linear", step: number) =>
    learningRate({ schedule, lr: 1, warmup: 4, steps: 14 }, step);

  it("rises, and then stays or falls", () => {
    for (const schedule of ["constant", "cosine", "linear"] as const) {
      expect([1, 2, 3, 4, 5].map((step) => at(schedule, step))).toEqual([0.25, 0.5, 0.75, 1, 1]);
    }
    expect(at("constant", 14)).toBe(1);
    expect(at("cosine", 10)).toBeCloseTo(0.5, 12);
    expect(at("linear", 10)).toBeCloseTo(0.5, 12);
    expect(at("linear", 14)).toBeCloseTo(0.1, 12);
    expect(at("cosine", 14)).toBeCloseTo((1 + Math.cos(0.9 * Math.PI)) / 2, 12);
    expect(at("linear", 99)).toBe(at("linear", 14)); // a run that goes on beyond its stage
  });
});
