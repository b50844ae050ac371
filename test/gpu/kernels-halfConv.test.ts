/** Convolutions of half-precision tensors on every backend against their float64 references, as in kernels-half.test.ts. */
import { describe, expect, it } from "vitest";
import { floatToHalf, halfToFloat } from "../../src/half.js";
import { availableBackends } from "../../src/kernels/conv/backend.js";
import type { ConvAlgorithm } from "../../src/kernels/conv/engine.js";
import { pconvBackwardInput, pconvBackwardInputRef } from "../../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeight, pconvBackwardWeightRef } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForward, pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { convOutputSize, type ConvShape } from "../../src/kernels/shape.js";
import { transposeWeight } from "../../src/kernels/transposeWeight.js";
import { expectClose, HALF_ULP } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";
import { padded, type Scratch } from "../support/tensors.js";

const gpu = useGpu();

const toHalf = (values: ArrayLike<number>): Float32Array =>
  Float32Array.from(values, (v) => halfToFloat(floatToHalf(v)));

const one = [1, 1] as const;
/** An encoder level, a decoder level, and one for Winograd's forms. */
const SHAPES: readonly ConvShape[] = [
  { n: 2, h: 9, w: 7, c: 5, k: 18, kernel: [5, 5], stride: [2, 2], padding: [2, 2], dilation: one },
  { n: 1, h: 16, w: 16, c: 20, k: 24, kernel: [3, 3], stride: one, padding: one, dilation: one },
];

/** Factors are rounded to float16 in matrix units, and sums of them are off by as much as their terms. */
const factorRounding = (algorithm: ConvAlgorithm): number => (algorithm === "matrix" ? 2 ** -11 : 0);
/** Winograd's transforms add and subtract up to 36 values before and after the products. */
const ulps = (algorithm: ConvAlgorithm): number => (algorithm.startsWith("winograd") ? 512 : 16);

function tolerance(want: ArrayLike<number>, magnitudes: ArrayLike<number>, algorithm: ConvAlgorithm, half: boolean) {
  return Float64Array.from(want, (v, i) => {
    const sum = magnitudes[i] * (ulps(algorithm) * HALF_ULP + factorRounding(algorithm)) + 1e-30;
    return sum + (half ? (Math.abs(v) + sum) * 2 ** -11 + 2 ** -25 : 0);
  });
}

/** One shape in one algorithm, forward and backward, with half tensors wherever a U-Net has them. */
async function check(t: Scratch, s: ConvShape, index: number, algorithm: ConvAlgorithm): Promise<void> {
  const draw = new Draw(980, index);
  const [p, q] = convOutputSize("test", s);
  const [pixels, outputs, taps] = [s.n * s.h * s.w, s.n * p * q, s.kernel[0] * s.kernel[1]];
  const x = toHalf(draw.floats(pixels * s.c));
  const dy = toHalf(draw.floats(outputs * s.k));
  const weight = draw.floats(taps * s.c * s.k, -0.3, 0.3);
  const bias = draw.floats(s.k);
  const scale = draw.mask(p * q, 0.2, true);
  const ratio = { scale, biasScale: scale.map((v) => (v === 0 ? 0 : 1)), n: 1 };
  const magnitude = (values: ArrayLike<number>) => Float64Array.from(values, Math.abs);
  const name = `${algorithm} ${JSON.stringify(s)}`;

  const wantY = pconvForwardRef(s, x, weight, bias, ratio);
  const sumY = pconvForwardRef(s, magnitude(x), magnitude(weight), magnitude(bias), ratio);
  const xHalf = t.halfActivation(x, s.c);
  const y = t.outActivation("y", outputs, s.k, true);
  // A network's output is float32. One backend is enough for it: a pipeline more takes a software adapter seconds.
  const image = t.outActivation("y as an image", outputs, s.k, algorithm !== "simple");
  const device = { weight: t.weight(weight, taps, s.c, s.k), bias: t.activation(bias, s.k) };
  const onDevice = { scale: t.floats(scale), biasScale: t.floats(ratio.biasScale), n: 1 };
  pconvForward(gpu(), s, { x: xHalf, ...device, ratio: onDevice, y: y.storage }, algorithm);
  pconvForward(gpu(), s, { x: xHalf, ...device, ratio: onDevice, y: image.storage }, algorithm);

  // dy is zero where the layer's scale is: nothing else may be skipped.
  const g = dy.map((v, i) => (scale[Math.floor(i / s.k) % (p * q)] === 0 ? 0 : v));
  const gHalf = t.halfActivation(g, s.k);
  const weightT = t.floats(new Float32Array(taps * padded(s.c) * padded(s.k)));
  transposeWeight(gpu(), s, device.weight, weightT);
  const dx = t.outActivation("dx", pixels, s.c, true);
  const dw = t.outWeight("dw", taps, s.c, s.k);
  pconvBackwardInput(gpu(), s, { dy: gHalf, weightT, dx: dx.storage }, algorithm);
  const live = { mask: onDevice.scale, n: 1 };
  pconvBackwardWeight(gpu(), s, { x: xHalf, dy: gHalf, dw: dw.storage, live }, algorithm);

  const [gotY, gotImage, gotDx, gotDw] = await t.read(y, image, dx, dw);
  expectClose(`${name} y`, gotY, wantY, tolerance(wantY, sumY, algorithm, true), draw.seed);
  expectClose(`${name} image`, gotImage, wantY, tolerance(wantY, sumY, algorithm, algorithm !== "simple"), draw.seed);
  const wantDx = pconvBackwardInputRef(s, g, weight);
  const sumDx = pconvBackwardInputRef(s, magnitude(g), magnitude(weight));
  expectClose(`${name} dx`, gotDx, wantDx, tolerance(wantDx, sumDx, algorithm, true), draw.seed);
  const wantDw = pconvBackwardWeightRef(s, x, g);
  const sumDw = pconvBackwardWeightRef(s, magnitude(x), magnitude(g));
  expectClose(`${name} dw`, gotDw, wantDw, tolerance(wantDw, sumDw, algorithm, false), draw.seed);
}

describe("convolutions of half-precision tensors", () => {
  it.each(SHAPES.map((s, i) => [JSON.stringify(s.kernel), i] as const))("%s on every backend", async (_, i) => {
    if (!gpu().half) return console.warn("this adapter has no half precision");
    const algorithms: ConvAlgorithm[] = [
      ...availableBackends(gpu()),
      ...(i === 1 ? (["winograd2x2", "winograd4x4"] as const) : []),
    ];
    expect(algorithms).toContain("simple");
    for (const algorithm of algorithms) await withScratch(gpu(), (t) => check(t, SHAPES[i], i, algorithm));
  });
});
