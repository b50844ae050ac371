/** Loss scaling: the kernels against their references, and what Adam makes of it. */
import { describe, expect, it } from "vitest";
import { Tensor } from "../../src/autograd/tensor.js";
import { gradientCheck, gradientCheckRef } from "../../src/kernels/gradientCheck.js";
import { GUARD_BYTES } from "../../src/kernels/lossGuard.js";
import { lossScale, lossScaleRef, readScale, SCALE_STATE, scaleWords } from "../../src/kernels/lossScale.js";
import { Parameter } from "../../src/nn/parameter.js";
import { Adam } from "../../src/optim/adam.js";
import { LossScaler } from "../../src/optim/lossScaler.js";
import { expectClose, expectExact } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();
const S = SCALE_STATE;

describe("gradientCheck", () => {
  it.each([
    ["finite", null],
    ["NaN", NaN],
    ["-NaN", -NaN],
    ["Infinity", Infinity],
    ["-Infinity", -Infinity],
  ] as const)("%s", async (_, bad) => {
    await withScratch(gpu(), async (t) => {
      for (const [length, at] of [
        [4, 0],
        [8, 7],
        [4000, 3998],
      ]) {
        // The largest and the smallest finite values are no overflow.
        const values = Float32Array.from({ length }, (__, i) => [3.4028234e38, -3.4028234e38, 0, 1e-45][i % 4]);
        if (bad !== null) values[at] = bad;
        const state = t.floats(new Float32Array(8));
        gradientCheck(gpu(), length / 4, { gradient: t.floats(values), state });
        const [words] = await gpu().read(state);
        expect([...new Uint32Array(words.buffer, words.byteOffset, 8)]).toEqual([
          0,
          0,
          0,
          0,
          Number(gradientCheckRef(values)),
          0,
          0,
          0,
        ]);
      }
    });
  });
});

describe("lossScale", () => {
  it("follows the reference over 60 steps, skipped ones among them", async () => {
    const draw = new Draw(900);
    await withScratch(gpu(), async (t) => {
      const guard = t.floats(new Float32Array(GUARD_BYTES / 4));
      const state = t.floats(new Float32Array(8));
      let progress = { scale: 2 ** 16, good: 0, skipped: 0 };
      gpu().write(state, scaleWords(progress));
      const scale = t.floats([progress.scale, 0, 0, 0]);
      for (let steps = 1; steps <= 60; steps++) {
        const found = draw.floats(1, 0, 1)[0] < 0.2;
        const o = { steps, interval: 4, beta1: 0.9, beta2: 0.999 };
        if (found) gradientCheck(gpu(), 1, { gradient: t.floats([0, 0, Infinity, 0]), state });
        lossScale(gpu(), o, { guard, state, scale });
        const [words, next] = await gpu().read(state, scale);
        const bits = new Uint32Array(words.buffer, words.byteOffset, 8);
        const { after, corrections } = lossScaleRef(o, progress, found);
        expect(readScale(words), `step ${steps}`).toEqual(after);
        expectExact("scale", next, [after.scale, 0, 0, 0], draw.seed);
        expect([bits[S.hold], bits[S.found]]).toEqual([Number(found), 0]);
        if (corrections) {
          expectExact("inverse", [words[S.inverse]], [1 / progress.scale], draw.seed);
          const got = [words[S.stepCorrection], words[S.rootCorrection]];
          expectClose("corrections", got, corrections, corrections.map((c) => 4e-7 * c), draw.seed); // prettier-ignore
        }
        progress = after;
      }
      expect(progress.skipped).toBeGreaterThan(3);
    });
  });

  it.each([1, 2, 30, 499, 500, 501, 5000, 100_000, 2_000_000])(
    "has all digits of the corrections at t = %i",
    async (t) => {
      await withScratch(gpu(), async (scratch) => {
        const o = { steps: t, interval: 2000, beta1: 0.9, beta2: 0.999 };
        const state = scratch.floats(new Float32Array(8));
        const scale = scratch.floats([1, 0, 0, 0]);
        lossScale(gpu(), o, { guard: scratch.floats([0, 0, 0, 0]), state, scale });
        const [words] = await gpu().read(state);
        const want = lossScaleRef(o, { scale: 1, good: 0, skipped: 0 }, false).corrections!;
        const got = [words[S.stepCorrection], words[S.rootCorrection]];
        expectClose("corrections", got, want, want.map((c) => 4e-7 * c), `t = ${t}`); // prettier-ignore
      });
    },
  );

  it("counts a step that the loss guard holds in neither way", async () => {
    await withScratch(gpu(), async (t) => {
      const progress = { scale: 1024, good: 3, skipped: 2 };
      const state = t.floats(new Float32Array(8));
      gpu().write(state, scaleWords(progress));
      const scale = t.floats([1024, 0, 0, 0]);
      gradientCheck(gpu(), 1, { gradient: t.floats([NaN, 0, 0, 0]), state });
      const guard = t.floats([1, 0, 0, 0]);
      lossScale(gpu(), { steps: 9, interval: 4, beta1: 0.9, beta2: 0.999 }, { guard, state, scale });
      const [words, next] = await gpu().read(state, scale);
      expect(readScale(words)).toEqual(progress);
      expect(next[0]).toBe(1024);
      expect(
        [...new Uint32Array(words.buffer, words.byteOffset, 5)].map((w, i) => (i === 0 || i === 4 ? w : 0)),
      ).toEqual([1, 0, 0, 0, 0]);
    });
  });
});

describe("Adam with a scaler", () => {
  const initial = Float32Array.from({ length: 12 }, (_, i) => i / 7 - 1);

  /** One parameter, whose gradients are given in units of the loss. */
  function make(scaled: boolean) {
    const parameter = new Parameter(gpu(), [12], "p", initial);
    const scaler = scaled ? new LossScaler(gpu(), { initialScale: 512, interval: 3 }) : undefined;
    const adam = new Adam([["p", parameter]], { lr: 1e-2, scaler });
    const step = async (gradient: ArrayLike<number>, guard?: Tensor) => {
      const scale = scaler ? (await scaler.progress()).scale : 1;
      const scaledUp = Float32Array.from(gradient, (g) => g * scale);
      parameter.grad = Tensor.from(gpu(), parameter.shape, scaledUp, "gradient");
      adam.step(guard?.storage);
      return (await parameter.values()).slice();
    };
    const free = () => {
      adam.free();
      parameter.free();
    };
    return { parameter, adam, step, free };
  }

  it("takes the steps of unscaled Adam, as if the skipped ones had not been", async () => {
    const draw = new Draw(901);
    const [plain, scaled] = [make(false), make(true)];
    for (let i = 0; i < 12; i++) {
      const gradient = draw.floats(12);
      if (i % 4 === 1) {
        const overflown = gradient.map((g, j) => (j === 11 ? Infinity : g));
        const state = await scaled.adam.stateDict();
        const held = await scaled.step(overflown);
        expectExact("parameter of a skipped step", held, await plain.parameter.values(), draw.seed);
        const after = await scaled.adam.stateDict();
        for (const key of ["m.p", "v.p"]) {
          expectExact(key, after.get(key)!.values as Float32Array, state.get(key)!.values as Float32Array, draw.seed);
        }
      }
      const want = await plain.step(gradient);
      const got = await scaled.step(gradient);
      expectClose("parameter", got, want, 1e-7 * (1 + i), draw.seed);
      // From here on both are one, so that differences do not add up.
      scaled.parameter.set(want);
    }
    const { skipped, scale } = await scaled.adam.scaler!.progress();
    // Each halving is followed by three good steps and so by a doubling.
    expect(skipped).toBe(3);
    expect(scale).toBe(512);
    plain.free();
    scaled.free();
  });

  it("restores the scale, its count and the skipped steps, and refuses a state without them", async () => {
    const gradient = new Draw(902).floats(12);
    const [a, b] = [make(true), make(true)];
    await a.step(gradient);
    await a.step(gradient.map(() => NaN));
    await a.step(gradient);
    const state = await a.adam.stateDict();
    const loadable = new Map(
      [...state].map(([name, t]) => [
        name,
        { ...t, toFloat32: () => Float32Array.from(t.values as Float32Array, Number) },
      ]),
    );
    b.adam.loadStateDict(loadable);
    b.parameter.set(await a.parameter.values());
    expect(await b.adam.scaler!.progress()).toEqual({ scale: 256, good: 1, skipped: 1 });
    for (let i = 0; i < 3; i++) expectExact(`step ${i}`, await b.step(gradient), await a.step(gradient), "902");
    expect(await b.adam.scaler!.progress()).toEqual(await a.adam.scaler!.progress());
    const before = await b.adam.stateDict();
    loadable.delete("scaler.good");
    expect(() => b.adam.loadStateDict(loadable, "optimizer.safetensors")).toThrow(
      /optimizer.safetensors: expected scaler.good of a run with half precision, got none/,
    );
    expect(await b.adam.stateDict()).toEqual(before);
    a.free();
    b.free();
  });
});
