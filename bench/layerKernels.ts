/** The kernels of layers and optimizer that are neither convolution nor normalisation, over a layer's output. */
import {
  activationBackward,
  activationBackwardInPlace,
  activationBackwardRef,
  activationForward,
  activationRef,
} from "../src/kernels/activation.js";
import { adam, adamRef } from "../src/kernels/adam.js";
import { batchNormFold, batchNormFoldRef } from "../src/kernels/batchNormFold.js";
import { batchNormFixed, batchNormStats, batchNormStatsRef } from "../src/kernels/batchNormStats.js";
import { channelAffine, channelAffineRef } from "../src/kernels/channelAffine.js";
import { channelSum, channelSumRef } from "../src/kernels/channelSum.js";
import { channelSlice, channelSliceRef, concatForward, concatForwardRef } from "../src/kernels/concat.js";
import { maskJoin, maskJoinRef } from "../src/kernels/maskJoin.js";
import { maskUpdateUp, maskUpdateUpRef } from "../src/kernels/maskUpdateUp.js";
import { maskMultiply, maskMultiplyRef } from "../src/kernels/maskMultiply.js";
import { pixelScale, pixelScaleRef } from "../src/kernels/pixelScale.js";
import { MAX_PARTIALS, reduceScalar, reduceScalarRef } from "../src/kernels/reduceScalar.js";
import type { Storage } from "../src/gpu/pool.js";
import { vec4s } from "../src/kernels/shape.js";
import { sumPartials, sumPartialsRef } from "../src/kernels/sumPartials.js";
import { transposeWeight, transposeWeightRef } from "../src/kernels/transposeWeight.js";
import { upsampleBackward, upsampleBackwardRef, upsampleForward, upsampleForwardRef } from "../src/kernels/upsample.js";
import { weightedSum, weightedSumRef } from "../src/kernels/weightedSum.js";
import { window2d, window2dRef } from "../src/kernels/window.js";
import { binary, type Op, positive, storages } from "./op.js";

const SLOPE = 0.2;
const ADAM = { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, t: 3 };
const EPS = 1e-5;
const CHUNKS = 64;
const MARGIN = 4;

/** First those that others dispatch as well: a run that measures compilation must meet them alone. */
export const LAYER_OPS: readonly Op[] = [
  {
    kernel: "sumPartials",
    pass: "forward",
    covers: ["sumPartials"],
    plan: ({ gpu, layer, input, result }) => {
      const rows = layer.kernel[0] * layer.kernel[1];
      const [partials, sum] = [input(CHUNKS * rows, layer.k), result(rows, layer.k)];
      return {
        flops: CHUNKS * rows * layer.k,
        record: () =>
          sumPartials(gpu, { ...storages({ partials, sum }), chunks: CHUNKS, vec4s: rows * vec4s(layer.k) }),
        want: () => [[sum, sumPartialsRef(partials.values, CHUNKS)]],
      };
    },
  },
  {
    kernel: "reduceScalar",
    pass: "forward",
    covers: ["reduceScalar"],
    plan: ({ gpu, input, result }) => {
      const [partials, value] = [input(MAX_PARTIALS, 4), result(1, 1)];
      return {
        flops: 4 * MAX_PARTIALS,
        record: () => reduceScalar(gpu, MAX_PARTIALS, storages({ partials, value })),
        want: () => [[value, [reduceScalarRef(partials.values)]]],
      };
    },
  },
  {
    kernel: "transposeWeight",
    pass: "dx",
    covers: ["transposeWeight"],
    plan: ({ gpu, layer, input, result }) => {
      // Weights are padded in both channel counts: whole vec4s need no other care.
      const s = { ...layer, c: 4 * vec4s(layer.c), k: 4 * vec4s(layer.k) };
      const taps = s.kernel[0] * s.kernel[1];
      const [weight, transposed] = [input(taps * s.c, s.k), result(taps * s.k, s.c)];
      return {
        flops: 0,
        record: () => transposeWeight(gpu, s, weight.storage, transposed.storage),
        want: () => [[transposed, transposeWeightRef(s, weight.values)]],
      };
    },
  },
  {
    kernel: "pixelScale",
    pass: "dx",
    covers: ["pixelScale"],
    plan: ({ gpu, s, count, input, result, mask }) => {
      const [x, scale, y] = [input(), mask(), result()];
      return {
        flops: count,
        record: () => pixelScale(gpu, s, s.n, storages({ dy: x, scale, g: y })),
        want: () => [[y, pixelScaleRef(s, x.values, scale.values, s.n)]],
      };
    },
  },
  {
    kernel: "activation",
    pass: "forward",
    covers: ["activationForward"],
    plan: ({ gpu, s, count, vec4s, input, result }) => {
      const [x, y] = [input(), result()];
      return {
        flops: 2 * count,
        record: () => activationForward(gpu, "leakyRelu", { vec4s, c: s.c, slope: SLOPE }, storages({ x, y })),
        want: () => [[y, activationRef("leakyRelu", SLOPE, x.values)]],
      };
    },
  },
  {
    kernel: "activation",
    pass: "dx",
    covers: ["activationBackward"],
    plan: ({ gpu, count, vec4s, input, result }) => {
      const [y, dy, dx] = [input(), input(), result()];
      return {
        flops: 2 * count,
        record: () => activationBackward(gpu, "leakyRelu", { vec4s, slope: SLOPE }, storages({ y, dy, dx })),
        want: () => [[dx, activationBackwardRef("leakyRelu", SLOPE, y.values, dy.values)]],
      };
    },
  },
  {
    kernel: "activationBackwardInPlace",
    pass: "dx",
    covers: ["activationBackwardInPlace"],
    plan: ({ gpu, count, vec4s, input }) => {
      const [y, gradient] = [input(), input()];
      return {
        flops: 2 * count,
        record: () => activationBackwardInPlace(gpu, "leakyRelu", { vec4s, slope: SLOPE }, storages({ y, gradient })),
        want: () => [[gradient, activationBackwardRef("leakyRelu", SLOPE, y.values, gradient.values)]],
      };
    },
  },
  {
    kernel: "adam",
    pass: "dw",
    covers: ["adam"],
    plan: ({ gpu, layer, input }) => {
      const rows = layer.kernel[0] * layer.kernel[1] * layer.c;
      const [parameter, gradient, m] = [input(rows, layer.k), input(rows, layer.k), input(rows, layer.k)];
      const v = input(rows, layer.k, positive);
      return {
        flops: 14 * rows * layer.k,
        record: () => adam(gpu, rows * vec4s(layer.k), ADAM, storages({ parameter, gradient, m, v })),
        want: () => {
          const [p, first, second] = [parameter, m, v].map((o) => Float64Array.from(o.values));
          adamRef(ADAM, p, gradient.values, first, second);
          return [[parameter, p], [m, first], [v, second]]; // prettier-ignore
        },
      };
    },
  },
  {
    kernel: "batchNormFixed",
    pass: "forward",
    covers: ["batchNormFixed"],
    plan: ({ gpu, s, input, result }) => {
      const [runningMean, runningVar, stats] = [input(1), input(1, s.c, positive), result(3)];
      return {
        flops: 3 * s.c,
        record: () => batchNormFixed(gpu, { c: s.c, eps: EPS }, storages({ runningMean, runningVar, stats })),
        want: () => {
          const invStd = Float64Array.from(runningVar.values, (v) => 1 / Math.sqrt(v + EPS));
          return [[stats, [...runningMean.values, ...invStd, ...new Float64Array(s.c)]]];
        },
      };
    },
  },
  {
    kernel: "batchNormJoin",
    pass: "forward",
    covers: ["batchNormChunks", "batchNormJoin", "batchNormStats"],
    plan: ({ gpu, s, count, input, result }) => {
      const [x, runningMean, runningVar, stats] = [input(), input(1), input(1, s.c, positive), result(3)];
      const copy = (own: Storage, all: Storage) => gpu.copy(own, all, own.bytes);
      const alone = { size: 1, gather: copy, sum: copy }; // what several ranks do, without the exchange
      const settings = { eps: EPS, momentum: 0.1, maskN: 1 };
      return {
        flops: 5 * count,
        record: () => batchNormStats(gpu, s, settings, storages({ x, runningMean, runningVar, stats }), alone),
        want: () => {
          const { mean, variance, count: pixels } = batchNormStatsRef(s, x.values);
          const invStd = variance.map((v) => 1 / Math.sqrt(v + EPS));
          return [[stats, [...mean, ...invStd, ...mean.map(() => pixels)]]];
        },
      };
    },
  },
  {
    kernel: "batchNormFold",
    pass: "forward",
    covers: ["batchNormFold"],
    plan: ({ gpu, s, input, result }) => {
      const [runningMean, gamma, beta, bias] = [input(1), input(1), input(1), input(1)];
      const [runningVar, folded] = [input(1, s.c, positive), result(2)];
      const fixed = { runningMean, runningVar, gamma, beta, bias, folded };
      return {
        flops: 5 * s.c,
        record: () => batchNormFold(gpu, { c: s.c, eps: EPS }, storages(fixed)),
        want: () => {
          const [mean, variance] = [runningMean.values, runningVar.values];
          const of = { mean, variance, gamma: gamma.values, beta: beta.values, bias: bias.values };
          const want = batchNormFoldRef(EPS, of);
          return [[folded, [...want.bias, ...want.gain]]];
        },
      };
    },
  },
  {
    kernel: "channelAffine",
    pass: "forward",
    covers: ["channelAffine"],
    plan: ({ gpu, s, count, vec4s: total, input, result }) => {
      const [x, scale, shift, y] = [input(), input(1), input(1), result()];
      return {
        flops: 2 * count,
        record: () => channelAffine(gpu, { vec4s: total, c4: vec4s(s.c) }, storages({ x, scale, shift, y })),
        want: () => [[y, channelAffineRef(x.values, scale.values, shift.values)]],
      };
    },
  },
  {
    kernel: "channelSum",
    pass: "dw",
    covers: ["channelSum", "sumPartials"],
    plan: ({ gpu, s, count, input, result }) => {
      const [x, sum] = [input(), result(1)];
      return {
        flops: count,
        record: () => channelSum(gpu, s, storages({ x, sum })),
        want: () => [[sum, channelSumRef(s, x.values)]],
      };
    },
  },
  {
    kernel: "concat",
    pass: "forward",
    covers: ["concatForward"],
    plan: ({ gpu, layer, s, pixels, input, result }) => {
      const [a, b, y] = [input(), input(pixels, layer.c), result(pixels, s.c + layer.c)];
      return {
        flops: 0,
        record: () => concatForward(gpu, { pixels, ca: s.c, cb: layer.c }, storages({ a, b, y })),
        want: () => [[y, concatForwardRef(pixels, s.c, layer.c, a.values, b.values)]],
      };
    },
  },
  {
    kernel: "concat",
    pass: "dx",
    covers: ["channelSlice"],
    plan: ({ gpu, layer, s, pixels, input, result }) => {
      const part = { pixels, c: s.c + layer.c, first: s.c, count: layer.c };
      const [x, y] = [input(pixels, part.c), result(pixels, layer.c)];
      return {
        flops: 0,
        record: () => channelSlice(gpu, part, storages({ x, y })),
        want: () => [[y, channelSliceRef(pixels, part.c, part.first, part.count, x.values)]],
      };
    },
  },
  {
    kernel: "maskJoin",
    pass: "forward",
    covers: ["maskJoin"],
    plan: ({ gpu, s, pixels, input, result, mask }) => {
      const [low, skip, joined] = [input(pixels / 4, 0, binary), mask(), result(2 * pixels, 0)];
      const { n, h, w } = s;
      const shape = { n, h, w, lowN: n, lowGroups: 1, skipN: n, skipGroups: 1, lowFirst: true };
      return {
        flops: 0,
        record: () => maskJoin(gpu, shape, storages({ low, skip, joined })),
        want: () => [[joined, maskJoinRef(shape, low.values, skip.values)]],
      };
    },
  },
  {
    kernel: "maskUpdateUp",
    pass: "forward",
    covers: ["maskUpdateUp"],
    plan: ({ gpu, s, pixels, input, result, mask }) => {
      const [low, skip] = [input(pixels / 4, 0, binary), mask()];
      const [scale, biasScale, maskOut] = [result(pixels, 0), result(pixels, 0), result(pixels, 0)];
      const { n, h, w, c } = s;
      const shape = { n, h, w, lowN: n, skipN: n, lowChannels: 2 * c, skipChannels: c };
      const spec = { convention: "paper", biased: true } as const;
      return {
        flops: 0,
        record: () => maskUpdateUp(gpu, shape, spec, storages({ low, skip, scale, biasScale, maskOut })),
        want: () => {
          const want = maskUpdateUpRef(shape, spec, low.values, skip.values);
          return [
            [scale, want.scale],
            [biasScale, want.biasScale],
            [maskOut, want.maskOut],
          ];
        },
      };
    },
  },
  {
    kernel: "maskMultiply",
    pass: "forward",
    covers: ["maskMultiply"],
    plan: ({ gpu, s, count, input, result, mask }) => {
      const [x, m, y] = [input(), mask(), result()];
      const groupOf = new Array<number>(s.c).fill(0);
      const buffers = { ...storages({ x, mask: m, y }), groupOf: gpu.constant(groupOf) };
      return {
        flops: count,
        record: () => maskMultiply(gpu, s, s.n, 1, buffers),
        want: () => [[y, maskMultiplyRef(s, x.values, m.values, groupOf, s.n, 1)]],
      };
    },
  },
  {
    kernel: "upsample",
    pass: "forward",
    covers: ["upsampleForward"],
    plan: ({ gpu, s, pixels, input, result }) => {
      const [x, y] = [input(), result(4 * pixels)];
      return {
        flops: 0,
        record: () => upsampleForward(gpu, s, storages({ x, y })),
        want: () => [[y, upsampleForwardRef(s, x.values)]],
      };
    },
  },
  {
    kernel: "upsample",
    pass: "dx",
    covers: ["upsampleBackward"],
    plan: ({ gpu, s, pixels, count, input, result }) => {
      const [dy, dx] = [input(4 * pixels), result()];
      return {
        flops: 3 * count,
        record: () => upsampleBackward(gpu, s, storages({ dy, dx })),
        want: () => [[dx, upsampleBackwardRef(s, dy.values)]],
      };
    },
  },
  {
    kernel: "weightedSum",
    pass: "dx",
    covers: ["weightedSum"],
    plan: ({ gpu, count, vec4s, input, result }) => {
      const [a, b, y] = [input(), input(), result()];
      return {
        flops: 3 * count,
        record: () => weightedSum(gpu, vec4s, { alpha: 2, beta: -3 }, storages({ a, b, y })),
        want: () => [[y, weightedSumRef(2, a.values, -3, b.values)]],
      };
    },
  },
  {
    kernel: "window",
    pass: "forward",
    covers: ["window"],
    plan: ({ gpu, s, input, result }) => {
      const size = { p: s.h + 2 * MARGIN, q: s.w + 2 * MARGIN, top: -MARGIN, left: -MARGIN };
      const [x, y] = [input(), result(s.n * size.p * size.q)];
      return {
        flops: 0,
        record: () => window2d(gpu, { ...s, ...size, c: vec4s(s.c) }, true, storages({ x, y })),
        want: () => [[y, window2dRef({ ...s, ...size }, x.values)]],
      };
    },
  },
];
