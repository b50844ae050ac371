/** Harmonic interpolation against its float64 reference, and that against the exact solution. */
import { describe, expect, it } from "vitest";
import { harmonic, harmonicRef } from "../../src/kernels/harmonic.js";
import { diffusionFill } from "../../src/pconv/baselines.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { psnr } from "../../src/pconv/metrics.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import { expectClose, HALF_ULP } from "../support/close.js";
import { Draw, HOLE_SHARES, nanInHoles } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();

describe("harmonic", () => {
  it.each([
    { n: 1, h: 1, w: 1 },
    { n: 2, h: 5, w: 7 },
    { n: 3, h: 16, w: 9 },
    { n: 1, h: 67, w: 61 },
    { n: 2, h: 1, w: 33 },
  ])("%j", async ({ n, h, w }) => {
    for (const [i, holes] of HOLE_SHARES.entries())
      for (const masks of new Set([1, n])) {
        const draw = new Draw(350, 100 * h + i);
        const s = { n, h, w, masks };
        const mask = draw.mask(masks * h * w, holes);
        const x = nanInHoles(draw.floats(n * h * w * 3), 3, mask);
        await withScratch(gpu(), async (t) => {
          const u = t.outActivation("u", n * h * w, 3);
          harmonic(gpu(), s, { x: t.activation(x, 3), mask: t.floats(mask), u: u.storage });
          const [got] = await t.read(u);
          // Every sweep rounds anew, and adds up to two and a half times the values around.
          expectClose("u", got, harmonicRef(s, x, mask), 128 * HALF_ULP, draw.seed);
          got.forEach((v, at) => {
            if (mask[Math.floor(at / 3) % mask.length] !== 0) expect(v).toBe(x[at]);
          });
        });
      }
  });

  it("is grey where nothing is valid", () => {
    const s = { n: 1, h: 3, w: 4, masks: 1 };
    expect(new Set(harmonicRef(s, new Float32Array(36).fill(NaN), new Float32Array(12)))).toEqual(new Set([0.5]));
  });

  it("continues a constant exactly, and is as good a fill as the exact solution", async () => {
    const [images, masks] = [new DeadLeavesSource(), new RandomMaskSource()];
    let [near, exact] = [0, 0];
    for (let i = 0; i < 6; i++) {
      const truth = await images.sample(3, i, 64);
      const mask = await masks.sample(3, i, 64);
      const s = { n: 1, h: 64, w: 64, masks: 1 };
      const flat = harmonicRef(s, new Float32Array(64 * 64 * 3).fill(0.25), mask.values);
      for (const v of flat) expect(v).toBeCloseTo(0.25, 12);
      const pixels = Float32Array.from(harmonicRef(s, truth.pixels, mask.values));
      near += psnr({ ...truth, pixels }, truth) / 6;
      exact += psnr(diffusionFill(truth, mask), truth) / 6;
    }
    expect(Math.abs(near - exact)).toBeLessThan(0.3);
  });
});
