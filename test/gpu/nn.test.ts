/** Modules: names, state dicts, modes and the layers' defaults. */
import { describe, expect, it } from "vitest";
import { Tape } from "../../src/autograd/tape.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { BatchNorm2d, Conv2d, PConv2d } from "../../src/nn/layers.js";
import { type LoadableTensor, Module, type StateDict } from "../../src/nn/module.js";
import { Adam } from "../../src/optim/adam.js";
import { Rng } from "../../src/pconv/rng.js";
import { batchNormStatsRef } from "../../src/kernels/batchNormStats.js";
import { expectClose, expectExact } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu } from "../support/gpu.js";

const gpu = useGpu();

class Block extends Module {
  readonly conv: PConv2d;
  readonly bn: BatchNorm2d;
  readonly tail: Conv2d;

  constructor(gpu: Gpu, seed = 1) {
    super(gpu);
    const rng = Rng.of(seed);
    this.conv = new PConv2d(gpu, { inChannels: 3, outChannels: 5, kernelSize: [3, 2], rng });
    this.bn = new BatchNorm2d(gpu, 5);
    this.tail = new Conv2d(gpu, { inChannels: 5, outChannels: 2, kernelSize: 1, bias: false, rng });
  }
}

const NAMES = [
  "conv.weight",
  "conv.bias",
  "bn.weight",
  "bn.bias",
  "bn.running_mean",
  "bn.running_var",
  "tail.weight",
  "bn.num_batches_tracked",
];

/** A state dict as a weight file gives it. */
const loadable = (state: StateDict): Map<string, LoadableTensor> =>
  new Map(
    [...state].map(([name, t]) => [name, { shape: t.shape, toFloat32: () => Float32Array.from(t.values, Number) }]),
  );

/** Distinct values everywhere, so that a transposition or a swap of names shows. */
function filled(state: StateDict): Map<string, LoadableTensor> {
  let next = 0;
  const values = (t: { values: { length: number } }) => Float32Array.from({ length: t.values.length }, () => ++next);
  return new Map(
    [...state].map(([name, t]) => [
      name,
      {
        shape: t.shape,
        toFloat32: (
          (v) => () =>
            v
        )(values(t)),
      },
    ]),
  );
}

const plain = (state: StateDict) => [...state].map(([name, t]) => [name, [...t.shape], Array.from(t.values, Number)]);

describe("state dicts", () => {
  it("have PyTorch's names, shapes and layout", async () => {
    const block = new Block(gpu());
    const state = await block.stateDict();
    expect([...state.keys()]).toEqual(NAMES);
    expect(block.namedParameters().map(([name]) => name)).toEqual(
      NAMES.filter((name) => !name.includes("running") && !name.includes("num_batches")),
    );
    expect(state.get("conv.weight")!.shape).toEqual([5, 3, 3, 2]);
    expect(state.get("bn.num_batches_tracked")).toEqual({ dtype: "I64", shape: [], values: BigInt64Array.of(0n) });
    expect([...state.get("bn.running_var")!.values]).toEqual([1, 1, 1, 1, 1]);
    expect([...state.get("conv.bias")!.values]).toEqual([0, 0, 0, 0, 0]);
    block.free();
  });

  it("put entry [o,i,h,w] of a weight where the kernels read tap (h, w), input i, output o", async () => {
    const conv = new Conv2d(gpu(), { inChannels: 2, outChannels: 3, kernelSize: [2, 2] });
    const weight = Float32Array.from({ length: 24 }, (_, i) => i + 1);
    conv.loadStateDict(
      new Map([
        ["weight", { shape: [3, 2, 2, 2], toFloat32: () => weight }],
        ["bias", { shape: [3], toFloat32: () => new Float32Array(3) }],
      ]),
    );
    const tape = new Tape(gpu(), { grad: false });
    // Tap (h, w) of input channel i alone is 1: the output is that entry, for every output channel.
    for (let h = 0; h < 2; h++)
      for (let w = 0; w < 2; w++)
        for (let i = 0; i < 2; i++) {
          const x = tape.upload({ n: 1, h: 2, w: 2, c: 2 }, Array.from({ length: 8 }, (_, at) => Number(at === (h * 2 + w) * 2 + i)), "x"); // prettier-ignore
          const want = [0, 1, 2].map((o) => weight[((o * 2 + i) * 2 + h) * 2 + w]);
          expectExact("y", await conv.forward(tape, x).values(), want, "no seed");
        }
    tape.dispose();
    conv.free();
  });

  it("survive a round trip through another module", async () => {
    const [one, two] = [new Block(gpu(), 1), new Block(gpu(), 2)];
    const wanted = filled(await one.stateDict());
    one.loadStateDict(wanted);
    two.loadStateDict(loadable(await one.stateDict()));
    const got = await two.stateDict();
    for (const [name, t] of got) expect(Array.from(t.values, Number), name).toEqual([...wanted.get(name)!.toFloat32()]);
    expect(two.bn.num_batches_tracked.value).toBeGreaterThan(0);
    for (const block of [one, two]) block.free();
  });

  const faults: Record<string, [(state: Map<string, LoadableTensor>) => void, string]> = {
    "a missing tensor": [(s) => s.delete("tail.weight"), "none named tail.weight"],
    "many missing tensors": [(s) => s.clear(), "and 4 more"],
    "an unexpected tensor": [(s) => s.set("head.weight", s.get("tail.weight")!), "got also head.weight"],
    "a tensor of another shape": [
      (s) => s.set("tail.weight", { shape: [2, 5, 1], toFloat32: () => new Float32Array(10) }),
      "expected tail.weight of shape 2x5x1x1, got 2x5x1",
    ],
  };
  it.each(Object.keys(faults))("are refused with %s, and nothing changes", async (fault) => {
    const block = new Block(gpu());
    const before = plain(await block.stateDict());
    const state = filled(await block.stateDict());
    const [spoil, message] = faults[fault];
    spoil(state);
    expect(() => block.loadStateDict(state, "weights.pth")).toThrow(message);
    expect(() => block.loadStateDict(state, "weights.pth")).toThrow("weights.pth");
    expect(plain(await block.stateDict())).toEqual(before);
    block.free();
  });

  it("may lack num_batches_tracked, as old PyTorch files do", async () => {
    const block = new Block(gpu());
    const state = filled(await block.stateDict());
    state.delete("bn.num_batches_tracked");
    block.bn.num_batches_tracked.value = 9;
    block.loadStateDict(state);
    expect(block.bn.num_batches_tracked.value).toBe(0);
    block.free();
  });
});

describe("initial weights", () => {
  it("are Kaiming normal over the fan in, the same for the same seed", async () => {
    const make = (seed: number) =>
      new Conv2d(gpu(), { inChannels: 32, outChannels: 64, kernelSize: 3, rng: Rng.of(seed) });
    const layers = [make(1), make(1), make(2)];
    const values = await Promise.all(layers.map(async (l) => [...(await l.stateDict()).get("weight")!.values].map(Number))); // prettier-ignore
    expect(values[1]).toEqual(values[0]);
    expect(values[2]).not.toEqual(values[0]);
    const squares = values[0].reduce((sum, v) => sum + v * v, 0) / values[0].length;
    expect(squares / (2 / (32 * 9))).toBeGreaterThan(0.95);
    expect(squares / (2 / (32 * 9))).toBeLessThan(1.05);
    for (const layer of layers) layer.free();
  });

  it("free everything", () => {
    const before = gpu().memory().inUse;
    new Block(gpu()).free();
    expect(gpu().memory().inUse).toBe(before);
  });
});

describe("BatchNorm2d", () => {
  const S = { n: 2, h: 3, w: 4, c: 3 };
  /** One forward and backward; the state after it. */
  async function step(bn: BatchNorm2d, draw: Draw, x: Float32Array) {
    const tape = new Tape(gpu());
    const y = bn.forward(tape, tape.upload(S, x, "x"));
    const values = await y.values();
    tape.backward(y, tape.upload(S, draw.floats(72), "dy"));
    tape.dispose();
    const state = await bn.stateDict();
    return {
      values,
      mean: [...state.get("running_mean")!.values].map(Number),
      variance: [...state.get("running_var")!.values].map(Number),
      batches: bn.num_batches_tracked.value,
    };
  }

  it("has PyTorch's momentum and unbiased running variance in training, and keeps both in eval and frozen", async () => {
    const draw = new Draw(2200);
    const x = draw.floats(72, 1, 5);
    const { mean, variance } = batchNormStatsRef(S, x);
    const bn = new BatchNorm2d(gpu(), 3);
    const trained = await step(bn, draw, x);
    expectClose("mean", trained.mean, mean.map((v) => 0.1 * v), 1e-6, draw.seed); // prettier-ignore
    expectClose("variance", trained.variance, variance.map((v) => 0.9 + (0.1 * v * 24) / 23), 1e-6, draw.seed); // prettier-ignore
    expect(trained.batches).toBe(1);
    const normalised = Float64Array.from(x, (v, i) => (v - mean[i % 3]) / Math.sqrt(variance[i % 3] + 1e-5));
    expectClose("y", trained.values, normalised, 2e-5, draw.seed);

    const running = Float64Array.from(
      x,
      (v, i) => (v - trained.mean[i % 3]) / Math.sqrt(trained.variance[i % 3] + 1e-5),
    );
    bn.eval();
    const still = await step(bn, draw, x);
    expectClose("eval y", still.values, running, 2e-5, draw.seed);
    expect(still).toMatchObject({ mean: trained.mean, variance: trained.variance, batches: 1 });

    bn.train();
    bn.frozen = true;
    bn.weight.grad?.free();
    bn.weight.grad = null;
    const frozen = await step(bn, draw, x);
    expect(frozen).toMatchObject({ mean: trained.mean, variance: trained.variance, batches: 1 });
    expectExact("frozen y", frozen.values, still.values, draw.seed);
    expect((await bn.weight.grad!.values()).some((v) => v !== 0), "a frozen layer's weight still trains").toBe(true); // prettier-ignore

    bn.frozen = false;
    expect((await step(bn, draw, x)).batches).toBe(2);
    bn.free();
  });

  it("train and eval reach every submodule", () => {
    const block = new Block(gpu());
    block.eval();
    expect([block.training, block.bn.training, block.conv.training]).toEqual([false, false, false]);
    block.train();
    expect([block.training, block.bn.training, block.conv.training]).toEqual([true, true, true]);
    block.free();
  });
});

describe("Adam", () => {
  it("takes torch.optim.Adam's first steps, leaves parameters without gradient alone and clears the others' gradients", async () => {
    const layers = [1, 2].map(() => new Conv2d(gpu(), { inChannels: 1, outChannels: 1, kernelSize: 1 }));
    const [used, unused] = layers;
    for (const layer of layers) layer.weight.set([0.5]);
    const named = layers.flatMap((l, i) => l.namedParameters().map(([n, p]) => [`${i}.${n}`, p] as [string, typeof p]));
    const optimizer = new Adam(named, { lr: 0.1 });
    const tape = () => new Tape(gpu());
    const steps = async (model: Adam) => {
      const t = tape();
      t.backward(used.forward(t, t.upload({ n: 1, h: 1, w: 1, c: 1 }, [3], "x")));
      model.step();
      t.dispose();
      return (await used.stateDict()).get("weight")!.values[0];
    };
    // A constant gradient: m / (1 - b1^t) = g and v / (1 - b2^t) = g^2, each step is lr.
    expectClose("weight", [Number(await steps(optimizer))], [0.4], 1e-6, "no seed");
    expectClose("weight", [Number(await steps(optimizer))], [0.3], 1e-6, "no seed");
    expect(optimizer.steps).toBe(2);
    expect(used.weight.grad).toBeNull();
    expect((await unused.stateDict()).get("weight")!.values[0]).toBe(0.5);

    const state = loadable(await optimizer.stateDict());
    expect([...state.keys()]).toContain("v.1.bias");
    const resumed = new Adam(named, { lr: 0.1 });
    expect(() => resumed.loadStateDict(new Map([...state].filter(([n]) => n !== "m.1.bias")))).toThrow("m.1.bias");
    expect(() => resumed.loadStateDict(new Map([...state].filter(([n]) => n !== "steps")))).toThrow("number of steps");
    expect(resumed.steps).toBe(0);
    resumed.loadStateDict(state);
    expectClose("resumed", [Number(await steps(resumed))], [0.2], 1e-6, "no seed");
    expect(resumed.steps).toBe(3);
    for (const owned of [optimizer, resumed, ...layers]) owned.free();
  });
});
