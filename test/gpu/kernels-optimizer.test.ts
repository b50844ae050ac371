/** What stands around Adam: the norm of the gradients and its clipping, and the moving average. */
import { describe, expect, it } from "vitest";
import { adam, adamRef } from "../../src/kernels/adam.js";
import { gradientNorm, gradientNormRef } from "../../src/kernels/gradientNorm.js";
import { GUARD_BYTES, readGuard } from "../../src/kernels/lossGuard.js";
import { SCALE_STATE, SCALE_STATE_BYTES } from "../../src/kernels/lossScale.js";
import { movingAverage, movingAverageRef } from "../../src/kernels/movingAverage.js";
import { expectClose, expectExact, rounding, abs } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();

describe("gradientNorm", () => {
  const draw = new Draw(4100);
  const sizes = [4, 52, 40_000, 4 * 70_001];
  const gradients = sizes.map((size, i) => draw.floats(size).map((v) => v * 10 ** (i - 2)));

  it.each([null, 1e9, 0.5])("is that of all parameters together; clipped to %s", async (most) => {
    await withScratch(gpu(), async (t) => {
      const [control, norm] = [t.floats(new Float32Array(GUARD_BYTES / 4)), t.floats([0, 0, 0, 0])];
      const all = gradients.map((g) => ({ storage: t.floats(g), vec4s: g.length / 4 }));
      gradientNorm(gpu(), { step: 5, most, scaled: false }, { gradients: all, control, norm });
      const want = gradientNormRef(gradients, most);
      const [got, guard] = await gpu().read(norm, control);
      expectClose("norm and factor", got.subarray(0, 2), want, rounding(abs(Float64Array.from(want)), 8), draw.seed);
      expect(readGuard(guard)).toBeNull();
      expect(guard[3]).toBe(got[1]);
    });
  });

  it.each([NaN, Infinity, -Infinity])("of gradients with %f sets the guard, once", async (bad) => {
    await withScratch(gpu(), async (t) => {
      const [control, norm] = [t.floats(new Float32Array(GUARD_BYTES / 4)), t.floats([0, 0, 0, 0])];
      const run = async (step: number, values: Float32Array) => {
        const all = [{ storage: t.floats(values), vec4s: values.length / 4 }];
        gradientNorm(gpu(), { step, most: 1, scaled: false }, { gradients: all, control, norm });
        return readGuard((await gpu().read(control))[0]);
      };
      expect(await run(1, gradients[0])).toBeNull();
      const spoilt = gradients[1].slice();
      spoilt[17] = bad;
      const first = { what: "gradient", step: 2, value: Number.isNaN(bad) ? NaN : Infinity };
      expect(await run(2, spoilt)).toEqual(first);
      expect(await run(3, gradients[0])).toEqual(first);
    });
  });

  it("with loss scaling is that of the unscaled gradients, and the factor goes into what they are multiplied with", async () => {
    await withScratch(gpu(), async (t) => {
      const state = new Float32Array(SCALE_STATE_BYTES / 4);
      state[SCALE_STATE.inverse] = 1 / 1024;
      const [control, norm] = [t.floats(state), t.floats([0, 0, 0, 0])];
      const all = [{ storage: t.floats(gradients[1].map((v) => 1024 * v)), vec4s: gradients[1].length / 4 }];
      gradientNorm(gpu(), { step: 1, most: 0.1, scaled: true }, { gradients: all, control, norm });
      const [total, factor] = gradientNormRef([gradients[1]], 0.1);
      const [got, after] = await gpu().read(norm, control);
      expectClose("norm", got.subarray(0, 1), [total], 1e-6 * total, draw.seed);
      expectClose("inverse", after.subarray(1, 2), [factor / 1024], (1e-6 * factor) / 1024, draw.seed);
    });
  });

  it("Adam steps along the clipped gradient", async () => {
    const o = { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-3, t: 1 };
    const gradient = gradients[1];
    const zeros = () => new Float64Array(gradient.length);
    await withScratch(gpu(), async (t) => {
      const [guard, norm] = [t.floats(new Float32Array(GUARD_BYTES / 4)), t.floats([0, 0, 0, 0])];
      const [g, p, m, v] = [gradient, zeros(), zeros(), zeros()].map((values) => t.floats(Float32Array.from(values)));
      const vec4s = gradient.length / 4;
      gradientNorm(gpu(), { step: 1, most: 0.01, scaled: false }, { gradients: [{ storage: g, vec4s }], control: guard, norm }); // prettier-ignore
      adam(gpu(), vec4s, o, { parameter: p, gradient: g, m, v, guard, clipped: true });
      const [, factor] = gradientNormRef([gradient], 0.01);
      const [want, wantM, wantV] = [zeros(), zeros(), zeros()];
      adamRef(o, want, gradient.map((x) => x * factor), wantM, wantV); // prettier-ignore
      const [got] = await gpu().read(p);
      expectClose("p", got, want, 1e-5 * o.lr, draw.seed);
    });
  });
});

describe("movingAverage", () => {
  it("follows the reference, and holds still where the guard is set", async () => {
    const draw = new Draw(4200);
    const [parameter, start] = [draw.floats(36), draw.floats(36)];
    await withScratch(gpu(), async (t) => {
      const average = t.floats(start);
      const run = async (held: boolean) => {
        const guard = t.floats(held ? [1, 0, 0, 0] : [0, 0, 0, 0]);
        movingAverage(gpu(), 9, 0.75, { parameter: t.floats(parameter), guard, average });
        return (await gpu().read(average))[0];
      };
      expectExact("held", await run(true), start, draw.seed);
      const want = Float64Array.from(start);
      movingAverageRef(0.75, parameter, want);
      expectClose("average", await run(false), want, rounding(abs(want).map((x) => x + 1), 4), draw.seed); // prettier-ignore
    });
  });
});
