/**
 * Kernels with half-precision buffers against their float64 references, on inputs that float16 holds exactly: results may be off by the
 * rounding of the float32 arithmetic, and where they are float16 by one rounding to it.
 */
import { describe, expect, it } from "vitest";
import type { Storage } from "../../src/gpu/pool.js";
import { floatToHalf, halfToFloat } from "../../src/half.js";
import {
  activationBackward,
  activationBackwardInPlace,
  activationBackwardRef,
  activationForward,
  activationRef,
} from "../../src/kernels/activation.js";
import {
  batchNormBackward,
  batchNormBackwardRef,
  batchNormForward,
  batchNormForwardRef,
} from "../../src/kernels/batchNorm.js";
import { batchNormStats, batchNormStatsRef } from "../../src/kernels/batchNormStats.js";
import { channelAffine, channelAffineRef } from "../../src/kernels/channelAffine.js";
import { channelSum, channelSumRef } from "../../src/kernels/channelSum.js";
import { compositeForward, compositeForwardRef } from "../../src/kernels/composite.js";
import { channelSlice, channelSliceRef, concatForward, concatForwardRef } from "../../src/kernels/concat.js";
import { gramBackward, gramBackwardRef, gramForward, gramForwardRef } from "../../src/kernels/gram.js";
import { l1Backward, l1BackwardRef, l1Forward, l1ForwardRef } from "../../src/kernels/l1.js";
import { maskMultiply, maskMultiplyRef } from "../../src/kernels/maskMultiply.js";
import { maxPoolBackward, maxPoolBackwardRef, maxPoolForward, maxPoolForwardRef } from "../../src/kernels/maxPool.js";
import { pixelScale, pixelScaleRef } from "../../src/kernels/pixelScale.js";
import { positiveBits, positiveBytes, positiveGate, positiveGateRef } from "../../src/kernels/positiveBits.js";
import {
  reluPoolBackward,
  reluPoolBackwardRef,
  reluPoolForward,
  reluPoolForwardRef,
  winnerBytes,
} from "../../src/kernels/reluPool.js";
import type { ActivationShape } from "../../src/kernels/shape.js";
import { totalVariationForward, totalVariationForwardRef } from "../../src/kernels/totalVariation.js";
import {
  upsampleBackward,
  upsampleBackwardRef,
  upsampleForward,
  upsampleForwardRef,
} from "../../src/kernels/upsample.js";
import { weightedSum, weightedSumRef } from "../../src/kernels/weightedSum.js";
import { window2d, window2dRef } from "../../src/kernels/window.js";
import { expectClose, HALF_ULP } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";
import { type Output, padded, type Scratch } from "../support/tensors.js";

const gpu = useGpu();

const toHalf = (values: ArrayLike<number>): Float32Array =>
  Float32Array.from(values, (v) => halfToFloat(floatToHalf(v)));

/** What float16 may be off: half a unit in the last place, and half the smallest number where that is larger. */
const halfRounding = (want: number): number => Math.abs(want) * 2 ** -11 + 2 ** -25;

/** One result: what it should be, and how large the terms of its sums are together. */
interface Wanted {
  readonly out: Output;
  readonly values: ArrayLike<number>;
  readonly half: boolean;
  readonly magnitude: number;
}

class Case {
  readonly wanted: Wanted[] = [];

  constructor(
    readonly t: Scratch,
    readonly draw: Draw,
    readonly s: ActivationShape,
  ) {}

  get pixels(): number {
    return this.s.n * this.s.h * this.s.w;
  }

  get vec4s(): number {
    return (this.pixels * padded(this.s.c)) / 4;
  }

  /** Values that float16 holds; every fifth is 0. */
  values(count = this.pixels * this.s.c, range = 2): Float32Array {
    return toHalf(this.draw.floats(count, -range, range).map((v, i) => (i % 5 === 0 ? 0 : v)));
  }

  in(values: ArrayLike<number>, c = this.s.c): Storage {
    return this.t.halfActivation(values, c);
  }

  /** A float16 result of `rows` pixels. */
  half(values: ArrayLike<number>, rows = this.pixels, c = this.s.c, magnitude = 4): Storage {
    const out = this.t.outActivation("half result", rows, c, true);
    this.wanted.push({ out, values, half: true, magnitude });
    return out.storage;
  }

  /** A float32 result; `magnitude` is that of the sum's terms together. */
  full(values: ArrayLike<number>, rows: number, c: number, magnitude: number): Storage {
    const out = this.t.outActivation("float32 result", rows, c);
    this.wanted.push({ out, values, half: false, magnitude });
    return out.storage;
  }

  async check(name: string): Promise<void> {
    const got = await this.t.read(...this.wanted.map(({ out }) => out));
    this.wanted.forEach(({ values, half, magnitude }, i) => {
      const tolerance = Float64Array.from(values, (v) => 64 * HALF_ULP * magnitude + (half ? halfRounding(v) : 0));
      expectClose(`${name}, result ${i}`, got[i], values, tolerance, this.draw.seed);
    });
  }
}

const SHAPES: readonly ActivationShape[] = [
  { n: 1, h: 2, w: 3, c: 1 },
  { n: 2, h: 5, w: 7, c: 6 },
  { n: 1, h: 12, w: 16, c: 16 },
];

/** Cases by name; each records its kernels and names its results. */
const CASES: Readonly<Record<string, (k: Case) => void>> = {
  activation(k) {
    for (const name of ["relu", "leakyRelu", "sigmoid"] as const) {
      const [x, dy] = [k.values(), k.values()];
      const y = toHalf(activationRef(name, 0.2, x));
      const o = { vec4s: k.vec4s, c: k.s.c, slope: 0.2 };
      activationForward(gpu(), name, o, { x: k.in(x), y: k.half(activationRef(name, 0.2, x)) });
      const dx = activationBackwardRef(name, 0.2, y, dy);
      const s = { vec4s: k.vec4s, slope: 0.2 };
      activationBackward(gpu(), name, s, { y: k.in(y), dy: k.in(dy), dx: k.half(dx) });
      const gradient = k.half(dx);
      k.t.gpu.write(gradient, padRows(dy, k.s.c));
      activationBackwardInPlace(gpu(), name, s, { y: k.in(y), gradient });
    }
  },
  batchNorm(k) {
    const { s, pixels } = k;
    const x = k.values(undefined, 4);
    const mask = k.draw.mask(pixels, 0.3);
    const [gamma, beta] = [k.draw.floats(s.c, 0.5, 1.5), k.draw.floats(s.c)];
    const eps = 1e-3;
    const { mean, variance, count } = batchNormStatsRef(s, x, mask, s.n);
    const constant = (values: ArrayLike<number>) => k.t.activation(values, s.c);
    const running = { runningMean: constant(mean), runningVar: constant(variance) };
    const stats = k.t.floats(new Float32Array(3 * padded(s.c)));
    const storages = { x: k.in(x), stats, mask: k.t.floats(mask), gamma: constant(gamma), beta: constant(beta) };
    batchNormStats(gpu(), s, { eps, momentum: 0, maskN: s.n }, { ...storages, ...running });
    const o = { x, mean, variance, eps, gamma, beta, mask, maskN: s.n, slope: 0.2 };
    const y = k.half(batchNormForwardRef(s, o), k.pixels, s.c, 100);
    batchNormForward(gpu(), s, s.n, { ...storages, y }, 0.2);
    const dy = k.values();
    const want = batchNormBackwardRef(s, { ...o, dy, statistics: "valid", masked: true, count });
    const sums = k.full([...want.dbeta, ...want.dgamma], 2, s.c, 8 * pixels);
    const options = { statistics: "valid", masked: true, maskN: s.n, slope: 0.2 } as const;
    batchNormBackward(gpu(), s, options, { ...storages, dy: k.in(dy), sums, dx: k.half(want.dx, pixels, s.c, 100) });
  },
  channelAffine(k) {
    const [scale, shift] = [k.draw.floats(k.s.c), k.draw.floats(k.s.c)];
    const x = k.values();
    const storages = { scale: k.t.activation(scale, k.s.c), shift: k.t.activation(shift, k.s.c) };
    const y = k.half(channelAffineRef(x, scale, shift));
    channelAffine(gpu(), { vec4s: k.vec4s, c4: padded(k.s.c) / 4 }, { x: k.in(x), ...storages, y });
  },
  channelSum(k) {
    const [x, weight] = [k.values(), k.draw.mask(k.pixels, 0.3, true)];
    const sum = k.full(channelSumRef(k.s, x, weight, k.s.n), 1, k.s.c, 2 * k.pixels);
    channelSum(gpu(), k.s, { x: k.in(x), weight: k.t.floats(weight), sum }, k.s.n);
  },
  composite(k) {
    const [gt, out, mask] = [k.values(), k.values(), k.draw.mask(k.pixels, 0.3, true)];
    const comp = k.half(compositeForwardRef(k.s, k.s.n, gt, out, mask));
    compositeForward(gpu(), k.s, k.s.n, { gt: k.in(gt), out: k.in(out), mask: k.t.floats(mask), comp });
  },
  concat(k) {
    const { c } = k.s;
    const [a, b] = [k.values(), k.values(k.pixels * 3)];
    const y = concatForwardRef(k.pixels, c, 3, a, b);
    const sizes = { pixels: k.pixels, ca: c, cb: 3 };
    concatForward(gpu(), sizes, { a: k.in(a), b: k.in(b, 3), y: k.half(y, k.pixels, c + 3) });
    const slice = k.half(channelSliceRef(k.pixels, c + 3, c, 3, y), k.pixels, 3);
    channelSlice(gpu(), { pixels: k.pixels, c: c + 3, first: c, count: 3 }, { x: k.in(y, c + 3), y: slice });
  },
  gram(k) {
    const { s } = k;
    const [f, dg] = [k.values(), k.draw.floats(s.n * s.c * s.c)];
    gramForward(gpu(), s, { f: k.in(f), g: k.full(gramForwardRef(s, f), s.n * s.c, s.c, 4) });
    const df = k.half(gramBackwardRef(s, f, dg));
    gramBackward(gpu(), s, { f: k.in(f), dg: k.t.activation(dg, s.c), df });
  },
  l1(k) {
    const [a, b, mask] = [k.values(), k.values(), k.draw.mask(k.pixels, 0.3)];
    for (const region of ["all", "hole"] as const) {
      const o = { region, factor: 0.25, maskN: k.s.n };
      const storages = { a: k.in(a), b: k.in(b), mask: k.t.floats(mask) };
      const value = k.full([l1ForwardRef(k.s, o, a, b, mask)], 1, 1, k.pixels * k.s.c);
      l1Forward(gpu(), k.s, o, { ...storages, value });
      const dvalue = k.t.floats([64, 0, 0, 0]);
      l1Backward(gpu(), k.s, o, {
        ...storages,
        dvalue,
        da: k.half(l1BackwardRef(k.s, o, a, b, 64, mask)),
      });
    }
  },
  maskMultiply(k) {
    const [x, mask] = [k.values(), k.draw.mask(k.pixels, 0.3, true)];
    const groupOf = new Float32Array(k.s.c);
    // NaN under a hole must not get out.
    const spoilt = x.map((v, i) => (mask[Math.floor(i / k.s.c)] === 0 ? NaN : v));
    const y = k.half(maskMultiplyRef(k.s, x, mask, groupOf, k.s.n, 1));
    const storages = { x: k.in(spoilt), mask: k.t.floats(mask), groupOf: k.t.activation(groupOf, k.s.c), y };
    maskMultiply(gpu(), k.s, k.s.n, 1, storages);
  },
  pools(k) {
    const { s } = k;
    const small = s.n * (s.h >> 1) * (s.w >> 1);
    const [x, dy] = [k.values(), k.values(small * s.c)];
    maxPoolForward(gpu(), s, { x: k.in(x), y: k.half(maxPoolForwardRef(s, x), small) });
    maxPoolBackward(gpu(), s, { x: k.in(x), dy: k.in(dy), dx: k.half(maxPoolBackwardRef(s, x, dy)) });
    const winners = k.t.floats(new Float32Array(winnerBytes(s) / 4));
    reluPoolForward(gpu(), s, { x: k.in(x), y: k.half(reluPoolForwardRef(s, x), small), winners });
    reluPoolBackward(gpu(), s, { winners, dy: k.in(dy), dx: k.half(reluPoolBackwardRef(s, x, dy)) });
  },
  pixelScale(k) {
    const [dy, y, scale] = [k.values(), k.values(), k.draw.mask(k.pixels, 0.3, true)];
    const activated = { y, slope: 0.2 };
    const g = k.half(pixelScaleRef(k.s, dy, scale, k.s.n, activated));
    const storages = { dy: k.in(dy), scale: k.t.floats(scale), activated: { y: k.in(y), slope: 0.2 }, g };
    pixelScale(gpu(), k.s, k.s.n, storages);
  },
  positiveBits(k) {
    const [y, dy] = [k.values(), k.values()];
    const bits = k.t.floats(new Float32Array(positiveBytes(k.vec4s) / 4));
    positiveBits(gpu(), k.vec4s, { y: k.in(y), bits });
    const gradient = k.half(positiveGateRef(0.2, y, dy));
    k.t.gpu.write(gradient, padRows(dy, k.s.c));
    positiveGate(gpu(), { vec4s: k.vec4s, slope: 0.2 }, { bits, gradient });
  },
  totalVariation(k) {
    const x = k.values();
    const o = { region: "all", factorX: 0.5, factorY: 0.25, regionN: 1 } as const;
    const value = k.full([totalVariationForwardRef(k.s, o, x)], 1, 1, 2 * k.pixels * k.s.c);
    totalVariationForward(gpu(), k.s, o, { x: k.in(x), value });
  },
  upsample(k) {
    const [x, dy] = [k.values(), k.values(4 * k.pixels * k.s.c)];
    upsampleForward(gpu(), k.s, { x: k.in(x), y: k.half(upsampleForwardRef(k.s, x), 4 * k.pixels) });
    upsampleBackward(gpu(), k.s, { dy: k.in(dy), dx: k.half(upsampleBackwardRef(k.s, dy)) });
  },
  weightedSum(k) {
    const [a, b] = [k.values(), k.values()];
    const y = k.half(weightedSumRef(0.3, a, -1.7, b));
    weightedSum(gpu(), k.vec4s, { alpha: 0.3, beta: -1.7 }, { a: k.in(a), b: k.in(b), y });
  },
  window(k) {
    const x = k.values();
    const w = { n: k.s.n, h: k.s.h, w: k.s.w, c: padded(k.s.c), p: k.s.h + 2, q: k.s.w - 1, top: -1, left: 1 };
    const want = window2dRef({ ...w, c: k.s.c }, x);
    const y = k.half(want, w.n * w.p * w.q);
    window2d(gpu(), { ...w, c: w.c / 4 }, true, { x: k.in(x), y });
  },
};

/** Rows of c channels, padded with zeros. */
function padRows(values: ArrayLike<number>, c: number): Float32Array {
  const width = padded(c);
  const rows = new Float32Array((values.length / c) * width);
  for (let i = 0; i < values.length; i++) rows[Math.floor(i / c) * width + (i % c)] = values[i];
  return rows;
}

describe("kernels with half-precision buffers", () => {
  it.each(Object.keys(CASES))("%s", async (name) => {
    if (!gpu().half) return console.warn("this adapter has no half precision");
    for (const [i, s] of SHAPES.entries()) {
      await withScratch(gpu(), async (t) => {
        const k = new Case(t, new Draw(950 + Object.keys(CASES).indexOf(name), i), s);
        CASES[name](k);
        await k.check(`${name} ${JSON.stringify(s)}`);
      });
    }
  });

  it("make an overflow infinite, keep NaN, and round to nearest even", async () => {
    if (!gpu().half) return console.warn("this adapter has no half precision");
    await withScratch(gpu(), async (t) => {
      // Ties between two float16: 2049 lies between 2048 and 2050, 2051 between 2050 and 2052.
      const x = [65519, 65520, -1e30, NaN, Infinity, 2049, 2051, 1e-9];
      const y = t.halfActivation(x.map(() => 1), 8); // prettier-ignore
      weightedSum(gpu(), 2, { alpha: 1 }, { a: t.floats(x), y });
      const [got] = await gpu().read(y);
      expect([...got]).toEqual([65504, Infinity, -Infinity, NaN, Infinity, 2048, 2052, 0]);
      // What was written from the host, rounded there, reads the same.
      const [host] = await gpu().read(t.halfActivation(x, 8));
      expect([...host]).toEqual([...got]);
    });
  });
});
