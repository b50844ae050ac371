/** What the loss network keeps for its backward pass: winners of pools and signs of activations. */
import { describe, expect, it } from "vitest";
import { positiveBits, positiveBitsRef, positiveGate, positiveGateRef } from "../../src/kernels/positiveBits.js";
import {
  reluPoolBackward,
  reluPoolBackwardRef,
  reluPoolForward,
  reluPoolForwardRef,
  winnerBytes,
} from "../../src/kernels/reluPool.js";
import { expectClose, expectExact, HALF_ULP } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();

const SHAPES = [
  { n: 1, h: 2, w: 2, c: 1 },
  { n: 2, h: 5, w: 7, c: 3 },
  { n: 3, h: 9, w: 4, c: 4 },
  { n: 1, h: 13, w: 17, c: 6 },
  { n: 2, h: 6, w: 10, c: 20 },
];

describe("reluPool", () => {
  it.each(SHAPES)("%j: values and gradient, with ties, blocks below 0 and odd sizes", async (s) => {
    const draw = new Draw(2600, SHAPES.indexOf(s));
    // Few distinct values, most of them not above 0: every kind of block comes up.
    const x = Float32Array.from({ length: s.n * s.h * s.w * s.c }, () => draw.integer(-4, 2));
    const pixels = s.n * (s.h >> 1) * (s.w >> 1);
    const dy = draw.floats(pixels * s.c);
    await withScratch(gpu(), async (t) => {
      const y = t.outActivation("y", pixels, s.c);
      const dx = t.outActivation("dx", s.n * s.h * s.w, s.c);
      const winners = t.outFloats("winners", winnerBytes(s) / 4);
      reluPoolForward(gpu(), s, { x: t.activation(x, s.c), y: y.storage, winners: winners.storage });
      reluPoolBackward(gpu(), s, { winners: winners.storage, dy: t.activation(dy, s.c), dx: dx.storage });
      const got = await t.read(y, dx, winners); // winners: for the guard behind them
      expectExact("y", got[0], reluPoolForwardRef(s, x), draw.seed);
      expectExact("dx", got[1], reluPoolBackwardRef(s, x, dy), draw.seed);
    });
  });
});

describe("positiveBits", () => {
  it.each([1, 7, 8, 9, 64, 1003])("%i vec4s", async (vec4s) => {
    const draw = new Draw(2610, vec4s);
    const y = Float32Array.from({ length: 4 * vec4s }, () => draw.pick([-2, -0.5, -0, 0, 1e-30, 1, 3]));
    for (const slope of [0, 0.2]) {
      // Where ReLU is flat, a gradient that is not finite must not get through.
      const dy = draw.floats(y.length).map((v, i) => (slope === 0 && y[i] <= 0 && i % 3 === 0 ? NaN : v));
      await withScratch(gpu(), async (t) => {
        const bits = t.outFloats("bits", Math.ceil(vec4s / 8));
        const gradient = t.floats(dy);
        positiveBits(gpu(), vec4s, { y: t.floats(y), bits: bits.storage });
        positiveGate(gpu(), { vec4s, slope }, { bits: bits.storage, gradient });
        const [words] = await t.read(bits);
        const got = new Uint32Array(words.buffer, words.byteOffset, words.length);
        expect([...got], draw.seed).toEqual([...positiveBitsRef(y)]);
        const [g] = await gpu().read(gradient);
        expectClose("gradient", g, positiveGateRef(slope, y, dy), HALF_ULP, draw.seed);
      });
    }
  });
});
