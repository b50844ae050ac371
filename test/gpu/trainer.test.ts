/** The training step: one submit, at most one readback, and what happens when a loss is not finite. */
import { describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu/gpu.js";
import { adam } from "../../src/kernels/adam.js";
import { GUARD_BYTES, lossGuard, readGuard } from "../../src/kernels/lossGuard.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import type { PictureSource } from "../../src/pconv/picture.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import { Trainer } from "../../src/pconv/trainer.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { Vgg } from "../../src/pconv/vgg.js";
import { expectExact } from "../support/close.js";
import { useGpu, withScratch } from "../support/gpu.js";
import { tinyVggState } from "../support/tinyVgg.js";

const gpu = useGpu();

/** Drawn pictures, but those of `spoilt` hold an infinity. */
class Spoilt implements PictureSource {
  private readonly drawn = new DeadLeavesSource();
  readonly length = this.drawn.length;
  readonly description = "spoilt";

  constructor(private readonly spoilt: readonly number[]) {}

  async sample(seed: number, index: number, size: number) {
    const picture = await this.drawn.sample(seed, index, size);
    if (this.spoilt.includes(index)) picture.pixels[7] = Infinity;
    return picture;
  }
}

function makeTrainer(images: PictureSource = new DeadLeavesSource()): { trainer: Trainer; end: () => Promise<void> } {
  const model = new PConvUNet(gpu(), { width: 0.1, depth: 3 }, 1);
  const vgg = new Vgg(gpu(), tinyVggState());
  const trainer = new Trainer({
    model,
    loss: new InpaintingLoss({ vgg }),
    images,
    masks: new RandomMaskSource(),
    imageSize: 32,
    batchSize: 1,
    lr: 1e-3,
    seed: 3,
    freezeBatchNorm: "none",
  });
  const end = async () => {
    await trainer.close();
    model.free();
    vgg.free();
  };
  return { trainer, end };
}

/** Parameters and moments, all in one row. */
async function stateOf({ config, optimizer }: Trainer): Promise<Float32Array> {
  const parameters = await gpu().read(...config.model.namedParameters().map(([, p]) => p.storage));
  const moments = [...(await optimizer.stateDict())].flatMap(([name, t]) =>
    name === "steps" ? [] : [Float32Array.from(t.values as Float32Array)],
  );
  return Float32Array.from([...parameters, ...moments].flatMap((values) => [...values]));
}

/** Counts submits and readbacks while `run` is under way. */
async function counting(on: Gpu, run: () => Promise<unknown>): Promise<{ submits: number; reads: number }> {
  const { queue } = on.device;
  const counts = { submits: 0, reads: 0 };
  const [submit, read] = [queue.submit.bind(queue), on.read.bind(on)];
  queue.submit = (commands) => {
    counts.submits++;
    return submit(commands);
  };
  on.read = (...storages) => {
    counts.reads++;
    return read(...storages);
  };
  try {
    await run();
  } finally {
    queue.submit = submit;
    on.read = read;
  }
  return counts;
}

describe("a step", () => {
  it("is one submit and one readback, or none without a report", async () => {
    const { trainer, end } = makeTrainer();
    await trainer.trainStep(); // constants are made
    expect(await counting(gpu(), () => trainer.trainStep())).toEqual({ submits: 1, reads: 1 });
    expect(await counting(gpu(), () => trainer.trainStep({ report: false }))).toEqual({ submits: 1, reads: 0 });
    // After a step without a report, and several of them: the host does not wait, and does not run away either.
    const several = async () => {
      for (let i = 0; i < 5; i++) expect(await trainer.trainStep({ report: false })).toBeNull();
    };
    expect(await counting(gpu(), several)).toEqual({ submits: 5, reads: 0 });
    expect(await counting(gpu(), () => trainer.trainStep())).toEqual({ submits: 1, reads: 1 });
    expect(trainer.step).toBe(9);
    await end();
  });

  it("does the same with and without reports", async () => {
    const [told, silent] = [makeTrainer(), makeTrainer()];
    for (let i = 0; i < 4; i++) {
      await told.trainer.trainStep();
      await silent.trainer.trainStep({ report: false });
    }
    const [a, b] = [await told.trainer.trainStep(), await silent.trainer.trainStep()];
    expect(b).toEqual(a);
    expectExact("state", await stateOf(silent.trainer), await stateOf(told.trainer), "seed 3");
    await told.end();
    await silent.end();
  });
});

describe("a loss that is not finite", () => {
  it("changes nothing, and says which step it was", async () => {
    const { trainer, end } = makeTrainer(new Spoilt([2]));
    await trainer.trainStep();
    await trainer.trainStep();
    const before = await stateOf(trainer);
    await expect(trainer.trainStep()).rejects.toThrow(/step 3: expected a finite loss, got total = (NaN|Infinity)/);
    expect([trainer.step, trainer.optimizer.steps]).toEqual([2, 2]);
    expectExact("state", await stateOf(trainer), before, "seed 3");
    // The run goes on with the next pictures.
    expect((await trainer.trainStep()).step).toBe(3);
    expect((await stateOf(trainer)).every((v, i) => v === before[i])).toBe(false);
    await end();
  });

  it("is found in the pictures of its step, the second time too", async () => {
    const { trainer, end } = makeTrainer(new Spoilt([1, 3]));
    await trainer.trainStep();
    await expect(trainer.trainStep()).rejects.toThrow(/step 2: .*not finite is a training picture/);
    await trainer.trainStep(); // with the third picture
    await expect(trainer.trainStep()).rejects.toThrow(/step 3: .*not finite is a training picture/);
    await end();
  });

  it.each(["trainStep", "checkFinite"] as const)("in steps without a report is found by the next %s", async (how) => {
    const { trainer, end } = makeTrainer(new Spoilt([2, 4]));
    await trainer.trainStep({ report: false });
    await trainer.trainStep({ report: false });
    await trainer.checkFinite();
    const before = await stateOf(trainer);
    for (let i = 0; i < 4; i++) await trainer.trainStep({ report: false }); // bad, good, bad, good
    expect([trainer.step, trainer.optimizer.steps]).toEqual([6, 6]);
    await expect(trainer[how]()).rejects.toThrow(/step 3: expected a finite loss/);
    expect([trainer.step, trainer.optimizer.steps]).toEqual([2, 2]);
    expectExact("state", await stateOf(trainer), before, "seed 3");
    await trainer.checkFinite();
    await end();
  });
});

describe("lossGuard", () => {
  it.each([NaN, -NaN, Infinity, -Infinity])("keeps the first bad step: %f", async (bad) => {
    await withScratch(gpu(), async (t) => {
      const guard = t.floats(new Float32Array(GUARD_BYTES / 4));
      const check = async (step: number, loss: number) => {
        lossGuard(gpu(), step, { loss: t.floats([loss, 0, 0, 0]), guard });
        return readGuard((await gpu().read(guard))[0]);
      };
      expect(await check(1, 3.4e38)).toBeNull();
      expect(await check(2, -1e-40)).toBeNull();
      expect(await check(70_000, bad)).toEqual({ what: "loss", step: 70_000, value: bad });
      expect(await check(70_001, 1)).toEqual({ what: "loss", step: 70_000, value: bad });
      expect(await check(70_002, NaN)).toEqual({ what: "loss", step: 70_000, value: bad });
    });
  });

  it("holds Adam still only where Adam is told of it", async () => {
    await withScratch(gpu(), async (t) => {
      const o = { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, t: 1 };
      const guard = t.floats(new Float32Array(GUARD_BYTES / 4));
      const gradient = t.floats([1, 2, 3, 4]);
      const moved = async (withGuard: boolean) => {
        const [parameter, m, v] = [t.floats([1, 1, 1, 1]), t.floats([0, 0, 0, 0]), t.floats([0, 0, 0, 0])];
        adam(gpu(), 1, o, { gradient, parameter, m, v, ...(withGuard && { guard }) });
        const values = await gpu().read(parameter, m, v);
        return values.map((after, i) => after[0] !== (i === 0 ? 1 : 0));
      };
      expect(await moved(true)).toEqual([true, true, true]);
      lossGuard(gpu(), 1, { loss: t.floats([NaN, 0, 0, 0]), guard });
      expect(await moved(true)).toEqual([false, false, false]);
      expect(await moved(false)).toEqual([true, true, true]);
    });
  });
});
