/** The float64 references' gradients against central differences of their forwards, away from kinks. */
import { describe, expect, it } from "vitest";
import { type Activation, activationBackwardRef, activationRef } from "../../src/kernels/activation.js";
import { batchNormBackwardRef, batchNormForwardRef } from "../../src/kernels/batchNorm.js";
import { batchNormStatsRef } from "../../src/kernels/batchNormStats.js";
import { channelAffineRef } from "../../src/kernels/channelAffine.js";
import { channelSumRef } from "../../src/kernels/channelSum.js";
import { compositeBackwardRef, compositeForwardRef } from "../../src/kernels/composite.js";
import { channelSliceRef, concatForwardRef } from "../../src/kernels/concat.js";
import { gramBackwardRef, gramForwardRef } from "../../src/kernels/gram.js";
import { l1BackwardRef, l1ForwardRef } from "../../src/kernels/l1.js";
import { maskMultiplyRef } from "../../src/kernels/maskMultiply.js";
import { maskUpdateRef, type MaskUpdateShape, type PConvConvention } from "../../src/kernels/maskUpdate.js";
import { maxPoolBackwardRef, maxPoolForwardRef } from "../../src/kernels/maxPool.js";
import { pconvBackwardInputRef } from "../../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeightRef } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { pixelScaleRef } from "../../src/kernels/pixelScale.js";
import { convOutputSize, type ConvShape } from "../../src/kernels/shape.js";
import { totalVariationBackwardRef, totalVariationForwardRef } from "../../src/kernels/totalVariation.js";
import { upsampleBackwardRef, upsampleForwardRef } from "../../src/kernels/upsample.js";
import { weightedSumRef } from "../../src/kernels/weightedSum.js";
import { window2dRef } from "../../src/kernels/window.js";
import { expectClose } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { differences } from "../support/ops.js";

const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
};

/** Fails where the analytic gradient differs, or when it is zero everywhere (a test of nothing). */
function expectGradient(
  name: string,
  analytic: Float64Array,
  values: Float64Array,
  loss: () => number,
  draw: Draw,
): void {
  const numeric = differences(values, loss);
  expectClose(
    name,
    analytic,
    numeric,
    numeric.map((v) => 1e-8 + 1e-6 * Math.abs(v)),
    draw.seed,
  );
  expect(
    analytic.some((v) => v !== 0),
    `${name} is not zero everywhere`,
  ).toBe(true);
}

const CONVS: readonly ConvShape[] = [
  { n: 2, h: 6, w: 5, c: 2, k: 3, kernel: [3, 3], stride: [2, 2], padding: [1, 1], dilation: [1, 1] },
  { n: 1, h: 7, w: 6, c: 3, k: 2, kernel: [5, 2], stride: [1, 3], padding: [2, 0], dilation: [1, 2] },
  { n: 2, h: 5, w: 5, c: 4, k: 1, kernel: [7, 7], stride: [2, 1], padding: [3, 3], dilation: [1, 1] },
];
const inputs = (s: ConvShape, draw: Draw) => {
  const [p, q] = convOutputSize("test", s);
  return {
    out: { n: s.n, h: p, w: q, c: s.k },
    x: draw.doubles(s.n * s.h * s.w * s.c),
    weight: draw.doubles(s.kernel[0] * s.kernel[1] * s.c * s.k),
    bias: draw.doubles(s.k),
    dy: draw.doubles(s.n * p * q * s.k),
  };
};

describe("convolution", () => {
  it.each(CONVS)("plain %j", (s) => {
    const draw = new Draw(1000, CONVS.indexOf(s));
    const { out, x, weight, bias, dy } = inputs(s, draw);
    const loss = () => dot(pconvForwardRef(s, x, weight, bias), dy);
    expectGradient("dx", pconvBackwardInputRef(s, dy, weight), x, loss, draw);
    expectGradient("dw", pconvBackwardWeightRef(s, x, dy), weight, loss, draw);
    expectGradient("db", channelSumRef(out, dy), bias, loss, draw);
  });

  const conventions: readonly PConvConvention[] = ["paper", "pytorch", "keras", "unscaled"];
  const layers = conventions.flatMap((convention) =>
    CONVS.flatMap((s, i) =>
      [1, 2, s.c].flatMap((groups) =>
        [false, true].map((fractions) => ({ convention, shape: i, groups, fractions, maskN: fractions ? 1 : s.n })),
      ),
    ),
  );
  it.each(layers)("partial %j", ({ convention, shape, groups, fractions, maskN }) => {
    const s = CONVS[shape];
    const draw = new Draw(1001 + conventions.indexOf(convention), shape * 100 + groups * 10 + Number(fractions));
    const { out, x, weight, bias, dy } = inputs(s, draw);
    const groupOf = Array.from({ length: s.c }, (_, c) => Math.floor((c * groups) / s.c));
    const groupWeight = Array.from({ length: groups }, (_, g) => groupOf.filter((v) => v === g).length);
    const mask = draw.mask(maskN * s.h * s.w * groups, 0.5, fractions);
    const maskShape: MaskUpdateShape = { ...s, n: maskN, c: groups, k: 1, channels: s.c };
    const layer = maskUpdateRef(maskShape, { convention, biased: true }, mask, groupWeight);
    const ratio = { ...layer, n: maskN };
    const masked = (v: ArrayLike<number>) => maskMultiplyRef(s, v, mask, groupOf, maskN, groups);
    const loss = () => dot(pconvForwardRef(s, masked(x), weight, bias, ratio), dy);
    const scaled = pixelScaleRef(out, dy, layer.scale, maskN);
    expectGradient("dx", masked(pconvBackwardInputRef(s, scaled, weight)), x, loss, draw);
    expectGradient("dw", pconvBackwardWeightRef(s, masked(x), scaled), weight, loss, draw);
    expectGradient("db", channelSumRef(out, dy, layer.biasScale, maskN), bias, loss, draw);
  });
});

const SHAPE = { n: 2, h: 4, w: 6, c: 3 };
const COUNT = SHAPE.n * SHAPE.h * SHAPE.w * SHAPE.c;

describe("batch norm", () => {
  const cases = (["all", "valid", "fixed"] as const).flatMap((statistics) =>
    [false, true].flatMap((masked) => [1, 2].map((maskN) => ({ statistics, masked, maskN }))),
  );
  it.each(cases)("%j", ({ statistics, masked, maskN }) => {
    const draw = new Draw(1010, maskN);
    const s = SHAPE;
    const x = draw.doubles(COUNT);
    const dy = draw.doubles(COUNT);
    const gamma = draw.doubles(s.c, 0.5, 2);
    const beta = draw.doubles(s.c);
    const mask = draw.mask(maskN * s.h * s.w, 0.4);
    const fixed = { mean: draw.doubles(s.c), variance: draw.doubles(s.c, 0.5, 2), count: 0 };
    const stats = () =>
      statistics === "fixed" ? fixed : batchNormStatsRef(s, x, statistics === "valid" ? mask : undefined, maskN);
    const common = { x, eps: 1e-3, gamma, beta, maskN };
    const loss = () => dot(batchNormForwardRef(s, { ...common, ...stats(), mask: masked ? mask : undefined }), dy);
    const { dx, dgamma, dbeta } = batchNormBackwardRef(s, { ...common, ...stats(), mask, dy, statistics, masked });
    expectGradient("dx", dx, x, loss, draw);
    expectGradient("dgamma", dgamma, gamma, loss, draw);
    expectGradient("dbeta", dbeta, beta, loss, draw);
  });
});

describe("elementwise", () => {
  it.each(["relu", "leakyRelu", "sigmoid"] as const)("%s", (activation: Activation) => {
    const draw = new Draw(1020);
    const x = draw.awayFromZero(COUNT, 0.01);
    const dy = draw.doubles(COUNT);
    const loss = () => dot(activationRef(activation, 0.2, x), dy);
    const dx = activationBackwardRef(activation, 0.2, activationRef(activation, 0.2, x), dy);
    expectGradient("dx", dx, x, loss, draw);
  });

  it.each([1, 2, 3])("maskMultiply with %i groups, fractional mask", (groups) => {
    const draw = new Draw(1021, groups);
    const groupOf = [0, groups > 1 ? 1 : 0, groups - 1];
    const mask = draw.mask(SHAPE.n * SHAPE.h * SHAPE.w * groups, 0.4, true);
    const [x, dy] = [draw.doubles(COUNT), draw.doubles(COUNT)];
    const apply = (v: Float64Array) => maskMultiplyRef(SHAPE, v, mask, groupOf, SHAPE.n, groups);
    expectGradient("dx", apply(dy), x, () => dot(apply(x), dy), draw);
  });

  it("channelAffine", () => {
    const draw = new Draw(1022);
    const [x, dy, scale, shift] = [draw.doubles(COUNT), draw.doubles(COUNT), draw.doubles(3), draw.doubles(3)];
    expectGradient("dx", channelAffineRef(dy, scale), x, () => dot(channelAffineRef(x, scale, shift), dy), draw);
  });

  it("weightedSum", () => {
    const draw = new Draw(1023);
    const [a, b, dy] = [draw.doubles(COUNT), draw.doubles(COUNT), draw.doubles(COUNT)];
    const loss = () => dot(weightedSumRef(0.5, a, -3, b), dy);
    expectGradient("da", weightedSumRef(0.5, dy), a, loss, draw);
    expectGradient("db", weightedSumRef(-3, dy), b, loss, draw);
  });

  it.each([1, 2])("composite, mask batch %i", (maskN) => {
    const draw = new Draw(1024, maskN);
    const mask = draw.mask(maskN * SHAPE.h * SHAPE.w, 0.4, true);
    const [gt, out, dcomp] = [draw.doubles(COUNT), draw.doubles(COUNT), draw.doubles(COUNT)];
    const loss = () => dot(compositeForwardRef(SHAPE, maskN, gt, out, mask), dcomp);
    expectGradient("dout", compositeBackwardRef(SHAPE, maskN, dcomp, mask), out, loss, draw);
  });
});

describe("moving pixels and channels", () => {
  it("upsample", () => {
    const draw = new Draw(1030);
    const [x, dy] = [draw.doubles(COUNT), draw.doubles(4 * COUNT)];
    expectGradient("dx", upsampleBackwardRef(SHAPE, dy), x, () => dot(upsampleForwardRef(SHAPE, x), dy), draw);
  });

  it.each([
    [3, 2],
    [4, 4],
    [1, 5],
  ])("concat of %i and %i channels", (ca, cb) => {
    const draw = new Draw(1031, ca);
    const pixels = 7;
    const [a, b, dy] = [draw.doubles(pixels * ca), draw.doubles(pixels * cb), draw.doubles(pixels * (ca + cb))];
    const loss = () => dot(concatForwardRef(pixels, ca, cb, a, b), dy);
    expectGradient("da", channelSliceRef(pixels, ca + cb, 0, ca, dy), a, loss, draw);
    expectGradient("db", channelSliceRef(pixels, ca + cb, ca, cb, dy), b, loss, draw);
  });

  it.each([SHAPE, { n: 1, h: 5, w: 7, c: 2 }])("maxPool %j", (s) => {
    const draw = new Draw(1032, s.n);
    const x = draw.distinct(s.n * s.h * s.w * s.c, 0.01);
    const dy = draw.doubles(s.n * (s.h >> 1) * (s.w >> 1) * s.c);
    expectGradient("dx", maxPoolBackwardRef(s, x, dy), x, () => dot(maxPoolForwardRef(s, x), dy), draw);
  });

  it.each([
    { p: 7, q: 9, top: -1, left: -2 },
    { p: 2, q: 3, top: 1, left: 2 },
    { p: 5, q: 3, top: -2, left: 4 },
  ])("window %j: its gradient is the opposite window", (window) => {
    const draw = new Draw(1033, window.p);
    const s = { ...SHAPE, ...window };
    const [x, dy] = [draw.doubles(COUNT), draw.doubles(s.n * s.p * s.q * s.c)];
    const opposite = { n: s.n, h: s.p, w: s.q, c: s.c, p: s.h, q: s.w, top: -s.top, left: -s.left };
    expectGradient("dx", window2dRef(opposite, dy), x, () => dot(window2dRef(s, x), dy), draw);
  });
});

describe("losses", () => {
  it("gram", () => {
    const draw = new Draw(1040);
    const [f, dg] = [draw.doubles(COUNT), draw.doubles(SHAPE.n * SHAPE.c * SHAPE.c)];
    expectGradient("df", gramBackwardRef(SHAPE, f, dg), f, () => dot(gramForwardRef(SHAPE, f), dg), draw);
  });

  const regions = (["all", "valid", "hole"] as const).flatMap((region) => [1, 2].map((maskN) => ({ region, maskN })));
  it.each(regions)("l1 %j", ({ region, maskN }) => {
    const draw = new Draw(1041, maskN);
    const mask = draw.mask(maskN * SHAPE.h * SHAPE.w, 0.5, true);
    const b = draw.doubles(COUNT);
    const a = draw.awayFromZero(COUNT, 0.01).map((v, i) => v + b[i]);
    const o = { region, factor: 0.3, maskN };
    const loss = () => 1.7 * l1ForwardRef(SHAPE, o, a, b, mask);
    expectGradient("da", l1BackwardRef(SHAPE, o, a, b, 1.7, mask), a, loss, draw);
    // db is da's negative, as the launcher says.
    expectGradient("db", l1BackwardRef(SHAPE, o, a, b, -1.7, mask), b, loss, draw);
  });

  const tvRegions = (["all", "inside", "product"] as const).flatMap((region) =>
    [1, 2].map((regionN) => ({ region, regionN })),
  );
  it.each(tvRegions)("total variation %j", ({ region, regionN }) => {
    const draw = new Draw(1042, regionN);
    const r = draw.mask(regionN * SHAPE.h * SHAPE.w, 0.4);
    // Distinct values, none of them 0: `product` compares pixels with zeros.
    const x = draw.distinct(COUNT, 0.01).map((v) => v + 0.005);
    const o = { region, factorX: 0.4, factorY: 0.9, regionN };
    const loss = () => 1.7 * totalVariationForwardRef(SHAPE, o, x, r);
    expectGradient("dx", totalVariationBackwardRef(SHAPE, o, x, 1.7, r), x, loss, draw);
  });
});
