/** Every op through the tape, against float64 compositions of the references and their central differences. */
import { describe, expect, it } from "vitest";
import { leakyRelu, relu, sigmoid } from "../../src/autograd/ops/activation.js";
import { batchNorm } from "../../src/autograd/ops/batchNorm.js";
import {
  channelAffine,
  denormalizeImageNet,
  IMAGENET,
  normalizeImageNet,
} from "../../src/autograd/ops/channelAffine.js";
import { composite } from "../../src/autograd/ops/composite.js";
import { concat } from "../../src/autograd/ops/concat.js";
import { conv2d } from "../../src/autograd/ops/conv2d.js";
import { pconv2d } from "../../src/autograd/ops/pconv2d.js";
import { gram } from "../../src/autograd/ops/gram.js";
import { l1 } from "../../src/autograd/ops/l1.js";
import { maskMultiply } from "../../src/autograd/ops/maskMultiply.js";
import { maxPool2d } from "../../src/autograd/ops/maxPool2d.js";
import { dilateHole, totalVariation } from "../../src/autograd/ops/totalVariation.js";
import { upsampleNearest } from "../../src/autograd/ops/upsample.js";
import { weightedSum } from "../../src/autograd/ops/weightedSum.js";
import { resizeCanvas } from "../../src/autograd/ops/window.js";
import { Tape } from "../../src/autograd/tape.js";
import { Tensor } from "../../src/autograd/tensor.js";
import { activationRef } from "../../src/kernels/activation.js";
import { batchNormForwardRef } from "../../src/kernels/batchNorm.js";
import { batchNormStatsRef } from "../../src/kernels/batchNormStats.js";
import { channelAffineRef } from "../../src/kernels/channelAffine.js";
import { compositeForwardRef } from "../../src/kernels/composite.js";
import { concatForwardRef } from "../../src/kernels/concat.js";
import { dilateHoleRef } from "../../src/kernels/dilateHole.js";
import { gramForwardRef } from "../../src/kernels/gram.js";
import { l1ForwardRef } from "../../src/kernels/l1.js";
import { maskMultiplyRef } from "../../src/kernels/maskMultiply.js";
import { maskUpdateRef, type PConvConvention } from "../../src/kernels/maskUpdate.js";
import { maxPoolForwardRef } from "../../src/kernels/maxPool.js";
import { pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { convOutputSize, type ConvShape } from "../../src/kernels/shape.js";
import { totalVariationForwardRef } from "../../src/kernels/totalVariation.js";
import { upsampleForwardRef } from "../../src/kernels/upsample.js";
import { window2dRef } from "../../src/kernels/window.js";
import { expectClose, expectExact } from "../support/close.js";
import { Draw, nanInHoles } from "../support/draw.js";
import { useGpu } from "../support/gpu.js";
import { activationLeaf, channelLeaf, checkOp, weightLeaf } from "../support/ops.js";

const gpu = useGpu();

const S = { n: 2, h: 4, w: 6, c: 3 };
const count = (s: { n: number; h: number; w: number; c: number }) => s.n * s.h * s.w * s.c;

describe("elementwise", () => {
  it("refuses slopes whose derivative the result's sign would not tell", () => {
    const tape = new Tape(gpu());
    const x = tape.upload({ n: 1, h: 1, w: 1, c: 4 }, [1, 2, 3, 4], "x");
    const weight = Tensor.from(gpu(), { n: 1, h: 1, w: 4, c: 4 }, new Float32Array(16), "weight");
    const one = [1, 1] as const;
    const options = { stride: one, padding: [0, 0], dilation: one, convention: "paper", multiChannel: true } as const;
    try {
      for (const slope of [-0.1, NaN]) {
        expect(() => leakyRelu(tape, x, slope)).toThrow(/^leakyRelu: expected a slope of at least 0, got/);
        expect(() => pconv2d(tape, x, null, weight, null, { ...options, slope })).toThrow(/^pconv2d: expected a slope/);
      }
    } finally {
      tape.dispose();
      weight.free();
    }
  });

  const ops = { relu, leakyRelu: (tape: Tape, x: Tensor) => leakyRelu(tape, x, 0.2), sigmoid };
  it.each(["relu", "leakyRelu", "sigmoid"] as const)("%s", async (name) => {
    const draw = new Draw(2000);
    const x = activationLeaf("x", S, draw.awayFromZero(count(S), 0.01));
    const reference = () => activationRef(name, 0.2, x.values);
    await checkOp(gpu(), { name, leaves: [x], forward: (tape, [t]) => ops[name](tape, t), reference, draw });
  });

  it("channelAffine and ImageNet's normalisation", async () => {
    const draw = new Draw(2001);
    const [scale, shift] = [
      [0.5, -2, 3],
      [0.25, 1, -1],
    ];
    const x = activationLeaf("x", S, draw.doubles(count(S)));
    const { mean, std } = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }; // torchvision's
    const each = (f: (v: number, c: number) => number) => () => x.values.map((v, i) => f(v, i % 3));
    const cases = [
      ["channelAffine", (t: Tape, v: Tensor) => channelAffine(t, v, scale, shift), () => channelAffineRef(x.values, scale, shift)], // prettier-ignore
      ["normalizeImageNet", normalizeImageNet, each((v, c) => (v - mean[c]) / std[c])],
      ["denormalizeImageNet", denormalizeImageNet, each((v, c) => v * std[c] + mean[c])],
    ] as const;
    for (const [name, op, reference] of cases) {
      await checkOp(gpu(), { name, leaves: [x], forward: (tape, [t]) => op(tape, t), reference, draw });
    }
    expect(IMAGENET).toEqual({ mean, std });
  });

  it("weightedSum, with one tensor twice", async () => {
    const draw = new Draw(2002);
    const leaves = ["a", "b"].map((name) => activationLeaf(name, S, draw.doubles(count(S))));
    const [a, b] = leaves;
    const reference = () => a.values.map((v, i) => 2 * v - 3 * b.values[i] + 0.5 * v);
    const forward = (tape: Tape, [x, y]: Tensor[]) => weightedSum(tape, [x, y, x], [2, -3, 0.5]);
    await checkOp(gpu(), { name: "weightedSum", leaves, forward, reference, draw });
  });

  it.each([1, 2])("composite, mask batch %i", async (maskN) => {
    const draw = new Draw(2003, maskN);
    const mask = draw.mask(maskN * S.h * S.w, 0.5);
    const gt = draw.floats(count(S));
    const out = activationLeaf("out", S, draw.doubles(count(S)));
    await checkOp(gpu(), {
      name: "composite",
      leaves: [out],
      forward: (tape, [t]) => composite(tape, tape.upload(S, gt, "gt"), t, tape.uploadMask({ ...S, n: maskN }, mask)),
      reference: () => compositeForwardRef(S, maskN, gt, out.values, mask),
      draw,
    });
  });

  it.each([1, 2, 3])("maskMultiply with %i groups, NaN in holes", async (groups) => {
    const draw = new Draw(2004, groups);
    const sizes = [[3], [1, 2], [1, 1, 1]][groups - 1];
    const groupOf = sizes.flatMap((size, g) => Array<number>(size).fill(g));
    const mask = draw.mask(S.n * S.h * S.w * groups, 0.5, true);
    const x = activationLeaf("x", S, nanInHoles(draw.floats(count(S)), 3, mask, groups, groupOf));
    await checkOp(gpu(), {
      name: "maskMultiply",
      leaves: [x],
      forward: (tape, [t]) => maskMultiply(tape, t, tape.uploadMask(S, mask, groups === 1 ? null : sizes)),
      reference: () => maskMultiplyRef(S, x.values, mask, groupOf, S.n, groups),
      draw,
    });
  });
});

describe("moving pixels and channels", () => {
  it("upsampleNearest", async () => {
    const draw = new Draw(2010);
    const x = activationLeaf("x", S, draw.doubles(count(S)));
    const reference = () => upsampleForwardRef(S, x.values);
    await checkOp(gpu(), {
      name: "upsample",
      leaves: [x],
      forward: (t, [v]) => upsampleNearest(t, v),
      reference,
      draw,
    });
  });

  it.each([
    [3, 2],
    [4, 4],
  ])("concat of %i and %i channels", async (ca, cb) => {
    const draw = new Draw(2011, ca);
    const a = activationLeaf("a", { ...S, c: ca }, draw.doubles(48 * ca));
    const b = activationLeaf("b", { ...S, c: cb }, draw.doubles(48 * cb));
    await checkOp(gpu(), {
      name: "concat",
      leaves: [a, b],
      forward: (tape, [x, y]) => concat(tape, x, y),
      reference: () => concatForwardRef(48, ca, cb, a.values, b.values),
      draw,
    });
  });

  it("maxPool2d, odd sizes, ties to the first", async () => {
    const draw = new Draw(2012);
    const s = { n: 2, h: 5, w: 7, c: 3 };
    const x = activationLeaf("x", s, draw.distinct(count(s), 0.01));
    const reference = () => maxPoolForwardRef(s, x.values);
    await checkOp(gpu(), { name: "maxPool", leaves: [x], forward: (t, [v]) => maxPool2d(t, v), reference, draw });

    const tape = new Tape(gpu());
    const tied = Tensor.from(gpu(), { n: 1, h: 2, w: 2, c: 1 }, [1, 1, 1, 1], "tied");
    tied.requiresGrad = true;
    tape.backward(maxPool2d(tape, tied));
    expectExact("tied", await tied.grad!.values(), [1, 0, 0, 0], "no seed");
    tape.dispose();
  });

  it.each([
    { h: 7, w: 9 },
    { h: 3, w: 5 },
    { h: 9, w: 2 },
  ])("resizeCanvas to $h x $w", async ({ h, w }) => {
    const draw = new Draw(2013, h);
    const x = activationLeaf("x", S, draw.doubles(count(S)));
    const window = { ...S, p: h, q: w, top: 0, left: 0 };
    const reference = () => window2dRef(window, x.values);
    await checkOp(gpu(), {
      name: "resizeCanvas",
      leaves: [x],
      forward: (t, [v]) => resizeCanvas(t, v, h, w),
      reference,
      draw,
    });
  });
});

describe("batch norm", () => {
  const cases = (["batch", "fixed"] as const).flatMap((mode) =>
    (["all", "valid"] as const).flatMap((statistics) =>
      (["zero", "keep"] as const).flatMap((holes) => [0, 1, 2].map((maskN) => ({ mode, statistics, holes, maskN }))),
    ),
  );
  it.each(cases)("$mode, $statistics, $holes, mask batch $maskN", async (o) => {
    const { mode, statistics, holes, maskN } = o;
    const draw = new Draw(2020, cases.indexOf(o));
    const mask = maskN ? draw.mask(maskN * S.h * S.w, 0.4) : undefined;
    const zeros = mask !== undefined && holes === "zero";
    const validOnly = mask !== undefined && statistics === "valid";
    // Values in holes may be NaN where neither statistics nor outputs look at them.
    const values = draw.floats(count(S));
    const hidden = zeros && (validOnly || mode === "fixed");
    const x = activationLeaf("x", S, hidden ? nanInHoles(values, 3, mask) : values);
    const gamma = channelLeaf("gamma", draw.doubles(3, 0.5, 2));
    const beta = channelLeaf("beta", draw.doubles(3));
    const mean0 = draw.floats(3);
    const var0 = draw.floats(3, 0.5, 2);
    const stats = () =>
      mode === "batch"
        ? batchNormStatsRef(S, x.values, validOnly ? mask : undefined, maskN || 1)
        : { mean: mean0, variance: var0, count: 0 };
    const running: { mean: Float32Array; variance: Float32Array }[] = [];
    const pending: Promise<void>[] = [];
    await checkOp(gpu(), {
      name: "batchNorm",
      leaves: [x, gamma, beta],
      forward: (tape, [t, g, b]) => {
        const runningMean = tape.upload({ n: 1, h: 1, w: 1, c: 3 }, mean0, "mean");
        const runningVar = tape.upload({ n: 1, h: 1, w: 1, c: 3 }, var0, "var");
        const m = mask ? tape.uploadMask({ ...S, n: maskN }, mask) : null;
        const y = batchNorm(
          tape,
          t,
          m,
          { gamma: g, beta: b, runningMean, runningVar },
          { ...o, eps: 1e-3, momentum: 0.3 },
        );
        pending.push(
          Promise.all([runningMean.values(), runningVar.values()]).then(([mean, variance]) => {
            running.push({ mean, variance });
          }),
        );
        return y;
      },
      reference: () =>
        batchNormForwardRef(S, {
          x: x.values,
          ...stats(),
          eps: 1e-3,
          gamma: gamma.values,
          beta: beta.values,
          mask: zeros ? mask : undefined,
          maskN: maskN || 1,
        }),
      // Nothing that arrives in a zeroed hole may count.
      dy: (length) => (zeros ? nanInHoles(draw.floats(length), 3, mask) : draw.floats(length)),
      draw,
    });
    await Promise.all(pending);
    const batch = stats();
    const n = batch.count;
    for (const { mean, variance } of running) {
      const moved = (old: Float32Array, now: ArrayLike<number>, factor: number) =>
        Float64Array.from(old, (v, c) => (mode === "fixed" ? v : 0.7 * v + 0.3 * factor * now[c]));
      expectClose("running mean", mean, moved(mean0, batch.mean, 1), 1e-6, draw.seed);
      expectClose("running variance", variance, moved(var0, batch.variance, n / (n - 1)), 1e-6, draw.seed);
    }
    expect(running.length).toBe(2);
  });
});

const CONVS: readonly ConvShape[] = [
  { n: 2, h: 6, w: 5, c: 3, k: 2, kernel: [3, 3], stride: [2, 2], padding: [1, 1], dilation: [1, 1] },
  { n: 1, h: 7, w: 6, c: 3, k: 5, kernel: [3, 2], stride: [1, 3], padding: [2, 0], dilation: [1, 2] },
];

describe("convolution", () => {
  it.each(CONVS.flatMap((s) => [false, true].map((biased) => ({ s, biased }))))(
    "plain, bias $biased, $s",
    async ({ s, biased }) => {
      const draw = new Draw(2030, CONVS.indexOf(s));
      const x = activationLeaf("x", s, draw.doubles(count(s)));
      const w = weightLeaf("weight", s, draw.doubles(s.kernel[0] * s.kernel[1] * s.c * s.k));
      const b = channelLeaf("bias", draw.doubles(s.k));
      await checkOp(gpu(), {
        name: "conv2d",
        leaves: biased ? [x, w, b] : [x, w],
        forward: (tape, [tx, tw, tb]) => conv2d(tape, tx, tw, tb ?? null, s),
        reference: () => pconvForwardRef(s, x.values, w.values, biased ? b.values : undefined),
        draw,
      });
    },
  );

  const layers = (["paper", "pytorch", "keras", "unscaled"] as const).flatMap((convention: PConvConvention) =>
    [
      { groups: null, multiChannel: true },
      { groups: [3], multiChannel: true },
      { groups: [3], multiChannel: false },
      { groups: [1, 2], multiChannel: true },
      { groups: [1, 1, 1], multiChannel: true },
    ].flatMap((g) => [0, 1].map((shape) => ({ convention, ...g, shape, biased: shape === 0 }))),
  );
  it.each(layers)("partial $convention, groups $groups, multiChannel $multiChannel, shape $shape", async (o) => {
    const { convention, groups, multiChannel, biased } = o;
    const s = CONVS[o.shape];
    const draw = new Draw(2031, layers.indexOf(o));
    const [p, q] = convOutputSize("test", s);
    const sizes = groups ?? [3];
    const maskN = o.shape === 0 ? 1 : s.n;
    const groupOf = sizes.flatMap((size, g) => Array<number>(size).fill(g));
    const mask = groups ? draw.mask(maskN * s.h * s.w * groups.length, 0.6) : new Float32Array(s.h * s.w).fill(1);
    if (groups) mask.fill(0, 0, (mask.length / maskN) >> 1); // the first image's upper half: holes remain in the output
    const counted = multiChannel ? sizes : [1];
    const layer = maskUpdateRef(
      { ...s, n: groups ? maskN : 1, c: sizes.length, k: 1, channels: counted.reduce((a, b) => a + b) },
      { convention, biased },
      mask,
      counted,
    );
    const ratio = { ...layer, n: groups ? maskN : 1 };
    const x = activationLeaf("x", s, nanInHoles(draw.floats(count(s)), s.c, mask, sizes.length, groupOf));
    const w = weightLeaf("weight", s, draw.doubles(s.kernel[0] * s.kernel[1] * s.c * s.k));
    const b = channelLeaf("bias", draw.doubles(s.k));
    await checkOp(gpu(), {
      name: "pconv2d",
      leaves: biased ? [x, w, b] : [x, w],
      forward: (tape, [tx, tw, tb]) => {
        const m = groups ? tape.uploadMask({ ...s, n: maskN }, mask, groups.length > 1 ? groups : null) : null;
        return pconv2d(tape, tx, m, tw, tb ?? null, { ...s, convention, multiChannel }).y;
      },
      reference: () => {
        const masked = maskMultiplyRef(s, x.values, mask, groupOf, groups ? maskN : 1, sizes.length);
        return pconvForwardRef(s, masked, w.values, biased ? b.values : undefined, ratio);
      },
      // In the holes of the output nothing counts; PConv-Keras has its bias there.
      dy: (length) => {
        const dy = draw.floats(length);
        return convention === "keras" && biased ? dy : nanInHoles(dy, s.k, layer.maskOut);
      },
      draw,
    });
    if (groups)
      expect(new Set(layer.maskOut), "the case has holes and valid pixels in its output").toEqual(new Set([0, 1]));
    expect(layer.maskOut.length).toBe(ratio.n * p * q);
  });
});

describe("losses", () => {
  it("gram", async () => {
    const draw = new Draw(2040);
    const f = activationLeaf("f", S, draw.doubles(count(S)));
    const reference = () => gramForwardRef(S, f.values);
    await checkOp(gpu(), { name: "gram", leaves: [f], forward: (t, [v]) => gram(t, v), reference, draw });
  });

  const regions = (["all", "valid", "hole"] as const).flatMap((region) => [1, 2].map((maskN) => ({ region, maskN })));
  it.each(regions)("l1 %j", async ({ region, maskN }) => {
    const draw = new Draw(2041, maskN);
    const mask = draw.mask(maskN * S.h * S.w, 0.5);
    const target = draw.floats(count(S));
    const values = draw.awayFromZero(count(S), 0.01).map((v, i) => v + target[i]);
    const weight = region === "valid" ? mask : mask.map((m) => 1 - m);
    const a = activationLeaf("a", S, region === "all" ? values : nanInHoles(Float32Array.from(values), 3, weight));
    await checkOp(gpu(), {
      name: "l1",
      leaves: [a],
      forward: (tape, [t]) => {
        const m = tape.uploadMask({ ...S, n: maskN }, mask);
        return l1(tape, t, tape.upload(S, target, "target"), { factor: 0.3, region, mask: m });
      },
      reference: () => [l1ForwardRef(S, { region, factor: 0.3, maskN }, a.values, target, mask)],
      draw,
    });
  });

  it.each(["all", "inside", "product"] as const)("total variation, %s, over the dilated hole", async (region) => {
    const draw = new Draw(2042);
    const mask = draw.mask(S.n * S.h * S.w, 0.1).fill(1, 24); // the second picture has no hole
    mask[3] = 0;
    const r = dilateHoleRef(S, mask);
    expect(r.some((v) => v === 0) && r.some((v) => v === 1)).toBe(true);
    const x = activationLeaf("x", S, draw.distinct(count(S), 0.01).map((v) => v + 0.005)); // prettier-ignore
    await checkOp(gpu(), {
      name: "totalVariation",
      leaves: [x],
      forward: (tape, [t]) => {
        const m = region === "all" ? undefined : dilateHole(tape, tape.uploadMask(S, mask));
        return totalVariation(tape, t, { region, mask: m, factorX: 0.4, factorY: 0.9 });
      },
      reference: () => [totalVariationForwardRef(S, { region, factorX: 0.4, factorY: 0.9, regionN: S.n }, x.values, r)],
      draw,
    });
  });
});
