/** Tensors larger than a kernel can bind: the same results in parts as in one. */
import { describe, expect, it } from "vitest";
import { leakyRelu } from "../../src/autograd/ops/activation.js";
import { conv2d } from "../../src/autograd/ops/conv2d.js";
import { maxPool2d } from "../../src/autograd/ops/maxPool2d.js";
import { pconv2d } from "../../src/autograd/ops/pconv2d.js";
import { reluPool2d } from "../../src/autograd/ops/reluPool2d.js";
import { Tape } from "../../src/autograd/tape.js";
import { type Mask, Tensor } from "../../src/autograd/tensor.js";
import { GpuError } from "../../src/errors.js";
import { Parameter } from "../../src/nn/parameter.js";
import { convolve, convolveWeight } from "../../src/kernels/conv/engine.js";
import { convWindows } from "../../src/kernels/conv/windows.js";
import { pconvBackwardInputRef } from "../../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeightRef } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { convOutputSize, type ConvShape } from "../../src/kernels/shape.js";
import { slabs } from "../../src/kernels/slabs.js";
import { transposeWeight } from "../../src/kernels/transposeWeight.js";
import { abs, expectClose, rounding, tileRounding } from "../support/close.js";
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

describe("ops on tensors larger than can be bound", () => {
  type Op = (tape: Tape, x: Tensor, mask: Mask) => { readonly y: Tensor; readonly leaves?: readonly Tensor[] };
  const parameter = (shape: readonly number[], draw: Draw) =>
    new Parameter(gpu(), shape, "parameter", draw.floats(shape.reduce((a, b) => a * b)));
  const one = [1, 1] as const;
  const OPS: readonly (readonly [name: string, maskN: number, op: Op])[] = [
    ...[1, 3].map(
      (maskN) =>
        [
          `partial convolution, batch norm and activation, mask of ${maskN}`,
          maskN,
          (tape: Tape, x: Tensor, mask: Mask) => {
            const draw = new Draw(1);
            const [weight, gamma, beta] = [
              parameter([12, 8, 3, 3], draw),
              parameter([12], draw),
              parameter([12], draw),
            ];
            const [runningMean, runningVar] = [parameter([12], draw), parameter([12], draw)];
            const options = { eps: 1e-5, momentum: 0.1, mode: "batch", statistics: "valid", holes: "zero" } as const;
            const batchNorm = { tensors: { gamma, beta, runningMean, runningVar }, options };
            const geometry = {
              stride: one,
              padding: one,
              dilation: one,
              convention: "paper",
              multiChannel: true,
            } as const;
            const { y } = pconv2d(tape, x, mask, weight, null, { ...geometry, batchNorm, slope: 0.2 });
            return { y, leaves: [weight, gamma, beta] };
          },
        ] as const,
    ),
    [
      "partial convolution with bias and activation",
      1,
      (tape, x, mask) => {
        const [weight, bias] = [parameter([12, 8, 3, 3], new Draw(2)), parameter([12], new Draw(3))];
        const geometry = { stride: one, padding: one, dilation: one, convention: "paper", multiChannel: true } as const;
        const { y } = pconv2d(tape, x, mask, weight, bias, { ...geometry, slope: 0 });
        return { y, leaves: [weight, bias] };
      },
    ],
    [
      "convolution with constant weights, ReLU and pool",
      1,
      (tape, x) => {
        const weight = parameter([12, 8, 3, 3], new Draw(4));
        weight.requiresGrad = false;
        const geometry = { stride: one, padding: one, dilation: one };
        return { y: reluPool2d(tape, conv2d(tape, conv2d(tape, x, weight, null, { ...geometry, slope: 0 }), parameterOf12(), null, geometry)) }; // prettier-ignore
      },
    ],
    ["max pool", 1, (tape, x) => ({ y: maxPool2d(tape, x) })],
    ["leaky ReLU", 1, (tape, x) => ({ y: leakyRelu(tape, x) })],
  ];
  const parameterOf12 = () => {
    const weight = parameter([8, 12, 3, 3], new Draw(5));
    weight.requiresGrad = false;
    return weight;
  };

  it.each(OPS)("%s", async (_, maskN, op) => {
    const draw = new Draw(0x6f707321, maskN);
    const s = { n: 3, h: 64, w: 16, c: 8 };
    const values = draw.floats(s.n * s.h * s.w * s.c);
    const valid = draw.mask(maskN * s.h * s.w, 0.4);
    const run = async () => {
      const tape = new Tape(gpu());
      const x = Tensor.from(gpu(), s, values, "x");
      x.requiresGrad = true;
      const { y, leaves = [] } = op(tape, x, tape.uploadMask({ ...s, n: maskN }, valid));
      tape.keep(y);
      const dy = new Draw(6).floats(y.shape.n * y.shape.h * y.shape.w * y.shape.c);
      tape.backward(y, tape.upload(y.shape, dy, "dy"));
      const results = [await y.values(), ...(await Promise.all([x, ...leaves].map((l) => l.grad!.values())))];
      tape.dispose();
      x.grad?.free();
      x.free();
      for (const leaf of leaves) leaf.free();
      return results;
    };
    const whole = await run();
    // One and a half images of the widest tensor, and half an image of it.
    for (const images of [1.5, 0.5]) {
      const parts = await withBindingLimit(gpu(), 64 * 16 * 48 * images, run);
      parts.forEach((got, i) => {
        const size = whole[i].reduce((a, v) => Math.max(a, Math.abs(v)), 0);
        expectClose(`result ${i} in parts of ${images}`, got, whole[i], 1e-5 * size, draw.seed);
      });
    }
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
  const winograd = { h: 40, c: 20, k: 24 } as const;
  const CASES: readonly { name: string; s: ConvShape; bytes: number; algorithm?: "winograd2x2" | "winograd4x4" }[] = [
    { name: "runs of images", s: shape({ n: 3, h: 16 }), bytes: 16 * 16 * 64 * 2 },
    { name: "rows", s: shape({ n: 2 }), bytes: 24 * 16 * 64 * 0.4 },
    {
      name: "rows, stride 2",
      s: shape({ n: 2, h: 48, w: 64, kernel: [5, 5], stride: [2, 2], padding: [2, 2] }),
      bytes: 48 * 64 * 32 * 0.5,
    },
    {
      name: "rows, 4x4 of stride 2",
      s: shape({ h: 96, kernel: [4, 4], stride: [2, 2], c: 16, k: 8 }),
      bytes: 96 * 16 * 64 * 0.4,
    },
    {
      name: "rows, 7x7 dilated",
      s: shape({ h: 64, kernel: [7, 5], dilation: [2, 1], padding: [6, 2] }),
      bytes: 64 * 16 * 64 * 0.6,
    },
    // Rows of which only every 32nd starts where a binding may.
    { name: "rows, no padding", s: shape({ h: 160, w: 18, padding: [0, 0], k: 4, c: 16 }), bytes: 160 * 18 * 64 * 0.5 },
    { name: "rows by Winograd", s: shape(winograd), bytes: 40 * 16 * 96 * 0.5, algorithm: "winograd2x2" },
    {
      name: "rows by Winograd of larger tiles, no padding",
      s: shape({ ...winograd, h: 160, w: 18, padding: [0, 0] }),
      bytes: 160 * 18 * 96 * 0.5,
      algorithm: "winograd4x4",
    },
  ];

  it.each(CASES)("$name", async ({ s, bytes, algorithm }) => {
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
      expectClose(
        "dx",
        dxGot,
        pconvBackwardInputRef(s, dy, weight),
        (algorithm === "winograd4x4" ? tileRounding : rounding)(dxSizes, ulps),
        draw.seed,
      );
      const dwSizes = pconvBackwardWeightRef(s, abs(x), abs(dy));
      expectClose("dw", dwGot, pconvBackwardWeightRef(s, x, dy), rounding(dwSizes, ulps), draw.seed);
    });
  });
});
