/** The three convolution kernels in all backends against their float64 references, over random shapes. */
import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.js";
import { availableBackends } from "../../src/kernels/conv/backend.js";
import { pconvBackwardInput, pconvBackwardInputRef } from "../../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeight, pconvBackwardWeightRef } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForward, pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { convOutputSize, type ConvShape } from "../../src/kernels/shape.js";
import { transposeWeight, transposeWeightRef } from "../../src/kernels/transposeWeight.js";
import { abs, expectClose, expectExact, rounding } from "../support/close.js";
import { randomShape } from "../support/convShapes.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const RANDOM_SHAPES = 210;

const gpu = useGpu();

/** Backends whose tiles this adapter compiles in seconds: the others on software adapters are in kernels-convTiles.test.ts. */
const backends = () => availableBackends(gpu()).filter((b) => b !== "workgroup" || !gpu().adapter.software);

interface Case {
  readonly s: ConvShape;
  readonly biased: boolean;
  /** Batch of the ratio, 0 for an ordinary convolution. */
  readonly ratioN: number;
}

/** Forward, input gradient and weight gradient of one case in all backends. */
async function check({ s, biased, ratioN }: Case, draw: Draw): Promise<void> {
  const seed = `${draw.seed}, ${JSON.stringify({ ...s, biased, ratioN })}`;
  const [p, q] = convOutputSize("test", s);
  const taps = s.kernel[0] * s.kernel[1];
  const x = draw.floats(s.n * s.h * s.w * s.c);
  const weight = draw.floats(taps * s.c * s.k);
  const bias = biased ? draw.floats(s.k) : undefined;
  const dy = draw.floats(s.n * p * q * s.k);
  const valid = draw.mask(ratioN * p * q, 0.3);
  const ratio = ratioN
    ? { scale: draw.floats(valid.length, 1, 9).map((v, i) => v * valid[i]), biasScale: valid, n: ratioN }
    : undefined;
  await withScratch(gpu(), async (t) => {
    const buffers = {
      x: t.activation(x, s.c),
      weight: t.weight(weight, taps, s.c, s.k),
      bias: bias && t.activation(bias, s.k),
      ratio: ratio && { scale: t.floats(ratio.scale), biasScale: t.floats(ratio.biasScale), n: ratioN },
    };
    const dyBuffer = t.activation(dy, s.k);
    const weightT = t.outWeight("weightT", taps, s.k, s.c);
    transposeWeight(gpu(), s, buffers.weight, weightT.storage);
    const outputs = backends().map((variant) => {
      const y = t.outActivation(`y ${variant}`, s.n * p * q, s.k);
      const dx = t.outActivation(`dx ${variant}`, s.n * s.h * s.w, s.c);
      const dw = t.outWeight(`dw ${variant}`, taps, s.c, s.k);
      pconvForward(gpu(), s, { ...buffers, y: y.storage }, variant);
      pconvBackwardInput(gpu(), s, { dy: dyBuffer, weightT: weightT.storage, dx: dx.storage }, variant);
      pconvBackwardWeight(gpu(), s, { x: buffers.x, dy: dyBuffer, dw: dw.storage }, variant);
      return [y, dx, dw];
    });
    const [transposed, ...results] = await t.read(weightT, ...outputs.flat());
    expectExact("weightT", transposed, transposeWeightRef(s, weight), seed);
    const [X, W, D] = [abs(x), abs(weight), abs(dy)];
    const want = [
      pconvForwardRef(s, x, weight, bias, ratio),
      pconvBackwardInputRef(s, dy, weight),
      pconvBackwardWeightRef(s, x, dy),
    ];
    const allowed = [
      rounding(pconvForwardRef(s, X, W, bias && abs(bias), ratio)),
      rounding(pconvBackwardInputRef(s, D, W)),
      rounding(pconvBackwardWeightRef(s, X, D)),
    ];
    results.forEach((got, i) => {
      const name = ["pconvForward", "pconvBackwardInput", "pconvBackwardWeight"][i % 3];
      expectClose(`${name} ${backends()[Math.floor(i / 3)]}`, got, want[i % 3], allowed[i % 3], seed);
    });
  });
}

describe("convolution kernels match their references", () => {
  it.each(Array.from({ length: RANDOM_SHAPES }, (_, i) => i))("random shape %i", async (i) => {
    const draw = new Draw(1, i);
    const s = randomShape(draw);
    await check({ s, biased: draw.pick([false, true]), ratioN: draw.pick([0, 1, s.n]) }, draw);
  });

  const base = {
    n: 1,
    h: 9,
    w: 11,
    c: 4,
    k: 4,
    kernel: [3, 3],
    stride: [1, 1],
    padding: [1, 1],
    dilation: [1, 1],
  } as const;
  const corners: Record<string, ConvShape> = {
    "1x1 everything": { ...base, h: 1, w: 1, c: 1, k: 1, kernel: [1, 1], padding: [0, 0] },
    "2x2 image under a 7x7 window": { ...base, h: 2, w: 2, kernel: [7, 7], padding: [3, 3], stride: [2, 2] },
    "stride wider than the image": { ...base, h: 2, w: 2, stride: [5, 5] },
    "stride wider than the kernel": { ...base, kernel: [1, 1], stride: [3, 2], padding: [0, 0] },
    "padding wider than the kernel": { ...base, kernel: [1, 2], padding: [3, 4] },
    "dilation wider than the image": { ...base, h: 4, w: 4, dilation: [5, 5], padding: [5, 5] },
    "rows and columns that no window reaches": {
      ...base,
      h: 10,
      w: 10,
      kernel: [3, 3],
      padding: [0, 0],
      stride: [4, 4],
    },
    "one column, many rows": { ...base, h: 70, w: 1, n: 2 },
    "many chunks of rows": { ...base, n: 3, h: 67, w: 5, c: 3, k: 5 },
    "more channels than two tiles": { ...base, h: 5, w: 5, c: 37, k: 41 },
  };
  it.each(Object.entries(corners))("%s", async (_, s) => {
    for (const biased of [false, true]) for (const ratioN of [0, 1]) await check({ s, biased, ratioN }, new Draw(2));
  });
});

describe("convOutputSize", () => {
  const s: ConvShape = {
    n: 1,
    h: 2,
    w: 2,
    c: 1,
    k: 1,
    kernel: [7, 7],
    stride: [1, 1],
    padding: [0, 0],
    dilation: [1, 1],
  };

  it("refuses a window larger than the padded input, with both sizes", () => {
    expect(() => convOutputSize("conv", s)).toThrow(
      "conv: expected a padded input of at least 7x7, got 2x2 with padding 0x0",
    );
    expect(() => convOutputSize("conv", s)).toThrow(ShapeError);
  });

  it.each([
    { n: 0 },
    { c: 1.5 },
    { k: NaN },
    { kernel: [0, 3] as const },
    { stride: [1, -1] as const },
    { dilation: [0, 1] as const },
    { padding: [-1, 0] as const },
  ])("refuses %j", (change) => {
    expect(() => convOutputSize("conv", { ...s, kernel: [1, 1], ...change })).toThrow(ShapeError);
  });
});
