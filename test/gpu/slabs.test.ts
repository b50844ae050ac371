/** Tensors larger than a kernel can bind: the same results in parts as in one. */
import { describe, expect, it } from "vitest";
import { GpuError } from "../../src/errors.js";
import { convolve, convolveWeight } from "../../src/kernels/conv/engine.js";
import { convWindows } from "../../src/kernels/conv/windows.js";
import { pconvBackwardInputRef } from "../../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeightRef } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { convOutputSize, type ConvShape } from "../../src/kernels/shape.js";
import { slabs } from "../../src/kernels/slabs.js";
import { transposeWeight } from "../../src/kernels/transposeWeight.js";
import { abs, expectClose, rounding } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";
import { withBindingLimit } from "../support/limits.js";

const gpu = useGpu();

describe("slabs", () => {
  const images = { n: 3, h: 16, w: 8 };

  it("are one where everything can be bound, else runs of images, else rows; disjoint and complete", async () => {
    expect(slabs(gpu(), images, 16)).toEqual([{ n0: 0, n: 3, y0: 0, h: 16 }]);
    for (const limit of [16 * 8 * 16 * 2, 16 * 8 * 16, 8 * 8 * 16, 8 * 8 * 16 * 2 - 4]) {
      await withBindingLimit(gpu(), limit, async () => {
        const list = slabs(gpu(), images, 16, 2);
        const rows = new Set<number>();
        for (const s of list) {
          expect(s.n * s.h * 8 * 16).toBeLessThanOrEqual(limit);
          expect(s.n === 1 || s.h === 16).toBe(true);
          for (let r = s.n0 * 16 + s.y0; r < s.n0 * 16 + s.y0 + s.n * s.h; r++) {
            expect(rows.has(r)).toBe(false);
            rows.add(r);
          }
        }
        expect(rows.size).toBe(48);
        expect(list.length).toBeGreaterThan(1);
      });
    }
  });

  it("say so where not even a few rows fit", async () => {
    await withBindingLimit(gpu(), 64, async () => {
      expect(() => slabs(gpu(), images, 16)).toThrow(GpuError);
    });
  });
});

const shape = (over: Partial<ConvShape>): ConvShape => ({
  n: 1,
  h: 24,
  w: 16,
  c: 8,
  k: 16,
  kernel: [3, 3],
  stride: [1, 1],
  padding: [1, 1],
  dilation: [1, 1],
  ...over,
});

describe("convolutions over windows", () => {
  const CASES: readonly (readonly [name: string, s: ConvShape, limit: number, algorithm?: "winograd"])[] = [
    ["runs of images", shape({ n: 3, h: 16 }), 16 * 16 * 64 * 2],
    ["rows", shape({ n: 2 }), 24 * 16 * 64 * 0.4],
    [
      "rows, stride 2",
      shape({ n: 2, h: 48, w: 40, kernel: [5, 5], stride: [2, 2], padding: [2, 2] }),
      48 * 40 * 32 * 0.5,
    ],
    ["rows, 4x4 of stride 2", shape({ h: 48, kernel: [4, 4], stride: [2, 2], c: 16, k: 8 }), 48 * 16 * 64 * 0.4],
    ["rows, 7x7 dilated", shape({ h: 64, kernel: [7, 5], dilation: [2, 1], padding: [6, 2] }), 64 * 16 * 64 * 0.6],
    ["rows, no padding", shape({ h: 40, padding: [0, 0], k: 4, c: 16 }), 40 * 16 * 64 * 0.5],
    ["rows by Winograd", shape({ h: 40, c: 20, k: 24 }), 40 * 16 * 96 * 0.5, "winograd"],
    ["rows by Winograd, no padding", shape({ h: 40, c: 20, k: 24, padding: [0, 0] }), 40 * 16 * 96 * 0.5, "winograd"],
  ];

  it.each(CASES)("%s", async (_, s, bytes, algorithm) => {
    const limit = Math.floor(bytes / 16) * 16;
    const draw = new Draw(0x736c6162, s.h + s.c);
    const [p, q] = convOutputSize("test", s);
    const taps = s.kernel[0] * s.kernel[1];
    const x = draw.floats(s.n * s.h * s.w * s.c);
    const weight = draw.floats(taps * s.c * s.k);
    const bias = draw.floats(s.k);
    const valid = draw.mask(p * q, 0.3);
    const scale = draw.floats(p * q, 1, 9).map((v, i) => v * valid[i]);
    const dy = draw.floats(s.n * p * q * s.k).map((v, i) => v * valid[Math.floor(i / s.k) % (p * q)]);
    await withScratch(gpu(), async (t) => {
      const weightBuffer = t.weight(weight, taps, s.c, s.k);
      const weightT = gpu().alloc(weightBuffer.bytes, "weightT");
      transposeWeight(gpu(), s, weightBuffer, weightT);
      const [xBuffer, dyBuffer, biasBuffer] = [t.activation(x, s.c), t.activation(dy, s.k), t.activation(bias, s.k)];
      const ratio = { scale: t.floats(scale), biasScale: t.floats(valid), n: 1 };
      const live = { mask: ratio.scale, n: 1 };
      const y = t.outActivation("y", s.n * p * q, s.k);
      const dx = t.outActivation("dx", s.n * s.h * s.w, s.c);
      const dw = t.outWeight("dw", taps, s.c, s.k);
      await withBindingLimit(gpu(), limit, async () => {
        for (const direction of ["forward", "backwardInput"] as const) {
          expect(convWindows(gpu(), s, direction).length).toBeGreaterThan(1);
        }
        const forward = { src: xBuffer, weight: weightBuffer, bias: biasBuffer, dst: y.storage, scale: ratio, live };
        convolve(gpu(), s, "forward", forward, {}, algorithm);
        convolve(gpu(), s, "backwardInput", { src: dyBuffer, weight: weightT, dst: dx.storage }, {}, algorithm);
        convolveWeight(gpu(), s, { x: xBuffer, dy: dyBuffer, dw: dw.storage, live }, algorithm);
        await gpu().sync();
      });
      const [yGot, dxGot, dwGot] = await t.read(y, dx, dw);
      gpu().free(weightT);
      const ratioRef = { scale, biasScale: valid, n: 1 };
      const ulps = algorithm ? 64 : 16;
      const sizes = pconvForwardRef(s, abs(x), abs(weight), abs(bias), ratioRef);
      expectClose("y", yGot, pconvForwardRef(s, x, weight, bias, ratioRef), rounding(sizes, ulps), draw.seed);
      const dxSizes = pconvBackwardInputRef(s, abs(dy), abs(weight));
      expectClose("dx", dxGot, pconvBackwardInputRef(s, dy, weight), rounding(dxSizes, ulps), draw.seed);
      const dwSizes = pconvBackwardWeightRef(s, abs(x), abs(dy));
      expectClose("dw", dwGot, pconvBackwardWeightRef(s, x, dy), rounding(dwSizes, ulps), draw.seed);
    });
  });
});
