/** Half-precision activations: the network and training against float32, overflows, resuming, and adapters without. */
import { describe, expect, it } from "vitest";
import { Tape } from "../../src/autograd/tape.js";
import type { Precision } from "../../src/autograd/tensor.js";
import { UserError } from "../../src/errors.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { InpaintingLoss, type LossTerm } from "../../src/pconv/loss.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import { Trainer, type TrainerConfig } from "../../src/pconv/trainer.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { Vgg } from "../../src/pconv/vgg.js";
import { usablePrecision } from "../../tools/train/session.js";
import { expectExact } from "../support/close.js";
import { Draw, nanInHoles } from "../support/draw.js";
import { useGpu } from "../support/gpu.js";
import { withBindingLimit } from "../support/limits.js";
import { tinyVggState } from "../support/tinyVgg.js";

const gpu = useGpu();

/** Runs a test where there is half precision, and says so where not. */
const withHalf = (run: () => Promise<void>) => async () => {
  if (!gpu().half) return console.warn("this adapter has no half precision");
  await run();
};

const SIZE = 32;
const PIXELS = SIZE * SIZE;
const CHANNELS = [8, 12, 24];

/** Output and parameter gradients of a U-Net on a batch of two, for the gradient of the output times `scale`. */
async function step(precision: Precision, channels: readonly number[]) {
  const scale = 256;
  const draw = new Draw(990);
  const mask = draw.mask(2 * PIXELS, 0.3).map((v, i) => (i % SIZE > 20 && i % PIXELS < PIXELS / 2 ? 0 : v));
  const x = nanInHoles(draw.floats(6 * PIXELS, 0, 1), 3, mask);
  const dy = draw.floats(6 * PIXELS, 0, 1).map((v) => v * scale);
  const model = new PConvUNet(gpu(), { channels }, 1);
  const tape = new Tape(gpu(), { grad: true, precision });
  const image = { n: 2, h: SIZE, w: SIZE, c: 3 };
  const before = gpu().memory().inUse;
  const { output } = model.forward(tape, tape.upload(image, x, "x"), tape.uploadMask(image, mask));
  const bytes = gpu().memory().inUse - before;
  const y = await output.values();
  tape.backward(output, tape.upload(image, dy, "dy"));
  const gradients = new Map<string, Float32Array>();
  for (const [name, p] of model.namedParameters()) {
    expect(p.grad!.half).toBe(false);
    gradients.set(name, (await p.grad!.values()).map((v) => v / scale)); // prettier-ignore
  }
  expect(output.half).toBe(false);
  tape.dispose();
  model.free();
  return { y, gradients, bytes };
}

/** |a - b| / |b|, Euclidean. */
function relative(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [above, below] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    above += (a[i] - b[i]) ** 2;
    below += b[i] ** 2;
  }
  return Math.sqrt(above / below);
}

describe("a U-Net with half-precision activations", () => {
  it(
    "gives the output and gradients of float32, up to the rounding of float16, in less memory",
    withHalf(async () => {
      const [full, half] = [await step("f32", CHANNELS), await step("f16", CHANNELS)];
      // Measured: output 1.3e-4; gradients 4e-5 behind the last activation, 0.03 to 0.06 before it: where rounding turns the sign of
      // an activation's input (about one in 2000), its gradient changes by its whole size, and errors count as roots of such shares.
      expect(relative(half.y, full.y)).toBeLessThan(1e-3);
      expect(relative(half.y, full.y)).toBeGreaterThan(0);
      for (const [name, g] of full.gradients) {
        const behind = name.startsWith("dec_1");
        expect(relative(half.gradients.get(name)!, g), name).toBeLessThan(behind ? 2e-4 : 0.12);
      }
      expect(half.bytes / full.bytes).toBeLessThan(0.9);
    }),
  );

  it(
    "is the same where tensors are larger than a kernel can bind",
    withHalf(async () => {
      // Weights are not split: they must be small.
      const whole = await step("f16", [4, 8]);
      const parts = await withBindingLimit(gpu(), 16384, () => step("f16", [4, 8]));
      expectExact("y", parts.y, whole.y, "990");
      for (const [name, g] of whole.gradients) expect(relative(parts.gradients.get(name)!, g), name).toBeLessThan(1e-5);
    }),
  );
});

interface Setup extends Partial<Pick<TrainerConfig, "precision" | "lossScaling">> {
  readonly weights?: Partial<Record<LossTerm, number>>;
  readonly vgg?: boolean;
}

function makeTrainer({ precision = "f16", lossScaling = {}, weights = {}, vgg: withVgg = true }: Setup = {}) {
  const model = new PConvUNet(gpu(), { width: 0.1, depth: 3 }, 1);
  const vgg = withVgg ? new Vgg(gpu(), tinyVggState()) : null;
  const trainer = new Trainer({
    model,
    loss: new InpaintingLoss({ vgg, weights }),
    images: new DeadLeavesSource(),
    masks: new RandomMaskSource(),
    imageSize: SIZE,
    batchSize: 1,
    lr: 1e-3,
    seed: 3,
    freezeBatchNorm: "none",
    precision,
    lossScaling,
  });
  const end = async () => {
    await trainer.close();
    model.free();
    vgg?.free();
  };
  return { trainer, model, end };
}

/** Parameters, statistics and moments. */
async function stateOf(trainer: Trainer): Promise<Map<string, Float32Array>> {
  const state = [...(await trainer.config.model.stateDict()), ...(await trainer.optimizer.stateDict())];
  return new Map(state.map(([name, t]) => [name, Float32Array.from(t.values as Float32Array, Number)]));
}

const loadable = (
  state: ReadonlyMap<string, Float32Array>,
  like: ReadonlyMap<string, { readonly shape: readonly number[] }>,
) => new Map([...like].map(([name, { shape }]) => [name, { shape, toFloat32: () => state.get(name)! }]));

describe("training with half-precision activations", () => {
  it(
    "follows the loss of float32 for 60 steps",
    withHalf(async () => {
      const curves: number[][] = [];
      for (const precision of ["f32", "f16"] as const) {
        // The terms of a loss network with random weights drive such small pictures to and fro, and part any two curves.
        const { trainer, end } = makeTrainer({ precision, vgg: false });
        const losses: number[] = [];
        for (let i = 0; i < 60; i++) {
          const report = await trainer.trainStep();
          losses.push(report.loss);
          expect(report.skipped).toBe(precision === "f16" ? 0 : undefined);
        }
        curves.push(losses);
        await end();
      }
      const [full, half] = curves;
      // Measured: 0.002; single steps up to 0.009.
      expect(relative(half, full)).toBeLessThan(0.02);
      expect(half.every((v, i) => v === full[i])).toBe(false);
    }),
  );

  it(
    "skips steps whose gradients overflow, halves the scale, and doubles it again",
    withHalf(async () => {
      const { trainer, end } = makeTrainer({ lossScaling: { initialScale: 2 ** 24, interval: 2 } });
      const before = await stateOf(trainer);
      const first = await trainer.trainStep();
      expect(first).toMatchObject({ step: 1, lossScale: 2 ** 23, skipped: 1 });
      const after = await stateOf(trainer);
      for (const [name] of [...before].filter(([n]) => !/running|tracked|steps|scaler/.test(n))) {
        expectExact(`${name} after a skipped step`, after.get(name)!, before.get(name)!, "990");
      }
      let [previous, doubled] = [first, 0];
      for (let i = 0; i < 30; i++) {
        const report = await trainer.trainStep();
        expect(Number.isFinite(report.loss)).toBe(true);
        if (report.skipped! > previous.skipped!) expect(report.lossScale).toBe(previous.lossScale! / 2);
        else if (report.lossScale !== previous.lossScale) {
          expect(report.lossScale).toBe(previous.lossScale! * 2);
          doubled++;
        }
        previous = report;
      }
      expect(doubled).toBeGreaterThan(2);
      expect((await stateOf(trainer)).get("enc_1.conv.weight")).not.toEqual(before.get("enc_1.conv.weight"));
      await end();
    }),
  );

  it(
    "stops when gradients overflow at any scale",
    withHalf(async () => {
      const { trainer, end } = makeTrainer({ lossScaling: { initialScale: 2 ** -12 }, weights: { hole: 1e30 } });
      await trainer.trainStep();
      await trainer.trainStep();
      await expect(trainer.trainStep()).rejects.toThrow(
        /step 3: expected finite gradients, got an overflow in every step/,
      );
      await expect(trainer.checkFinite()).rejects.toThrow(UserError);
      await end();
    }),
  );

  it(
    "goes on bit for bit from what a checkpoint holds, skipped steps and all",
    withHalf(async () => {
      const lossScaling = { initialScale: 2 ** 20, interval: 3 };
      const [a, b] = [makeTrainer({ lossScaling }), makeTrainer({ lossScaling })];
      for (let i = 0; i < 9; i++) await a.trainer.trainStep();
      const [saved, step] = [await stateOf(a.trainer), a.trainer.step];
      expect(saved.get("scaler.skipped")![0]).toBeGreaterThan(0);
      b.model.loadStateDict(loadable(saved, await b.model.stateDict()));
      b.trainer.optimizer.loadStateDict(loadable(saved, await b.trainer.optimizer.stateDict()));
      b.trainer.step = step;
      for (let i = 0; i < 6; i++) expect(await b.trainer.trainStep()).toEqual(await a.trainer.trainStep());
      expect(await stateOf(b.trainer)).toEqual(await stateOf(a.trainer));
      await a.end();
      await b.end();
    }),
  );
});

describe("an adapter without half precision", () => {
  /** The same device, as if the feature had not been granted. */
  const without = (): Gpu => Object.create(gpu(), { half: { value: false } }) as Gpu;

  it("trains with float32, and says so once", () => {
    const warnings: string[] = [];
    const warn = (text: string) => warnings.push(text);
    expect(usablePrecision(without(), "f16", warn)).toBe("f32");
    expect(warnings).toEqual(["--precision f16: this adapter has no half precision (shader-f16); training with f32"]);
    expect(usablePrecision(without(), "f32", warn)).toBe("f32");
    expect(usablePrecision({ half: true }, "f16", warn)).toBe("f16");
    expect(warnings).toHaveLength(1);
  });

  it("refuses half storage", () => {
    const tape = new Tape(without(), { grad: true, precision: "f16" });
    expect(() => tape.alloc({ n: 1, h: 1, w: 1, c: 4 }, "x", true)).toThrow(
      /x: expected an adapter with half precision \(shader-f16\), got one without/,
    );
    tape.dispose();
  });
});
