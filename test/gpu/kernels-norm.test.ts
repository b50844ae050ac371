/** Batch normalisation: statistics, forward and backward against the references. */
import { describe, expect, it } from "vitest";
import {
  batchNormBackward,
  batchNormBackwardRef,
  batchNormForward,
  batchNormForwardRef,
  type BatchNormStatistics,
} from "../../src/kernels/batchNorm.js";
import { batchNormFold, batchNormFoldRef } from "../../src/kernels/batchNormFold.js";
import { batchNormStats, batchNormStatsRef, runningStatsRef } from "../../src/kernels/batchNormStats.js";
import type { ActivationShape } from "../../src/kernels/shape.js";
import { expectClose, rounding } from "../support/close.js";
import { Draw, HOLE_SHARES, nanInHoles } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();
const EPS = 1e-5;
const MOMENTUM = 0.1;

const SHAPES: readonly ActivationShape[] = [
  { n: 2, h: 3, w: 5, c: 3 },
  { n: 1, h: 2, w: 1, c: 1 },
  { n: 3, h: 17, w: 13, c: 6 },
  { n: 1, h: 131, w: 150, c: 4 },
];

/** Statistics in the kernel's layout: [3,C] rows of mean, invStd, count. */
function statsRows(o: { mean: Float64Array; variance: Float64Array; count: number }): Float64Array {
  const invStd = o.variance.map((v) => 1 / Math.sqrt(v + EPS));
  return Float64Array.of(...o.mean, ...invStd, ...o.mean.map(() => o.count));
}

/** Relative to the largest magnitude: normalisation mixes all pixels of a channel. */
function limitOf(want: ArrayLike<number>, share = 2e-6): number {
  let top = 0;
  for (let i = 0; i < want.length; i++) top = Math.max(top, Math.abs(want[i]));
  return share * (top + 1e-3);
}

type BackwardInput = Parameters<typeof batchNormBackwardRef>[1];

/** The forward's and the backward's terms, each by its magnitude: what their rounding errors are relative to. */
function magnitudes(s: ActivationShape, o: BackwardInput) {
  const counts = (i: number) => !o.masked || o.mask![Math.floor(i / s.c) % o.mask!.length] !== 0;
  const invStd = Float64Array.from(o.variance, (v) => 1 / Math.sqrt(v + o.eps));
  const xhat = (i: number) => (counts(i) ? Math.abs(o.x[i] - o.mean[i % s.c]) * invStd[i % s.c] : 0);
  const g = (i: number) => (counts(i) ? Math.abs(o.dy[i]) : 0);
  const dbeta = new Float64Array(s.c);
  const dgamma = new Float64Array(s.c);
  for (let i = 0; i < o.x.length; i++) {
    dbeta[i % s.c] += g(i);
    dgamma[i % s.c] += g(i) * xhat(i);
  }
  const share = o.statistics === "fixed" ? 0 : 1 / Math.max(o.count, 1);
  const each = (f: (i: number, c: number) => number) =>
    Float64Array.from({ length: o.x.length }, (_, i) => f(i, i % s.c));
  // In holes that the statistics count, x enters dx although y there is 0.
  const raw = (i: number, c: number) => (Math.abs(o.x[i] - o.mean[c]) || 0) * invStd[c];
  return {
    y: each((i, c) => xhat(i) * o.gamma[c] + Math.abs(o.beta[c])),
    dx: each((i, c) => {
      const factor = o.scaled ? o.mask![Math.floor(i / s.c) % o.mask!.length] : 1;
      return factor * o.gamma[c] * invStd[c] * (g(i) + share * (dbeta[c] + raw(i, c) * dgamma[c]));
    }),
    dbeta,
    dgamma,
  };
}

describe("batch normalisation", () => {
  const cases = (["all", "valid", "fixed"] as const).flatMap((statistics: BatchNormStatistics) =>
    [false, true].flatMap((masked) => [false, true].map((shared) => ({ statistics, masked, shared }))),
  );
  it.each(cases)("%j", async ({ statistics, masked, shared }) => {
    for (const [i, s] of SHAPES.entries())
      for (const [j, holes] of HOLE_SHARES.entries()) {
        const draw = new Draw(200, i * 10 + j);
        const pixels = s.n * s.h * s.w;
        const maskN = shared ? 1 : s.n;
        const mask = draw.mask(maskN * s.h * s.w, holes);
        // An activation may follow; with `scaled` the mask is a layer's ratio, whose values multiply dx.
        const slope = draw.pick([1, 0, 0.2]);
        const scaled = draw.pick([false, true]);
        if (scaled) mask.forEach((v, at) => (mask[at] = v * (1 + (at % 7))));
        const counted = statistics === "valid" ? mask : undefined;
        const zeroed = masked ? mask : undefined;
        // A mean far from zero costs naive one-pass variances all their digits.
        const any = draw.floats(pixels * s.c, 20, 22);
        // With statistics over all pixels, holes count as what they hold: 0. Elsewhere nothing of them may be read.
        const inHoles = nanInHoles(any, s.c, mask);
        const x = masked ? (statistics === "all" ? inHoles.map((v) => v || 0) : inHoles) : any;
        const dy = masked ? nanInHoles(draw.floats(x.length), s.c, mask) : draw.floats(x.length);
        const gamma = draw.floats(s.c, 0.5, 2);
        const beta = draw.floats(s.c);
        const [mean0, var0] = [draw.floats(s.c), draw.floats(s.c, 0.5, 1)];
        const batch = batchNormStatsRef(s, x, counted, maskN);
        const used =
          statistics === "fixed"
            ? { mean: draw.doubles(s.c, 20, 22), variance: draw.doubles(s.c, 0.2, 1), count: 0 }
            : batch;
        const stats = statsRows(used);

        await withScratch(gpu(), async (t) => {
          const xBuffer = t.activation(x, s.c);
          const maskBuffer = t.floats(mask);
          const gammaBuffer = t.activation(gamma, s.c);
          const betaBuffer = t.activation(beta, s.c);
          const statsOut = t.outActivation("stats", 3, s.c);
          for (const runningVariance of statistics === "fixed" ? [] : (["within", "total"] as const)) {
            const running = [mean0, var0].map((v) => t.activation(v, s.c));
            batchNormStats(
              gpu(),
              s,
              { eps: EPS, momentum: MOMENTUM, maskN, runningVariance },
              {
                x: xBuffer,
                mask: counted && maskBuffer,
                stats: statsOut.storage,
                runningMean: running[0],
                runningVar: running[1],
              },
            );
            const outs = running.map((storage) => ({ storage, decode: (v: Float32Array) => v.subarray(0, s.c) }));
            const [meanGot, varGot] = await t.read(...outs);
            const gotStats = (await gpu().read(statsOut.storage))[0];
            for (const [row, name] of ["mean", "invStd", "count"].entries()) {
              const c4 = Math.ceil(s.c / 4) * 4;
              const got = gotStats.subarray(row * c4, row * c4 + s.c);
              const want = stats.subarray(row * s.c, (row + 1) * s.c);
              expectClose(name, got, want, row === 2 ? 0 : limitOf(want), draw.seed);
            }
            const want = runningStatsRef(MOMENTUM, runningVariance, batch, { mean: mean0, variance: var0 });
            expectClose("running mean", meanGot, want.mean, 4e-6, draw.seed);
            // Where the means lie far apart, their squares are the largest part of the sum.
            expectClose("running variance", varGot, want.variance, limitOf(want.variance), draw.seed);
          }

          const statsBuffer = t.activation(stats, s.c);
          const y = t.outActivation("y", pixels, s.c);
          const dx = t.outActivation("dx", pixels, s.c);
          const sums = t.outActivation("sums", 2, s.c);
          batchNormForward(gpu(), s, maskN, {
            x: xBuffer,
            stats: statsBuffer,
            gamma: gammaBuffer,
            beta: betaBuffer,
            mask: zeroed && maskBuffer,
            y: y.storage,
          }, slope); // prettier-ignore
          batchNormBackward(
            gpu(),
            s,
            { statistics, masked, maskN, slope, scaled },
            {
              x: xBuffer,
              dy: t.activation(dy, s.c),
              stats: statsBuffer,
              gamma: gammaBuffer,
              beta: betaBuffer,
              mask: maskBuffer,
              sums: sums.storage,
              dx: dx.storage,
            },
          );
          const [yGot, dxGot, sumsGot] = await t.read(y, dx, sums);
          // What the kernels were given, float32: the reference inverts the standard deviation itself.
          const f32 = Float32Array.from(stats);
          const o = {
            x,
            mean: f32.subarray(0, s.c),
            variance: Float64Array.from(f32.subarray(s.c, 2 * s.c), (v) => 1 / (v * v) - EPS),
            eps: EPS,
            gamma,
            beta,
            maskN,
            slope,
          };
          const yRef = batchNormForwardRef(s, { ...o, mask: zeroed });
          const back = batchNormBackwardRef(s, { ...o, mask, dy, statistics, masked, scaled, count: used.count });
          const size = magnitudes(s, { ...o, mask, dy, statistics, masked, scaled, count: used.count });
          expectClose("y", yGot, yRef, rounding(size.y, 8), draw.seed);
          expectClose("dbeta", sumsGot.subarray(0, s.c), back.dbeta, rounding(size.dbeta), draw.seed);
          expectClose("dgamma", sumsGot.subarray(s.c), back.dgamma, rounding(size.dgamma), draw.seed);
          expectClose("dx", dxGot, back.dx, rounding(size.dx, 24), draw.seed);
          if (masked && statistics !== "all") {
            expect(dxGot.every((v, at) => mask[Math.floor(at / s.c) % mask.length] !== 0 || v === 0)).toBe(true);
          }
        });
      }
  });
});

it.each([1, 4, 7, 64])("folding of %i channels into bias and gain", async (c) => {
  for (const biased of [false, true]) {
    const draw = new Draw(61, 2 * c + Number(biased));
    const [mean, gamma, beta, bias] = [draw.floats(c), draw.floats(c), draw.floats(c), draw.floats(c)];
    const variance = draw.floats(c, 1e-6, 2);
    const want = batchNormFoldRef(EPS, { mean, variance, gamma, beta, bias: biased ? bias : undefined });
    await withScratch(gpu(), async (t) => {
      const folded = t.outActivation("folded", 2, c);
      const row = (values: Float32Array) => t.activation(values, c);
      const fixed = { runningMean: row(mean), runningVar: row(variance), gamma: row(gamma), beta: row(beta) };
      const given = biased ? { bias: row(bias) } : {};
      batchNormFold(gpu(), { c, eps: EPS }, { ...fixed, ...given, folded: folded.storage });
      const [got] = await t.read(folded);
      const sizes = want.gain.map((g, i) => Math.abs(beta[i]) + Math.abs(g) * (Math.abs(bias[i]) + Math.abs(mean[i])));
      expectClose("bias", got.subarray(0, c), want.bias, rounding(sizes, 4), draw.seed);
      expectClose("gain", got.subarray(c), want.gain, rounding(want.gain.map(Math.abs), 4), draw.seed);
    });
  }
});
