/** Several ranks against one process with the batch of all of them. */
import { afterAll, describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu/gpu.js";
import type { ProcessGroup } from "../../src/optim/processGroup.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import type { PictureSource } from "../../src/pconv/picture.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import { type StepReport, Trainer, type TrainerConfig } from "../../src/pconv/trainer.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { Vgg } from "../../src/pconv/vgg.js";
import { Devices, localGroup } from "../support/processGroup.js";
import { tinyVggState } from "../support/tinyVgg.js";

const devices = new Devices();
afterAll(() => devices.close());

interface Options extends Partial<Omit<TrainerConfig, "model" | "loss" | "processGroup">> {
  /** With the perceptual and style terms. */
  readonly vgg?: boolean;
  readonly wrap?: (group: ProcessGroup) => ProcessGroup;
}

/** Trainers of one run on `size` ranks; with several, all but rank 0 begin with other weights. */
async function ranks(size: number, { vgg = false, wrap = (group) => group, ...o }: Options = {}): Promise<Trainer[]> {
  const trainers: Trainer[] = [];
  for (const group of localGroup(size)) {
    const gpu = await devices.get(group.rank);
    const config = {
      model: new PConvUNet(gpu, { width: 0.1, depth: 3 }, 1 + group.rank),
      loss: new InpaintingLoss(vgg ? { vgg: new Vgg(gpu, tinyVggState()) } : {}),
      images: new DeadLeavesSource(),
      masks: new RandomMaskSource(),
      imageSize: 32,
      batchSize: 4 / size,
      lr: 1e-3,
      seed: 3,
      syncBatchNorm: true,
    };
    trainers.push(new Trainer({ ...config, ...o, processGroup: wrap(group) }));
  }
  return trainers;
}

const together = <T>(trainers: readonly Trainer[], run: (trainer: Trainer) => Promise<T>): Promise<T[]> =>
  Promise.all(trainers.map(run));

const weights = ({ config: { model } }: { config: Pick<TrainerConfig, "model"> }): Promise<Float32Array[]> =>
  model.gpu.read(...model.namedParameters().map(([, p]) => p.storage));

/** Running means and variances of all batch norm layers. */
async function statistics({ config: { model } }: Trainer): Promise<Float32Array[]> {
  return [...(await model.stateDict())].flatMap(([name, { values }]) =>
    name.includes("running_") ? [Float32Array.from(values, Number)] : [],
  );
}

const averages = ({ ema, config: { model } }: Trainer): Promise<Float32Array[]> =>
  ema!.whileApplied(() => weights({ config: { model } }));

/** Largest difference relative to the largest value of each tensor. */
function distance(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  return Math.max(
    ...a.map((x, t) => {
      let top = 1e-12;
      let off = 0;
      x.forEach((v, i) => {
        top = Math.max(top, Math.abs(v));
        off = Math.max(off, Math.abs(v - b[t][i]));
        if (!Number.isFinite(v) || !Number.isFinite(b[t][i])) off = Infinity;
      });
      return off / top;
    }),
  );
}

const relative = (a: number, b: number) => Math.abs(a / b - 1);

/** One value of all ranks, which is the same on all of them. */
function same<T>(values: readonly T[]): T {
  for (const value of values) expect(value).toEqual(values[0]);
  return values[0];
}

/** Drawn pictures that notes which were asked for, and spoils one. */
class Noting implements PictureSource {
  private readonly drawn = new DeadLeavesSource();
  readonly length = this.drawn.length;
  readonly description = "noting";
  readonly asked: number[] = [];

  constructor(private readonly spoilt = -1) {}

  async sample(seed: number, index: number, size: number) {
    this.asked.push(index);
    const picture = await this.drawn.sample(seed, index, size);
    if (index === this.spoilt) picture.pixels[7] = Infinity;
    return picture;
  }
}

async function close(trainers: readonly Trainer[]): Promise<void> {
  for (const trainer of trainers) {
    await trainer.close();
    trainer.config.model.free();
  }
}

describe("ranks with synchronised batch norm", () => {
  // Measured: losses of 24 steps within 2e-7, weights and statistics within 1.1e-6.
  it.each([
    { size: 2, o: { vgg: true } },
    { size: 4, o: { emaDecay: 0.9, maxGradNorm: 0.5, bucketBytes: 20_000 } },
  ])("are one process with the batch of all of them: $size, $o", { timeout: 120_000 }, async ({ size, o }) => {
    const [one] = await ranks(1, o);
    const many = await ranks(size, o);
    for (let step = 1; step <= 22; step++) {
      const want = await one.trainStep();
      const got = same(await together(many, (t) => t.trainStep()));
      expect(relative(got.loss, want.loss)).toBeLessThan(1e-6);
      for (const [name, value] of Object.entries(want.terms))
        expect(relative(got.terms[name as keyof StepReport["terms"]]!, value)).toBeLessThan(2e-6);
      expect(relative(got.gradNorm, want.gradNorm)).toBeLessThan(5e-6);
      if (o.maxGradNorm) expect(want.gradNorm).toBeGreaterThan(o.maxGradNorm); // it was clipped
    }
    const [first] = many;
    expect(distance(await weights(one), await weights(first))).toBeLessThan(5e-6);
    expect(distance(await statistics(one), await statistics(first))).toBeLessThan(5e-6);
    same(await together(many, statistics));
    if (o.emaDecay) {
      expect(distance(await averages(one), await averages(first))).toBeLessThan(5e-6);
      same(await together(many, averages));
    }
    expect(same(await together(many, (t) => t.hash()))).toMatch(/^[0-9a-f]{64}$/);
    await close([one, ...many]);
  });
});

describe("ranks with batch norm of their own", () => {
  it("are another network than one process, and agree on weights, not on statistics", async () => {
    const [one] = await ranks(1);
    const many = await ranks(2, { syncBatchNorm: false });
    const want = [await one.trainStep(), await one.trainStep()];
    const got = [await together(many, (t) => t.trainStep()), await together(many, (t) => t.trainStep())].map(same);
    expect(got.some(({ loss }, i) => relative(loss, want[i].loss) > 1e-4)).toBe(true);
    same(await together(many, weights));
    const [a, b] = await together(many, statistics);
    expect(distance(a, b)).toBeGreaterThan(1e-3);
    // Frozen, they are used: rank 0's on all of them.
    for (const trainer of many) trainer.freezeBatchNorm("all");
    await together(many, (t) => t.trainStep());
    expect(distance(a, same(await together(many, statistics)))).toBe(0);
    await close([one, ...many]);
  });
});

describe("a rank whose loss is not finite", () => {
  it.each([true, false])("holds the step on all of them, synchronised batch norm: %s", async (syncBatchNorm) => {
    const many = await ranks(2, { images: new Noting(6), syncBatchNorm, emaDecay: 0.9 });
    await together(many, (t) => t.trainStep());
    const before = same(await together(many, weights));
    const hash = same(await together(many, (t) => t.hash()));
    const errors = await together(many, (t) => t.trainStep().then(String, String));
    expect(same(errors)).toMatch(/step 2: expected a finite loss, got total = (NaN|Infinity).* is a training picture on rank 1/); // prettier-ignore
    expect(distance(same(await together(many, weights)), before)).toBe(0);
    expect(same(await together(many, (t) => t.hash()))).toBe(hash);
    expect(same(many.map((t) => [t.step, t.samples]))).toEqual([1, 8]);
    // On with the next pictures.
    expect(same(await together(many, (t) => t.trainStep())).step).toBe(2);
    expect(same(await together(many, (t) => t.hash()))).not.toBe(hash);
    await close(many);
  });

  it("is found without reports too", async () => {
    const many = await ranks(2, { images: new Noting(6) });
    await together(many, (t) => t.trainStep({ report: false }));
    const before = same(await together(many, weights));
    for (let i = 0; i < 3; i++) await together(many, (t) => t.trainStep({ report: false }));
    const errors = await together(many, (t) => t.checkFinite().then(String, String));
    expect(same(errors)).toMatch(/step 2: expected a finite loss/);
    expect(distance(same(await together(many, weights)), before)).toBe(0);
    await close(many);
  });
});

describe("with half precision", () => {
  const f16 = { precision: "f16", lr: 1e-4 } as const;

  it("ranks follow one process", async (t) => {
    if (!(await devices.get(0)).half) return t.skip("this adapter has no half precision");
    const o = { ...f16, lossScaling: { initialScale: 256 } };
    const [one] = await ranks(1, o);
    const many = await ranks(2, o);
    for (let step = 1; step <= 8; step++) {
      const want = await one.trainStep();
      const got = same(await together(many, (trainer) => trainer.trainStep()));
      expect(got.skipped).toBe(0);
      expect(relative(got.loss, want.loss)).toBeLessThan(2e-3);
      expect(relative(got.gradNorm, want.gradNorm)).toBeLessThan(2e-2);
    }
    same(await together(many, (trainer) => trainer.hash()));
    await close([one, ...many]);
  });

  it("an overflow on one rank skips the step on all of them", async (t) => {
    if (!(await devices.get(0)).half) return t.skip("this adapter has no half precision");
    // Rank 1 alone scales its loss by so much that its gradients overflow: the others find it in the mean.
    const many = await ranks(2, { ...f16, lossScaling: { initialScale: 64 }, syncBatchNorm: false });
    await together(many, (trainer) => trainer.broadcast());
    const scale = many[1].optimizer.scaler!.scale;
    scale.gpu.write(scale.storage, new Float32Array([2 ** 40, 0, 0, 0]));
    const before = same(await together(many, weights));
    expect((await together(many, (trainer) => trainer.trainStep())).map((r) => r.skipped)).toEqual([1, 1]);
    expect(distance(same(await together(many, weights)), before)).toBe(0);
    await close(many);
  });
});

describe("the place in the run", () => {
  it("is counted in samples: any number of ranks goes on after any other", async () => {
    const asked = async (trainers: readonly Trainer[], sources: readonly Noting[], steps: number) => {
      for (let i = 0; i < steps; i++) await together(trainers, (t) => t.trainStep());
      await close(trainers);
      return sources.map((source) => source.asked.slice(0, steps * trainers[0].config.batchSize));
    };
    const run = async (size: number, batchSize: number, from?: { step: number; samples: number }) => {
      const sources = Array.from({ length: size }, () => new Noting());
      const trainers = (await ranks(size, { batchSize })).map((trainer, rank) => {
        const own = new Trainer({ ...trainer.config, images: sources[rank] });
        void trainer.close();
        return own;
      });
      if (from) trainers[0].resume(from.step, from.samples); // the others hear of it
      if (from) await together(trainers, (t) => t.broadcast());
      if (from) expect(same(trainers.map((t) => [t.step, t.samples]))).toEqual([from.step, from.samples]);
      const steps = await asked(trainers, sources, 2);
      return { steps, at: same(trainers.map(({ step, samples }) => ({ step, samples }))) };
    };
    const first = await run(2, 3);
    expect(first).toEqual({ steps: [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]], at: { step: 2, samples: 12 } }); // prettier-ignore
    const second = await run(3, 1, first.at);
    expect(second).toEqual({ steps: [[12, 15], [13, 16], [14, 17]], at: { step: 4, samples: 18 } }); // prettier-ignore
    expect(await run(1, 2, second.at)).toEqual({ steps: [[18, 19, 20, 21]], at: { step: 6, samples: 22 } });
  });
});

describe("between steps", () => {
  it("the group is free for other uses, however far the device is", async () => {
    const many = await ranks(2, { imageSize: 16 });
    await together(many, async (trainer) => {
      const group = trainer.config.processGroup!;
      for (let i = 1; i <= 4; i++) {
        await trainer.trainStep({ report: false });
        // One rank asks at once, the other when all that the step has asked for has been asked.
        if (group.rank === 0) await trainer.config.model.gpu.sync();
        const flag = Float32Array.of(i, group.rank); // such as: does any rank want to stop?
        await group.allReduce(flag);
        expect([...flag]).toEqual([2 * i, 1]);
      }
    });
    expect(same(await together(many, (t) => t.trainStep())).step).toBe(5);
    await close(many);
  });
});

describe("buckets", () => {
  it("leave while the backward pass goes on, the last layers' first, and carry every gradient once", async () => {
    const lengths: number[][] = [[], []];
    const wrap = (group: ProcessGroup): ProcessGroup => ({
      ...group,
      allReduce: (values) => {
        lengths[group.rank].push(values.length);
        return group.allReduce(values);
      },
    });
    const many = await ranks(2, { syncBatchNorm: false, bucketBytes: 8_000, wrap });
    await together(many, (t) => t.trainStep());
    const { gpu } = many[0].config.model;
    for (const list of lengths) list.length = 0;
    const before = many.map((t) => t.exchanged!);
    const events = noted(gpu);
    await together(many, (t) => t.trainStep());
    const [own] = lengths;
    expect(lengths[1]).toEqual(own);
    const all = (await weights(many[0])).map((w) => w.length);
    const sum = (list: number[]) => list.reduce((a, b) => a + b, 0);
    expect(own[0]).toBe(4 * 4); // total, valid, hole, tv
    expect(sum(own.slice(1))).toBe(sum(all));
    expect(own.length).toBeGreaterThan(4);
    expect(Math.max(...own.slice(1, -1))).toBeLessThan(2000 + Math.max(...all));
    many.forEach((t, i) => {
      const { bytes, reducing, waiting } = t.exchanged!;
      expect(bytes - before[i].bytes).toBe(4 * sum(own));
      expect(reducing).toBeGreaterThan(before[i].reducing);
      expect(waiting).toBeGreaterThanOrEqual(before[i].waiting);
    });
    // The first bucket was read before the last backward kernel was recorded, and Adam came after all of them.
    const list = events();
    const reads = list.flatMap((event, i) => (event === "read" ? [i] : []));
    const last = (kernel: RegExp) => list.findLastIndex((event) => kernel.test(event));
    expect(reads.filter((i) => i < last(/Backward|Weight/)).length).toBeGreaterThan(2);
    expect(list.findIndex((event) => event === "adam")).toBeGreaterThan(list.indexOf("waitFor"));
    await close(many);
  });

  it("of a group that fails end the step with its error", async () => {
    const wrap = (group: ProcessGroup): ProcessGroup => {
      let calls = 0;
      return {
        ...group,
        allReduce: (values) =>
          ++calls < 6 ? group.allReduce(values) : Promise.reject(new Error("a rank has left the job")),
      };
    };
    const own = new Devices(); // they cannot be used afterwards
    const trainers: Trainer[] = [];
    for (const group of localGroup(2)) {
      const model = new PConvUNet(await own.get(group.rank), { width: 0.1, depth: 2 }, 1);
      const [images, masks, loss] = [new DeadLeavesSource(), new RandomMaskSource(), new InpaintingLoss({})];
      const config = { model, loss, images, masks, imageSize: 16, batchSize: 1, lr: 1e-3, seed: 3 };
      trainers.push(new Trainer({ ...config, processGroup: wrap(group) }));
    }
    const steps = async (trainer: Trainer) => {
      for (let i = 0; i < 10; i++) await trainer.trainStep({ report: i % 2 === 0 });
    };
    const ends = await together(trainers, (t) => steps(t).then(String, String));
    expect(same(ends)).toBe("Error: a rank has left the job");
    for (const { config } of trainers) expect(() => config.model.gpu.alloc(16, "more")).toThrow("has left the job");
    await own.close();
  });
});

/** Names of the kernels, readbacks and waits that are recorded from here on, until the result is called. */
function noted(gpu: Gpu): () => string[] {
  const events: string[] = [];
  const note = (name: string) => {
    if (!gpu.rehearsing) events.push(name);
  };
  const [dispatch, read, waitFor] = [gpu.dispatch.bind(gpu), gpu.read.bind(gpu), gpu.waitFor.bind(gpu)];
  const spy: Pick<Gpu, "dispatch" | "read" | "waitFor"> = {
    dispatch: (kernel, ...rest) => {
      note(kernel.name);
      dispatch(kernel, ...rest);
    },
    read: (...storages) => {
      note("read");
      return read(...storages);
    },
    waitFor: (work) => {
      note("waitFor");
      waitFor(work);
    },
  };
  Object.assign(gpu, spy);
  return () => {
    Object.assign(gpu, { dispatch, read, waitFor });
    return events;
  };
}
