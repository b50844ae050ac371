/** Gram matrices, L1 distances and total variation against their references. */
import { describe, it } from "vitest";
import { gramBackward, gramBackwardRef, gramForward, gramForwardRef } from "../../src/kernels/gram.js";
import { l1Backward, l1BackwardRef, l1Forward, l1ForwardRef } from "../../src/kernels/l1.js";
import type { ActivationShape } from "../../src/kernels/shape.js";
import {
  totalVariationBackward,
  totalVariationBackwardRef,
  totalVariationForward,
  totalVariationForwardRef,
} from "../../src/kernels/totalVariation.js";
import { abs, expectClose, rounding } from "../support/close.js";
import { Draw, HOLE_SHARES, nanInHoles } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();

const SHAPES: readonly ActivationShape[] = [
  { n: 1, h: 1, w: 1, c: 1 },
  { n: 2, h: 5, w: 7, c: 3 },
  { n: 3, h: 8, w: 9, c: 4 },
  { n: 1, h: 67, w: 61, c: 6 },
  { n: 2, h: 12, w: 11, c: 17 },
  { n: 3, h: 9, w: 7, c: 32 },
];

describe("gram", () => {
  it.each(SHAPES)("%j", async (s) => {
    const draw = new Draw(300, SHAPES.indexOf(s));
    const f = draw.floats(s.n * s.h * s.w * s.c);
    const dg = draw.floats(s.n * s.c * s.c);
    await withScratch(gpu(), async (t) => {
      const g = t.outActivation("g", s.n * s.c, s.c);
      const df = t.outActivation("df", s.n * s.h * s.w, s.c);
      const fBuffer = t.activation(f, s.c);
      gramForward(gpu(), s, { f: fBuffer, g: g.storage });
      gramBackward(gpu(), s, { f: fBuffer, dg: t.activation(dg, s.c), df: df.storage });
      const got = await t.read(g, df);
      expectClose("g", got[0], gramForwardRef(s, f), rounding(gramForwardRef(s, abs(f))), draw.seed);
      expectClose("df", got[1], gramBackwardRef(s, f, dg), rounding(gramBackwardRef(s, abs(f), abs(dg))), draw.seed);
    });
  });
});

describe("l1", () => {
  it.each(["all", "valid", "hole"] as const)("region %s", async (region) => {
    for (const [i, s] of SHAPES.entries())
      for (const [j, holes] of HOLE_SHARES.entries())
        for (const maskN of [1, s.n]) {
          const draw = new Draw(310, i * 10 + j);
          const mask = draw.mask(maskN * s.h * s.w, holes, draw.pick([false, true]));
          const any = draw.floats(s.n * s.h * s.w * s.c);
          // Equal values somewhere: the sign there is 0. NaN where the region gives no weight.
          const b = draw.floats(any.length).map((v, at) => (at % 7 === 0 ? any[at] : v));
          const weight = region === "valid" ? mask : mask.map((m) => 1 - m);
          const a = region === "all" ? any : nanInHoles(any, s.c, weight);
          const o = { region, factor: 1 / any.length, maskN };
          const dvalue = -2.5;
          await withScratch(gpu(), async (t) => {
            const value = t.outScalar("value");
            const da = t.outActivation("da", s.n * s.h * s.w, s.c);
            const buffers = { a: t.activation(a, s.c), b: t.activation(b, s.c), mask: t.floats(mask) };
            l1Forward(gpu(), s, o, { ...buffers, value: value.storage });
            l1Backward(gpu(), s, o, { ...buffers, dvalue: t.activation([dvalue], 1), da: da.storage });
            const got = await t.read(value, da);
            const want = l1ForwardRef(s, o, a, b, mask);
            expectClose("value", got[0], [want], rounding([want]), draw.seed);
            const wantDa = l1BackwardRef(s, o, a, b, dvalue, mask);
            expectClose("da", got[1], wantDa, rounding(abs(wantDa), 8), draw.seed);
          });
        }
  });
});

describe("total variation", () => {
  it.each(["all", "inside", "product"] as const)("region %s", async (kind) => {
    for (const [i, s] of SHAPES.entries())
      for (const [j, outside] of HOLE_SHARES.entries())
        for (const regionN of [1, s.n]) {
          const draw = new Draw(320, i * 10 + j);
          const region = draw.mask(regionN * s.h * s.w, outside);
          const any = draw.floats(s.n * s.h * s.w * s.c).map((v, at) => (at % 5 === 0 ? 0 : v));
          const x = kind === "all" ? any : nanInHoles(any, s.c, region);
          const o = { region: kind, factorX: 0.25, factorY: 0.75, regionN };
          const dvalue = 1.5;
          await withScratch(gpu(), async (t) => {
            const value = t.outScalar("value");
            const dx = t.outActivation("dx", s.n * s.h * s.w, s.c);
            const buffers = { x: t.activation(x, s.c), region: kind === "all" ? undefined : t.floats(region) };
            totalVariationForward(gpu(), s, o, { ...buffers, value: value.storage });
            totalVariationBackward(gpu(), s, o, { ...buffers, dvalue: t.activation([dvalue], 1), dx: dx.storage });
            const got = await t.read(value, dx);
            const want = totalVariationForwardRef(s, o, x, region);
            expectClose("value", got[0], [want], rounding([want]), draw.seed);
            // Sums of at most four multiples of 1/8: exact.
            expectClose("dx", got[1], totalVariationBackwardRef(s, o, x, dvalue, region), 0, draw.seed);
          });
        }
  });
});
