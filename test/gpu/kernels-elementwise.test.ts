/** Kernels that move or combine pixels, and the fixed-order sums, against their references. */
import { describe, expect, it } from "vitest";
import {
  type Activation,
  activationBackward,
  activationBackwardRef,
  activationForward,
  activationRef,
} from "../../src/kernels/activation.js";
import { channelAffine, channelAffineRef } from "../../src/kernels/channelAffine.js";
import { channelSum, channelSumRef } from "../../src/kernels/channelSum.js";
import {
  compositeBackward,
  compositeBackwardRef,
  compositeForward,
  compositeForwardRef,
} from "../../src/kernels/composite.js";
import { channelSlice, channelSliceRef, concatForward, concatForwardRef } from "../../src/kernels/concat.js";
import { dilateHole, dilateHoleRef } from "../../src/kernels/dilateHole.js";
import { maskJoin, maskJoinRef, type MaskJoinShape } from "../../src/kernels/maskJoin.js";
import { maskMultiply, maskMultiplyRef } from "../../src/kernels/maskMultiply.js";
import { maxPoolBackward, maxPoolBackwardRef, maxPoolForward, maxPoolForwardRef } from "../../src/kernels/maxPool.js";
import { pixelScale, pixelScaleRef } from "../../src/kernels/pixelScale.js";
import { reduceScalar, reduceScalarRef } from "../../src/kernels/reduceScalar.js";
import type { ActivationShape } from "../../src/kernels/shape.js";
import { sumPartials, sumPartialsRef } from "../../src/kernels/sumPartials.js";
import {
  upsampleBackward,
  upsampleBackwardRef,
  upsampleForward,
  upsampleForwardRef,
} from "../../src/kernels/upsample.js";
import { weightedSum, weightedSumRef } from "../../src/kernels/weightedSum.js";
import { window2d, window2dRef } from "../../src/kernels/window.js";
import { abs, expectClose, expectExact, rounding } from "../support/close.js";
import { Draw, HOLE_SHARES, nanInHoles } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";
import { padded } from "../support/tensors.js";

const gpu = useGpu();

/** Odd sizes, batches, channel counts on both sides of a multiple of four. */
const SHAPES: readonly ActivationShape[] = [
  { n: 1, h: 1, w: 1, c: 1 },
  { n: 2, h: 5, w: 7, c: 3 },
  { n: 3, h: 9, w: 4, c: 4 },
  { n: 1, h: 13, w: 17, c: 6 },
  { n: 2, h: 31, w: 33, c: 9 },
];
const pixelsOf = (s: ActivationShape) => s.n * s.h * s.w;
const floatsOf = (s: ActivationShape) => pixelsOf(s) * s.c;
const vec4sOf = (s: ActivationShape) => (pixelsOf(s) * padded(s.c)) / 4;

describe("activations", () => {
  const activations: readonly Activation[] = ["relu", "leakyRelu", "sigmoid"];
  it.each(activations)("%s", async (activation) => {
    for (const [i, s] of SHAPES.entries()) {
      const draw = new Draw(100 + activations.indexOf(activation), i);
      const x = draw.floats(floatsOf(s), -8, 8).map((v, j) => (j % 5 === 0 ? 0 : v));
      const dy = draw.floats(floatsOf(s));
      const slope = 0.2;
      await withScratch(gpu(), async (t) => {
        const y = t.outActivation("y", pixelsOf(s), s.c);
        const dx = t.outActivation("dx", pixelsOf(s), s.c);
        const options = { vec4s: vec4sOf(s), c: s.c, slope };
        activationForward(gpu(), activation, options, { x: t.activation(x, s.c), y: y.storage });
        activationBackward(gpu(), activation, options, {
          y: y.storage,
          dy: t.activation(dy, s.c),
          dx: dx.storage,
        });
        const got = await t.read(y, dx);
        const want = activationRef(activation, slope, x);
        // WGSL allows exp an error of 3 + 2|x| units in the last place.
        const ulps = activation === "sigmoid" ? 2 * (3 + 2 * 8) + 8 : 2;
        expectClose("y", got[0], want, rounding(abs(want), ulps), draw.seed);
        const wantDx = activationBackwardRef(activation, slope, got[0], dy);
        // 1 - y loses digits near 1: its error is relative to y.
        const limit = activation === "sigmoid" ? abs(dy) : abs(wantDx);
        expectClose("dx", got[1], wantDx, rounding(limit, 4), draw.seed);
      });
    }
  });

  it("shows NaN instead of turning it into 0", async () => {
    for (const activation of activations) {
      await withScratch(gpu(), async (t) => {
        const y = t.outActivation("y", 1, 4);
        const x = t.activation([NaN, 1, -1, NaN], 4);
        activationForward(gpu(), activation, { vec4s: 1, c: 4, slope: 0.2 }, { x, y: y.storage });
        const [got] = await t.read(y);
        expect(Array.from(got, Number.isNaN), activation).toEqual([true, false, false, true]);
      });
    }
  });

  it("keeps sigmoid finite and saturated far from zero", async () => {
    await withScratch(gpu(), async (t) => {
      const y = t.outActivation("y", 1, 4);
      const x = t.activation([-200, -30, 30, 200], 4);
      activationForward(gpu(), "sigmoid", { vec4s: 1, c: 4, slope: 0 }, { x, y: y.storage });
      const [got] = await t.read(y);
      expectClose("y", got, [0, 0, 1, 1], 1e-6, "no seed");
    });
  });
});

describe("masks", () => {
  it("maskMultiply: exact zeros under holes, NaN included", async () => {
    for (const [i, s] of SHAPES.entries())
      for (const [j, holes] of HOLE_SHARES.entries())
        for (const maskN of [1, s.n])
          for (const groups of [1, 2, s.c]) {
            const draw = new Draw(110, i * 100 + j * 10 + groups);
            const groupOf = Array.from({ length: s.c }, (_, c) => c % groups);
            const mask = draw.mask(maskN * s.h * s.w * groups, holes, draw.pick([false, true]));
            const x = nanInHoles(draw.floats(floatsOf(s)), s.c, mask, groups, groupOf);
            await withScratch(gpu(), async (t) => {
              const y = t.outActivation("y", pixelsOf(s), s.c);
              maskMultiply(gpu(), s, maskN, groups, {
                x: t.activation(x, s.c),
                mask: t.floats(mask),
                groupOf: t.activation(groupOf, s.c),
                y: y.storage,
              });
              const want = maskMultiplyRef(s, x, mask, groupOf, maskN, groups);
              expectClose("y", (await t.read(y))[0], want, rounding(abs(want), 2), draw.seed);
            });
          }
  });

  it("pixelScale: exact zeros where the scale is 0", async () => {
    for (const [i, s] of SHAPES.entries())
      for (const scaleN of [1, s.n]) {
        const draw = new Draw(111, i * 10 + scaleN);
        const valid = draw.mask(scaleN * s.h * s.w, 0.4);
        const scale = draw.floats(valid.length, 1, 9).map((v, j) => v * valid[j]);
        const x = nanInHoles(draw.floats(floatsOf(s)), s.c, valid);
        await withScratch(gpu(), async (t) => {
          const y = t.outActivation("y", pixelsOf(s), s.c);
          const given = { dy: t.activation(x, s.c), scale: t.floats(scale), g: y.storage };
          pixelScale(gpu(), s, scaleN, given);
          const want = pixelScaleRef(s, x, scale, scaleN);
          expectClose("g", (await t.read(y))[0], want, rounding(abs(want), 2), draw.seed);
          for (const slope of [0, 0.2]) {
            const activated = draw.floats(floatsOf(s));
            pixelScale(gpu(), s, scaleN, { ...given, activated: { y: t.activation(activated, s.c), slope } });
            const through = pixelScaleRef(s, x, scale, scaleN, { y: activated, slope });
            expectClose(`g ${slope}`, (await t.read(y))[0], through, rounding(abs(through), 3), draw.seed);
          }
        });
      }
  });

  it("maskJoin: both orders, shared and own masks", async () => {
    let index = 0;
    for (const lowFirst of [true, false])
      for (const [lowN, skipN] of [
        [1, 1],
        [3, 1],
        [1, 3],
        [3, 3],
      ] as const)
        for (const [lowGroups, skipGroups] of [
          [1, 1],
          [2, 1],
          [3, 5],
        ] as const) {
          const s: MaskJoinShape = { n: 3, h: 6, w: 10, lowN, lowGroups, skipN, skipGroups, lowFirst };
          const draw = new Draw(112, index++);
          const low = draw.floats(lowN * 15 * lowGroups, 0, 1);
          const skip = draw.floats(skipN * 60 * skipGroups, 0, 1);
          await withScratch(gpu(), async (t) => {
            const joined = t.outFloats("joined", 3 * 60 * (lowGroups + skipGroups));
            maskJoin(gpu(), s, { low: t.floats(low), skip: t.floats(skip), joined: joined.storage });
            expectExact("joined", (await t.read(joined))[0], maskJoinRef(s, low, skip), draw.seed);
          });
        }
  });

  it("dilateHole", async () => {
    for (const [i, s] of SHAPES.entries())
      for (const holes of [0, 0.05, 0.9, 1])
        for (const fractions of [false, true]) {
          const draw = new Draw(113, i * 10 + holes * 4);
          const mask = draw.mask(pixelsOf(s), holes, fractions);
          await withScratch(gpu(), async (t) => {
            const region = t.outFloats("region", pixelsOf(s));
            dilateHole(gpu(), s, { mask: t.floats(mask), region: region.storage });
            expectClose("region", (await t.read(region))[0], dilateHoleRef(s, mask), fractions ? 1e-7 : 0, draw.seed);
          });
        }
  });

  it("composite: neither side spreads NaN into the other's pixels", async () => {
    for (const [i, s] of SHAPES.entries())
      for (const maskN of [1, s.n])
        for (const fractions of [false, true]) {
          const draw = new Draw(114, i * 10 + maskN);
          const mask = draw.mask(maskN * s.h * s.w, 0.4, fractions);
          const gt = nanInHoles(draw.floats(floatsOf(s)), s.c, mask);
          const inverse = mask.map((m) => 1 - m);
          const out = nanInHoles(draw.floats(floatsOf(s)), s.c, inverse);
          const dcomp = draw.floats(floatsOf(s));
          await withScratch(gpu(), async (t) => {
            const comp = t.outActivation("comp", pixelsOf(s), s.c);
            const dout = t.outActivation("dout", pixelsOf(s), s.c);
            const maskBuffer = t.floats(mask);
            compositeForward(gpu(), s, maskN, {
              gt: t.activation(gt, s.c),
              out: t.activation(out, s.c),
              mask: maskBuffer,
              comp: comp.storage,
            });
            compositeBackward(gpu(), s, maskN, {
              dcomp: t.activation(dcomp, s.c),
              mask: maskBuffer,
              dout: dout.storage,
            });
            const got = await t.read(comp, dout);
            expectClose("comp", got[0], compositeForwardRef(s, maskN, gt, out, mask), fractions ? 3e-7 : 0, draw.seed);
            expectClose("dout", got[1], compositeBackwardRef(s, maskN, dcomp, mask), fractions ? 2e-7 : 0, draw.seed);
          });
        }
  });
});

describe("moving pixels and channels", () => {
  it("upsample and its gradient", async () => {
    for (const [i, s] of SHAPES.entries()) {
      const draw = new Draw(120, i);
      const x = draw.floats(floatsOf(s));
      const dy = draw.floats(4 * floatsOf(s));
      await withScratch(gpu(), async (t) => {
        const y = t.outActivation("y", 4 * pixelsOf(s), s.c);
        const dx = t.outActivation("dx", pixelsOf(s), s.c);
        upsampleForward(gpu(), s, { x: t.activation(x, s.c), y: y.storage });
        upsampleBackward(gpu(), s, { dy: t.activation(dy, s.c), dx: dx.storage });
        const got = await t.read(y, dx);
        expectExact("y", got[0], upsampleForwardRef(s, x), draw.seed);
        const limit = rounding(upsampleBackwardRef(s, abs(dy)), 4);
        expectClose("dx", got[1], upsampleBackwardRef(s, dy), limit, draw.seed);
      });
    }
  });

  it("maxPool and its gradient, with ties and odd sizes", async () => {
    for (const [i, s] of SHAPES.entries()) {
      const out = { ...s, h: s.h >> 1, w: s.w >> 1 };
      const draw = new Draw(121, i);
      // Few distinct values: many ties.
      const x = Float32Array.from({ length: floatsOf(s) }, () => draw.integer(-2, 2));
      const dy = draw.floats(floatsOf(out));
      await withScratch(gpu(), async (t) => {
        const y = t.outActivation("y", pixelsOf(out), s.c);
        const dx = t.outActivation("dx", pixelsOf(s), s.c);
        const xBuffer = t.activation(x, s.c);
        maxPoolForward(gpu(), s, { x: xBuffer, y: y.storage });
        maxPoolBackward(gpu(), s, { x: xBuffer, dy: t.activation(dy, s.c), dx: dx.storage });
        const got = await t.read(y, dx);
        expectExact("y", got[0], maxPoolForwardRef(s, x), draw.seed);
        expectExact("dx", got[1], maxPoolBackwardRef(s, x, dy), draw.seed);
      });
    }
  });

  it("concat and its slices move lanes where the first part is not a multiple of four", async () => {
    for (let ca = 1; ca <= 6; ca++)
      for (const cb of [1, 3, 4, 5, 9]) {
        const pixels = 37;
        const draw = new Draw(122, ca * 10 + cb);
        const a = draw.floats(pixels * ca);
        const b = draw.floats(pixels * cb);
        await withScratch(gpu(), async (t) => {
          const y = t.outActivation("y", pixels, ca + cb);
          const da = t.outActivation("da", pixels, ca);
          const db = t.outActivation("db", pixels, cb);
          concatForward(gpu(), { pixels, ca, cb }, { a: t.activation(a, ca), b: t.activation(b, cb), y: y.storage });
          channelSlice(gpu(), { pixels, c: ca + cb, first: 0, count: ca }, { x: y.storage, y: da.storage });
          channelSlice(gpu(), { pixels, c: ca + cb, first: ca, count: cb }, { x: y.storage, y: db.storage });
          const got = await t.read(y, da, db);
          const want = concatForwardRef(pixels, ca, cb, a, b);
          expectExact("y", got[0], want, draw.seed);
          expectExact("da", got[1], channelSliceRef(pixels, ca + cb, 0, ca, want), draw.seed);
          expectExact("db", got[2], channelSliceRef(pixels, ca + cb, ca, cb, want), draw.seed);
        });
      }
  });

  it("window: pads, crops, both at once, vectors and floats", async () => {
    const windows = [
      { p: 12, q: 14, top: -3, left: -2 },
      { p: 3, q: 2, top: 2, left: 4 },
      { p: 9, q: 5, top: -4, left: 3 },
      { p: 5, q: 7, top: 0, left: 0 },
      { p: 2, q: 2, top: -9, left: 20 },
    ];
    for (const [i, window] of windows.entries())
      for (const [n, c] of [
        [1, 3],
        [2, 4],
        [3, 6],
      ] as const) {
        const s = { n, h: 5, w: 7, c, ...window };
        const draw = new Draw(123, i * 10 + c);
        const x = draw.floats(n * 35 * c);
        await withScratch(gpu(), async (t) => {
          const y = t.outActivation("y", n * s.p * s.q, c);
          const mask = t.outFloats("mask", n * s.p * s.q * c);
          window2d(gpu(), { ...s, c: padded(c) / 4 }, true, { x: t.activation(x, c), y: y.storage });
          window2d(gpu(), s, false, { x: t.floats(x), y: mask.storage });
          const got = await t.read(y, mask);
          expectExact("vectors", got[0], window2dRef(s, x), draw.seed);
          expectExact("floats", got[1], window2dRef(s, x), draw.seed);
        });
      }
  });
});

describe("linear combinations and sums", () => {
  it("channelAffine, with and without the offset", async () => {
    for (const [i, s] of SHAPES.entries())
      for (const shifted of [false, true]) {
        const draw = new Draw(130, i);
        const x = draw.floats(floatsOf(s));
        const scale = draw.floats(s.c, 0.5, 5);
        const shift = shifted ? draw.floats(s.c) : undefined;
        await withScratch(gpu(), async (t) => {
          const y = t.outActivation("y", pixelsOf(s), s.c);
          channelAffine(
            gpu(),
            { vec4s: vec4sOf(s), c4: padded(s.c) / 4 },
            {
              x: t.activation(x, s.c),
              scale: t.activation(scale, s.c),
              shift: shift && t.activation(shift, s.c),
              y: y.storage,
            },
          );
          const limit = rounding(channelAffineRef(abs(x), scale, shift && abs(shift)), 4);
          expectClose("y", (await t.read(y))[0], channelAffineRef(x, scale, shift), limit, draw.seed);
        });
      }
  });

  it("weightedSum, of one and of two", async () => {
    for (const [i, s] of SHAPES.entries())
      for (const both of [false, true]) {
        const draw = new Draw(131, i);
        const [a, b] = [draw.floats(floatsOf(s)), both ? draw.floats(floatsOf(s)) : undefined];
        const o = { alpha: 0.75, beta: -1.5 };
        await withScratch(gpu(), async (t) => {
          const y = t.outActivation("y", pixelsOf(s), s.c);
          const buffers = { a: t.activation(a, s.c), b: b && t.activation(b, s.c), y: y.storage };
          weightedSum(gpu(), vec4sOf(s), o, buffers);
          const limit = rounding(weightedSumRef(o.alpha, abs(a), -o.beta, b && abs(b)), 4);
          expectClose("y", (await t.read(y))[0], weightedSumRef(o.alpha, a, o.beta, b), limit, draw.seed);
        });
      }
  });

  it("channelSum, weighted or not, over several chunks", async () => {
    for (const [i, s] of [...SHAPES, { n: 2, h: 90, w: 101, c: 5 }].entries())
      for (const weightN of [0, 1, s.n]) {
        const draw = new Draw(132, i * 10 + weightN);
        const weight = weightN ? draw.mask(weightN * s.h * s.w, 0.4, true) : undefined;
        const x = weight ? nanInHoles(draw.floats(floatsOf(s)), s.c, weight) : draw.floats(floatsOf(s));
        await withScratch(gpu(), async (t) => {
          const sum = t.outActivation("sum", 1, s.c);
          const buffers = { x: t.activation(x, s.c), weight: weight && t.floats(weight), sum: sum.storage };
          channelSum(gpu(), s, buffers, weightN || 1);
          const limit = rounding(channelSumRef(s, abs(x), weight, weightN || 1));
          expectClose("sum", (await t.read(sum))[0], channelSumRef(s, x, weight, weightN || 1), limit, draw.seed);
        });
      }
  });

  it("sumPartials", async () => {
    for (const [chunks, vec4s] of [
      [1, 1],
      [2, 3],
      [64, 65],
      [257, 7],
    ] as const) {
      const draw = new Draw(133, chunks);
      const partials = draw.floats(chunks * vec4s * 4);
      await withScratch(gpu(), async (t) => {
        const sum = t.outFloats("sum", vec4s * 4);
        sumPartials(gpu(), { partials: t.floats(partials), sum: sum.storage, chunks, vec4s });
        const limit = rounding(sumPartialsRef(abs(partials), chunks));
        expectClose("sum", (await t.read(sum))[0], sumPartialsRef(partials, chunks), limit, draw.seed);
      });
    }
  });

  it("reduceScalar", async () => {
    for (const entries of [1, 2, 63, 64, 65, 127, 1000, 2048]) {
      const draw = new Draw(134, entries);
      const partials = draw.floats(entries * 4);
      await withScratch(gpu(), async (t) => {
        const value = t.outScalar("value");
        reduceScalar(gpu(), entries, { partials: t.floats(partials), value: value.storage });
        const limit = rounding([reduceScalarRef(abs(partials))]);
        expectClose("value", (await t.read(value))[0], [reduceScalarRef(partials)], limit, draw.seed);
      });
    }
  });
});
