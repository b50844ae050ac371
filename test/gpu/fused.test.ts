/** What is fused with a partial convolution equals the ops one after the other, values and all gradients. */
import { expect, it } from "vitest";
import { leakyRelu } from "../../src/autograd/ops/activation.js";
import { batchNorm } from "../../src/autograd/ops/batchNorm.js";
import { pconv2d } from "../../src/autograd/ops/pconv2d.js";
import { Tape } from "../../src/autograd/tape.js";
import { Tensor } from "../../src/autograd/tensor.js";
import { Parameter } from "../../src/nn/parameter.js";
import { expectClose } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu } from "../support/gpu.js";
import { freeLeaves, largest } from "../support/ops.js";

const gpu = useGpu();

const SIZE = { n: 2, h: 7, w: 9, c: 5 };
const K = 6;
const RULE = {
  stride: [2, 1],
  padding: [1, 1],
  dilation: [1, 1],
  convention: "paper",
  multiChannel: true,
} as const;

const NORMS = [
  null,
  { mode: "batch", statistics: "valid" },
  { mode: "batch", statistics: "all" },
  { mode: "fixed", statistics: "valid" },
] as const;
const CASES = NORMS.flatMap((norm) =>
  [undefined, 0, 0.2].flatMap((slope) =>
    [false, true].flatMap((biased) => [1, 2].map((maskN) => ({ norm, slope, biased, maskN }))),
  ),
).filter(({ norm, slope }) => norm !== null || slope !== undefined);

it.each(CASES)("%j", async (o) => {
  const draw = new Draw(2700, CASES.indexOf(o));
  const x = draw.floats(SIZE.n * SIZE.h * SIZE.w * SIZE.c);
  // Holes wide enough to remain in the new mask.
  const valid = draw.mask(o.maskN * SIZE.h * SIZE.w, 0.3).map((v, i) => (i % SIZE.w < 4 ? 0 : v));
  const weight = draw.floats(K * SIZE.c * 9);
  const channels = Array.from({ length: 5 }, () => draw.floats(K, 0.5, 1.5));
  let dy: Float32Array | undefined;

  const run = async (fused: boolean) => {
    const tape = new Tape(gpu());
    const parameter = (name: string, i: number) => new Parameter(gpu(), [K], name, channels[i]);
    const image = Tensor.from(gpu(), SIZE, x, "x");
    image.requiresGrad = true;
    const w = new Parameter(gpu(), [K, SIZE.c, 3, 3], "weight", weight);
    const bias = o.biased ? parameter("bias", 0) : null;
    const [gamma, beta] = [parameter("gamma", 1), parameter("beta", 2)];
    // Below and above 0 alike.
    beta.set(channels[2].map((v) => v - 1));
    const [runningMean, runningVar] = [parameter("mean", 3), parameter("variance", 4)];
    const tensors = { gamma, beta, runningMean, runningVar };
    const leaves = [image, w, ...(bias ? [bias] : []), ...(o.norm ? [gamma, beta] : [])];
    const norm = o.norm && { ...o.norm, eps: 1e-3, momentum: 0.1, holes: "zero" as const };
    const m = tape.uploadMask({ ...SIZE, n: o.maskN }, valid);
    let y: Tensor;
    if (fused) {
      const batch = norm && { tensors, options: norm };
      ({ y } = pconv2d(tape, image, m, w, bias, { ...RULE, batchNorm: batch, slope: o.slope }));
    } else {
      const layer = pconv2d(tape, image, m, w, bias, RULE);
      y = norm ? batchNorm(tape, layer.y, layer.mask, tensors, norm) : layer.y;
      if (o.slope !== undefined) y = leakyRelu(tape, y, o.slope);
    }
    tape.keep(y);
    dy ??= draw.floats(y.shape.n * y.shape.h * y.shape.w * K);
    tape.backward(y, tape.upload(y.shape, dy, "dy"));
    const gradients = await Promise.all(leaves.map(async (t) => [t.name, await t.grad!.values()] as const));
    const results = new Map([["y", await y.values()], ...gradients]);
    tape.dispose();
    freeLeaves(leaves);
    for (const t of [gamma, beta, runningMean, runningVar]) if (!leaves.includes(t)) t.free();
    return results;
  };

  const want = await run(false);
  const got = await run(true);
  for (const [name, values] of want) {
    const top = largest(values);
    expect(top, name).toBeGreaterThan(0);
    expectClose(name, got.get(name)!, values, 4e-6 * (1 + top), draw.seed);
  }
});

it.each(["paper", "pytorch", "keras", "unscaled"] as const)(
  "without gradients, fixed batch norm: %s",
  async (convention) => {
    for (const biased of [false, true]) {
      const draw = new Draw(2790, Number(biased));
      const x = draw.floats(SIZE.n * SIZE.h * SIZE.w * SIZE.c);
      const valid = draw.mask(SIZE.n * SIZE.h * SIZE.w, 0.3).map((v, i) => (i % SIZE.w < 4 ? 0 : v));
      const tape = new Tape(gpu(), { grad: false });
      const channel = (name: string) => new Parameter(gpu(), [K], name, draw.floats(K, 0.5, 1.5));
      const w = new Parameter(gpu(), [K, SIZE.c, 3, 3], "weight", draw.floats(K * SIZE.c * 9));
      const [gamma, beta, runningMean, runningVar, b] = ["gamma", "beta", "mean", "variance", "bias"].map(channel);
      const tensors = { gamma, beta, runningMean, runningVar };
      const options = { mode: "fixed", statistics: "valid", eps: 1e-3, momentum: 0.1, holes: "zero" } as const;
      const image = tape.upload(SIZE, x, "x");
      const m = tape.uploadMask(SIZE, valid);
      const rule = { ...RULE, convention };
      const bias = biased ? b : null;
      const layer = pconv2d(tape, image, m, w, bias, rule);
      const want = await leakyRelu(tape, batchNorm(tape, layer.y, layer.mask, tensors, options), 0.2).values();
      const folded = pconv2d(tape, image, m, w, bias, { ...rule, batchNorm: { tensors, options }, slope: 0.2 });
      expectClose("y", await folded.y.values(), want, 4e-6 * (1 + largest(want)), draw.seed);
      tape.dispose();
      for (const t of [w, gamma, beta, runningMean, runningVar, b]) t.free();
    }
  },
);
