/**
 * The partial convolution layer as a chain of kernels, forward and backward, against the chain of references: all
 * conventions, mask groups and hole shares, with NaN under the holes.
 */
import { describe, expect, it } from "vitest";
import { channelSum, channelSumRef } from "../../src/kernels/channelSum.js";
import { maskMultiply, maskMultiplyRef } from "../../src/kernels/maskMultiply.js";
import {
  maskUpdate,
  maskUpdateRef,
  type MaskUpdateShape,
  type MaskUpdateSpec,
  type PConvConvention,
} from "../../src/kernels/maskUpdate.js";
import { maskUpdateUp, maskUpdateUpRef } from "../../src/kernels/maskUpdateUp.js";
import { pconvBackwardInput, pconvBackwardInputRef } from "../../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeight, pconvBackwardWeightRef } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForward, pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { pixelScale, pixelScaleRef } from "../../src/kernels/pixelScale.js";
import { convOutputSize, type ConvShape } from "../../src/kernels/shape.js";
import { transposeWeight } from "../../src/kernels/transposeWeight.js";
import { abs, expectClose, expectExact, HALF_ULP, rounding } from "../support/close.js";
import { Draw, HOLE_SHARES, nanInHoles } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();

interface Layer {
  readonly s: ConvShape;
  readonly spec: MaskUpdateSpec;
  /** Mask group of every channel. */
  readonly groupOf: readonly number[];
  readonly maskN: number;
  readonly holes: number;
  readonly fractions: boolean;
}

async function checkLayer({ s, spec, groupOf, maskN, holes, fractions }: Layer, draw: Draw): Promise<void> {
  const seed = `${draw.seed}, ${JSON.stringify({ ...s, ...spec, groupOf, maskN, holes, fractions })}`;
  const [p, q] = convOutputSize("test", s);
  const taps = s.kernel[0] * s.kernel[1];
  const groups = Math.max(...groupOf) + 1;
  const groupWeight = Float32Array.from({ length: groups }, (_, g) => groupOf.filter((v) => v === g).length);
  const maskShape: MaskUpdateShape = { ...s, n: maskN, c: groups, k: 1, channels: s.c };

  const mask = draw.mask(maskN * s.h * s.w * groups, holes, fractions);
  const x = nanInHoles(draw.floats(s.n * s.h * s.w * s.c), s.c, mask, groups, groupOf);
  const weight = draw.floats(taps * s.c * s.k);
  const bias = spec.biased ? draw.floats(s.k) : undefined;
  const layer = maskUpdateRef(maskShape, spec, mask, groupWeight);
  // What arrives from above in a hole of the output must not count; PConv-Keras alone has outputs (the bias) there.
  const anyDy = draw.floats(s.n * p * q * s.k);
  const dy = spec.convention === "keras" ? anyDy : nanInHoles(anyDy, s.k, layer.maskOut);

  await withScratch(gpu(), async (t) => {
    const pixels = s.n * s.h * s.w;
    const outputs = s.n * p * q;
    const maskBuffer = t.floats(mask);
    const groupBuffer = t.activation(groupOf, s.c);
    const dyBuffer = t.activation(dy, s.k);
    const weightBuffer = t.weight(weight, taps, s.c, s.k);
    const scale = t.outFloats("scale", maskN * p * q);
    const biasScale = t.outFloats("biasScale", maskN * p * q);
    const maskOut = t.outFloats("maskOut", maskN * p * q);
    maskUpdate(gpu(), maskShape, spec, {
      mask: maskBuffer,
      weight: t.floats(groupWeight),
      scale: scale.storage,
      biasScale: biasScale.storage,
      maskOut: maskOut.storage,
    });
    const xm = t.outActivation("x.M", pixels, s.c);
    maskMultiply(gpu(), s, maskN, groups, {
      x: t.activation(x, s.c),
      mask: maskBuffer,
      groupOf: groupBuffer,
      y: xm.storage,
    });
    const y = t.outActivation("y", outputs, s.k);
    pconvForward(gpu(), s, {
      x: xm.storage,
      weight: weightBuffer,
      bias: bias && t.activation(bias, s.k),
      ratio: { scale: scale.storage, biasScale: biasScale.storage, n: maskN },
      y: y.storage,
    });
    const out = { n: s.n, h: p, w: q, c: s.k };
    const dyScaled = t.outActivation("scale dy", outputs, s.k);
    pixelScale(gpu(), out, maskN, { dy: dyBuffer, scale: scale.storage, g: dyScaled.storage });
    const weightT = t.outWeight("weightT", taps, s.k, s.c);
    transposeWeight(gpu(), s, weightBuffer, weightT.storage);
    const dxm = t.outActivation("d(x.M)", pixels, s.c);
    pconvBackwardInput(gpu(), s, { dy: dyScaled.storage, weightT: weightT.storage, dx: dxm.storage });
    const dx = t.outActivation("dx", pixels, s.c);
    maskMultiply(gpu(), s, maskN, groups, { x: dxm.storage, mask: maskBuffer, groupOf: groupBuffer, y: dx.storage });
    const dw = t.outWeight("dw", taps, s.c, s.k);
    pconvBackwardWeight(gpu(), s, { x: xm.storage, dy: dyScaled.storage, dw: dw.storage });
    const db = t.outActivation("db", 1, s.k);
    channelSum(gpu(), out, { x: dyBuffer, weight: biasScale.storage, sum: db.storage }, maskN);

    const got = await t.read(scale, biasScale, maskOut, xm, y, dx, dw, db);

    // The ratio: a window's float32 sum of positive fractions, or of small integers (then exact).
    const ulps = fractions ? 24 : 4;
    expectClose("scale", got[0], layer.scale, rounding(layer.scale, ulps), seed);
    const uTolerance = fractions ? rounding(layer.maskOut, ulps) : 0;
    expectClose("biasScale", got[1], layer.biasScale, uTolerance, seed);
    expectClose("maskOut", got[2], layer.maskOut, uTolerance, seed);

    const xmRef = maskMultiplyRef(s, x, mask, groupOf, maskN, groups);
    expectClose("x.M", got[3], xmRef, rounding(abs(xmRef), 2), seed);

    const [XM, W, D] = [abs(xmRef), abs(weight), pixelScaleRef(out, abs(dy), layer.scale, maskN)];
    const ratio = { ...layer, n: maskN };
    const yLimit = rounding(pconvForwardRef(s, XM, W, bias && abs(bias), ratio), 48);
    expectClose("y", got[4], pconvForwardRef(s, xmRef, weight, bias, ratio), yLimit, seed);

    const dyRef = pixelScaleRef(out, dy, layer.scale, maskN);
    const masked = (v: ArrayLike<number>) => maskMultiplyRef(s, v, mask, groupOf, maskN, groups);
    const dxLimit = rounding(masked(pconvBackwardInputRef(s, D, W)), 48);
    expectClose("dx", got[5], masked(pconvBackwardInputRef(s, dyRef, weight)), dxLimit, seed);
    const dwLimit = rounding(pconvBackwardWeightRef(s, XM, D), 48);
    expectClose("dw", got[6], pconvBackwardWeightRef(s, xmRef, dyRef), dwLimit, seed);
    const dbLimit = rounding(channelSumRef(out, abs(dy), layer.biasScale, maskN), 48);
    expectClose("db", got[7], channelSumRef(out, dy, layer.biasScale, maskN), dbLimit, seed);
  });
}

const conventions: readonly PConvConvention[] = ["paper", "pytorch", "keras", "unscaled"];
const groupings = ["one group", "two groups", "a group per channel"] as const;

describe.each(conventions)("partial convolution layer, %s convention", (convention) => {
  it.each(groupings)("%s", async (grouping) => {
    let index = 0;
    for (const biased of [false, true])
      for (const holes of HOLE_SHARES)
        for (const fractions of [false, true])
          for (const shared of [false, true]) {
            const draw = new Draw(10 + conventions.indexOf(convention) * 3 + groupings.indexOf(grouping), index++);
            const c = draw.integer(2, 7);
            const kernel = draw.pick([
              [3, 3],
              [5, 5],
              [7, 7],
              [2, 3],
              [1, 1],
            ] as const);
            const s: ConvShape = {
              n: draw.integer(1, 3),
              h: draw.integer(4, 13),
              w: draw.integer(4, 15),
              c,
              k: draw.integer(1, 9),
              kernel,
              stride: draw.pick([
                [1, 1],
                [2, 2],
                [2, 1],
              ] as const),
              padding: [kernel[0] >> 1, kernel[1] >> 1],
              dilation: draw.pick([
                [1, 1],
                [1, 1],
                [2, 1],
              ] as const),
            };
            if ((kernel[0] - 1) * s.dilation[0] >= s.h + 2 * s.padding[0]) continue;
            const groupOf = Array.from({ length: c }, (_, i) => {
              if (grouping === "one group") return 0;
              return grouping === "two groups" ? Number(i >= c >> 1) : i;
            });
            const maskN = shared ? 1 : s.n;
            await checkLayer({ s, spec: { convention, biased }, groupOf, maskN, holes, fractions }, draw);
          }
    expect(index).toBe(32);
  });
});

/** Windows, strides and heights of masks whose outputs are computed several rows at a time, and one that are not. */
const LARGE: readonly [string, Partial<ConvShape>][] = [
  ["7x7 stride 2", { h: 131, w: 129, kernel: [7, 7], stride: [2, 2], padding: [3, 3] }],
  ["3x3", { h: 67, w: 65, kernel: [3, 3], padding: [1, 1] }],
  ["5x5 stride 2, padded oddly", { h: 134, w: 128, kernel: [5, 5], stride: [2, 2], padding: [0, 4] }],
  ["3x2 stride 3 and 1", { h: 198, w: 66, kernel: [3, 2], stride: [3, 1], padding: [1, 0] }],
  ["dilated", { h: 70, w: 70, kernel: [3, 3], padding: [2, 2], dilation: [2, 2] }],
  ["1x1", { h: 67, w: 65, kernel: [1, 1] }],
];

it.each(LARGE)("maskUpdate of a large mask, %s", async (name, layer) => {
  for (const [index, [groups, fractions]] of (
    [
      [1, false],
      [1, true],
      [2, true],
    ] as const
  ).entries()) {
    const draw = new Draw(41, 8 * LARGE.findIndex(([other]) => other === name) + index);
    const one = [1, 1] as const;
    const zero = [0, 0] as const;
    const s = {
      n: 2,
      h: 1,
      w: 1,
      c: groups,
      k: 1,
      kernel: one,
      stride: one,
      padding: zero,
      dilation: one,
      channels: 5,
    };
    const shape: MaskUpdateShape = { ...s, ...layer };
    const mask = draw.mask(2 * shape.h * shape.w * groups, 0.9, fractions);
    const weight = groups === 1 ? [5] : [2, 3];
    const spec = { convention: "paper", biased: true } as const;
    const want = maskUpdateRef(shape, spec, mask, weight);
    await withScratch(gpu(), async (t) => {
      const outputs = want.scale.length;
      expect(outputs).toBeGreaterThanOrEqual(4096);
      const [scale, biasScale, maskOut] = ["scale", "biasScale", "maskOut"].map((what) => t.outFloats(what, outputs));
      const results = { scale: scale.storage, biasScale: biasScale.storage, maskOut: maskOut.storage };
      const buffers = { mask: t.floats(mask), weight: t.floats(Float32Array.from(weight)), ...results };
      maskUpdate(gpu(), shape, spec, buffers);
      const got = await t.read(scale, biasScale, maskOut);
      const ulps = fractions ? 32 : 4;
      expectClose("scale", got[0], want.scale, rounding(want.scale, ulps), draw.seed);
      expectClose("biasScale", got[1], want.biasScale, rounding(want.biasScale, fractions ? ulps : 0), draw.seed);
      expectClose("maskOut", got[2], want.maskOut, rounding(want.maskOut, fractions ? ulps : 0), draw.seed);
    });
  }
});

const LEVELS: readonly (readonly [string, { n: number; h: number; w: number; lowN: number; skipN: number }])[] = [
  ["small", { n: 2, h: 6, w: 4, lowN: 2, skipN: 2 }],
  ["two by two, the lower mask shared", { n: 3, h: 2, w: 2, lowN: 1, skipN: 3 }],
  ["large, the upper mask shared", { n: 2, h: 46, w: 58, lowN: 2, skipN: 1 }],
  ["one wide row of blocks", { n: 1, h: 4, w: 2050, lowN: 1, skipN: 1 }],
];
const CONVENTIONS: readonly PConvConvention[] = ["paper", "pytorch", "keras", "unscaled"];

describe.each(LEVELS)("maskUpdateUp, %s", (name, sizes) => {
  it.each(CONVENTIONS)("%s", async (convention) => {
    const at = 8 * LEVELS.findIndex(([other]) => other === name) + CONVENTIONS.indexOf(convention);
    for (const [index, [share, fractions, biased]] of (
      [
        [0.5, false, false],
        [0.9, false, true],
        [0.5, true, true],
        [1, false, true],
      ] as const
    ).entries()) {
      const draw = new Draw(43, 4 * at + index);
      const s = { ...sizes, lowChannels: 5, skipChannels: 3 };
      const low = draw.mask((s.lowN * s.h * s.w) / 4, share, fractions);
      const skip = draw.mask(s.skipN * s.h * s.w, share, fractions);
      const spec = { convention, biased };
      const want = maskUpdateUpRef(s, spec, low, skip);
      await withScratch(gpu(), async (t) => {
        const targets = ["scale", "biasScale", "maskOut"].map((what) => t.outFloats(what, want.scale.length));
        const [scale, biasScale, maskOut] = targets.map((o) => o.storage);
        maskUpdateUp(gpu(), s, spec, { low: t.floats(low), skip: t.floats(skip), scale, biasScale, maskOut });
        const got = await t.read(...targets);
        const ulps = fractions ? 32 : 4;
        expectClose("scale", got[0], want.scale, rounding(want.scale, ulps), draw.seed);
        expectClose("biasScale", got[1], want.biasScale, rounding(want.biasScale, fractions ? ulps : 0), draw.seed);
        expectClose("maskOut", got[2], want.maskOut, rounding(want.maskOut, fractions ? ulps : 0), draw.seed);
      });
    }
  });
});

describe("maskUpdate, by hand", () => {
  const s: MaskUpdateShape = {
    n: 1,
    h: 3,
    w: 3,
    c: 1,
    k: 1,
    channels: 2,
    kernel: [3, 3],
    stride: [1, 1],
    padding: [1, 1],
    dilation: [1, 1],
  };

  it("counts the outside of the image as hole, and grows the valid region", async () => {
    const mask = [1, 0, 0, 0, 0, 0, 0, 0, 0];
    const u = [1, 1, 0, 1, 1, 0, 0, 0, 0];
    await withScratch(gpu(), async (t) => {
      const [scale, biasScale, maskOut] = ["scale", "biasScale", "maskOut"].map((name) => t.outFloats(name, 9));
      const buffers = { mask: t.floats(mask), weight: t.floats([2]) };
      const targets = { scale: scale.storage, biasScale: biasScale.storage, maskOut: maskOut.storage };
      maskUpdate(gpu(), s, { convention: "paper", biased: false }, { ...buffers, ...targets });
      const got = await t.read(scale, biasScale, maskOut);
      // One valid pixel of two channels in windows of 9 x 2.
      expectClose(
        "scale",
        got[0],
        u.map((v) => 9 * v),
        9 * 4 * HALF_ULP,
        "no seed",
      );
      expectExact("biasScale", got[1], u, "no seed");
      expectExact("maskOut", got[2], u, "no seed");
    });
  });
});
