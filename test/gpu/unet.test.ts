/** The U-Net: sizes, holes, batches, and a whole step against a float64 network. */
import { describe, expect, it } from "vitest";
import { Tape } from "../../src/autograd/tape.js";
import { UserError } from "../../src/errors.js";
import { PConvUNet, type UNetConfig, unetConfig, widthChannels } from "../../src/pconv/unet.js";
import { expectClose, expectExact } from "../support/close.js";
import { Draw, nanInHoles } from "../support/draw.js";
import { useGpu } from "../support/gpu.js";
import { dot, largest } from "../support/ops.js";
import { unetRef } from "../support/unetRef.js";

const gpu = useGpu();

interface Input {
  readonly n: number;
  readonly h: number;
  readonly w: number;
  readonly x: Float32Array;
  readonly mask: Float32Array;
}

/** A picture with a solid hole and scattered ones; NaN stands in them. */
function draw(d: Draw, n: number, h: number, w: number): Input {
  const mask = d.mask(n * h * w, 0.2).map((v, i) => {
    const [row, col] = [Math.floor(i / w) % h, i % w];
    return row < h / 2 && col > w / 3 ? 0 : v;
  });
  return { n, h, w, mask, x: nanInHoles(d.floats(n * h * w * 3, 0, 1), 3, mask) };
}

/** Every parameter and statistic drawn anew: biases and running means that are not 0, variances that are not 1. */
async function randomise(model: PConvUNet, d: Draw): Promise<Map<string, Float64Array>> {
  const state = await model.stateDict();
  const weights = new Map<string, Float64Array>();
  for (const [name, t] of state) {
    if (t.dtype !== "F32") continue;
    const positive = name.endsWith("running_var") || name.endsWith("bn.weight");
    const values = name.endsWith("conv.weight") ? t.values : d.floats(t.values.length, positive ? 0.5 : -0.5, positive ? 2 : 0.5); // prettier-ignore
    weights.set(name, Float64Array.from(values));
  }
  model.loadStateDict(new Map([...weights].map(([name, v]) => [name, { shape: state.get(name)!.shape, toFloat32: () => Float32Array.from(v) }]))); // prettier-ignore
  return weights;
}

async function run(model: PConvUNet, { n, h, w, x, mask }: Input) {
  const tape = new Tape(gpu(), { grad: false });
  const out = model.forward(tape, tape.upload({ n, h, w, c: 3 }, x, "x"), tape.uploadMask({ n, h, w }, mask));
  const y = await out.output.values();
  const [m] = await gpu().read(out.mask.storage);
  tape.dispose();
  return { y, mask: m };
}

/** One training step's output and gradients by name. */
async function step(model: PConvUNet, { n, h, w, x, mask }: Input, dy: Float32Array) {
  const tape = new Tape(gpu());
  const out = model.forward(tape, tape.upload({ n, h, w, c: 3 }, x, "x"), tape.uploadMask({ n, h, w }, mask));
  const y = await out.output.values();
  tape.backward(out.output, tape.upload({ n, h, w, c: 3 }, dy, "dy"));
  const gradients = new Map<string, Float32Array>();
  for (const [name, p] of model.namedParameters()) {
    const [device] = await gpu().read(p.grad!.storage);
    gradients.set(name, p.toTorch(device));
    p.grad!.free();
    p.grad = null;
  }
  tape.dispose();
  return { y, gradients };
}

const CONFIGS: readonly Partial<UNetConfig>[] = [
  { channels: [5, 6] },
  { channels: [4, 7], concat: "skip-up", convBias: "all", bnStatistics: "all" },
  { channels: [4, 5], convention: "pytorch" },
  { channels: [5, 4], base: "harmonic" },
  { channels: [5, 4], convention: "keras", convBias: "all", concat: "skip-up", head: "sigmoid", bnEps: 1e-3 },
];

describe("forward and backward against the float64 network", () => {
  it.each(CONFIGS)("%j", async (config) => {
    const d = new Draw(2300, CONFIGS.indexOf(config));
    const model = new PConvUNet(gpu(), config, 3);
    const weights = await randomise(model, d);
    const input = draw(d, 2, 12, 8);
    const exactEval = unetRef(model.config, weights, 2, input, false);
    model.eval();
    const got = await run(model, input);
    expectClose("eval y", got.y, exactEval.y, 1e-5 * (1 + largest(exactEval.y)), d.seed);
    expectExact("mask", got.mask, exactEval.mask, d.seed);

    model.train();
    const dy = d.floats(got.y.length);
    const trained = await step(model, input, dy);
    const exactTrain = unetRef(model.config, weights, 2, input, true);
    expectClose("train y", trained.y, exactTrain.y, 1e-4 * (1 + largest(exactTrain.y)), d.seed);
    // Each gradient along a random direction against the float64 network's central difference.
    const loss = () => dot(unetRef(model.config, weights, 2, input, true).y, dy);
    expect([...trained.gradients.keys()].sort()).toEqual(
      [...weights.keys()].filter((k) => !k.includes("running")).sort(),
    );
    for (const [name, gradient] of trained.gradients) {
      const values = weights.get(name)!;
      const start = values.slice();
      const direction = d.floats(values.length);
      const along = (t: number) => {
        values.set(start.map((v, i) => v + t * direction[i]));
        return loss();
      };
      const numeric = (along(1e-6) - along(-1e-6)) / 2e-6;
      values.set(start);
      const scale = Math.sqrt(dot(gradient, gradient) * dot(direction, direction));
      expectClose(`gradient of ${name}`, [dot(gradient, direction)], [numeric], 2e-3 * scale + 1e-4, d.seed);
    }
    model.free();
  });
});

describe("sizes", () => {
  it("that are not multiples of 2^depth are padded with hole", async () => {
    const d = new Draw(2310);
    const model = new PConvUNet(gpu(), { channels: [4, 5, 6] }, 1).eval();
    await randomise(model, d);
    const [n, h, w] = [2, 13, 18];
    const input = draw(d, n, h, w);
    const [ph, pw] = [16, 24];
    const x = new Float32Array(n * ph * pw * 3).fill(NaN); // what stands in a hole does not matter
    const mask = new Float32Array(n * ph * pw);
    const each = (visit: (small: number, large: number) => void) => {
      for (let b = 0; b < n; b++)
        for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) visit((b * h + i) * w + j, (b * ph + i) * pw + j);
    };
    each((small, large) => {
      mask[large] = input.mask[small];
      for (let c = 0; c < 3; c++) x[large * 3 + c] = input.x[small * 3 + c];
    });
    const [got, byHand] = [await run(model, input), await run(model, { n, h: ph, w: pw, x, mask })];
    const want = new Float32Array(n * h * w * 3);
    const wantMask = new Float32Array(n * h * w);
    each((small, large) => {
      wantMask[small] = byHand.mask[large];
      for (let c = 0; c < 3; c++) want[small * 3 + c] = byHand.y[large * 3 + c];
    });
    expectExact("y", got.y, want, d.seed);
    expectExact("mask", got.mask, wantMask, d.seed);
    expect(want.some((v) => v !== 0)).toBe(true);
    model.free();
  });

  it.each([
    [{ depth: 1 }, 3, 5],
    [{ depth: 3, width: 0.05 }, 1, 1],
    [{ channels: [1, 2, 3, 5] }, 17, 9],
    [{ depth: 2, width: 0.25 }, 8, 4],
  ] as const)("%j on %i x %i", async (config, h, w) => {
    const d = new Draw(2311, h);
    const model = new PConvUNet(gpu(), config);
    const input = { n: 1, h, w, x: d.floats(h * w * 3), mask: new Float32Array(h * w).fill(1) };
    const { y, gradients } = await step(model, input, d.floats(h * w * 3));
    expect(y.length).toBe(h * w * 3);
    expect(y.every(Number.isFinite)).toBe(true);
    for (const [name, g] of gradients) expect(g.every(Number.isFinite), name).toBe(true);
    model.free();
  });

  it("has the paper's 32.9 million parameters at 8 levels and width 1", async () => {
    const names: string[] = [];
    // Weights of 1/8 of the channels are cheap to make; their shapes give the full ones.
    const small = new PConvUNet(gpu(), { width: 0.125 });
    const full = (channels: number) => (channels === 3 ? 3 : channels === 6 ? 6 : channels * 8);
    let parameters = 0;
    for (const [name, p] of small.namedParameters()) {
      names.push(name);
      const [o, i = 0, ...kernel] = p.torchShape;
      // The last level reads 64 upsampled channels and the image's 3.
      const inputs = i === 8 + 3 ? 64 + 3 : full(i);
      parameters += p.torchShape.length === 4 ? full(o) * inputs * kernel[0] * kernel[1] : full(o);
    }
    expect(widthChannels(1, 8)).toEqual([64, 128, 256, 512, 512, 512, 512, 512]);
    expect(unetConfig().channels).toEqual(widthChannels(0.125, 8).map((c) => 8 * c));
    // The paper's table by hand: encoder and decoder convolutions, batch norms, the last bias.
    expect(parameters).toBe(11_650_240 + 21_198_609 + 5_888 + 4_992 + 3);
    expect(names.slice(0, 4)).toEqual(["enc_1.conv.weight", "enc_2.conv.weight", "enc_2.bn.weight", "enc_2.bn.bias"]);
    expect(names.slice(-2)).toEqual(["dec_1.conv.weight", "dec_1.conv.bias"]);
    small.free();
  });

  it.each([
    { depth: 0 },
    { depth: 1.5 },
    { width: 0 },
    { width: NaN },
    { channels: [4, 0] },
    { depth: 3, channels: [4] },
  ])("refuses %j", (config) => {
    expect(() => unetConfig(config)).toThrow(UserError);
  });
});

describe("holes and batches", () => {
  const config = { channels: [5, 6, 7] };

  it("nothing but hole gives zeros, an empty mask and finite gradients", async () => {
    const d = new Draw(2320);
    const model = new PConvUNet(gpu(), config);
    await randomise(model, d);
    const input = { n: 1, h: 8, w: 16, x: new Float32Array(384).fill(NaN), mask: new Float32Array(128) };
    const got = await run(model, input);
    expectExact("y", got.y, new Float32Array(384), d.seed);
    expectExact("mask", got.mask, new Float32Array(128), d.seed);
    const { gradients } = await step(model, input, d.floats(384));
    for (const [name, g] of gradients) expect(g.every(Number.isFinite), name).toBe(true);
    const state = await model.stateDict();
    for (const [name, t] of state) expect(Array.from(t.values, Number).every(Number.isFinite), name).toBe(true);
    model.free();
  });

  it("what stands in a hole reaches neither the output nor a gradient", async () => {
    const d = new Draw(2321);
    const model = new PConvUNet(gpu(), config);
    const input = draw(d, 2, 8, 8);
    const zeros = { ...input, x: input.x.map((v) => (Number.isNaN(v) ? 0 : v)) };
    const dy = d.floats(384);
    const [a, b] = [await step(model, input, dy), await step(model, zeros, dy)];
    expectExact("y", a.y, b.y, d.seed);
    for (const [name, g] of a.gradients) expectExact(name, g, b.gradients.get(name)!, d.seed);
    model.free();
  });

  it("a batch of two equals two single pictures in eval mode", async () => {
    const d = new Draw(2322);
    const model = new PConvUNet(gpu(), config).eval();
    await randomise(model, d);
    const input = draw(d, 2, 8, 16);
    const both = await run(model, input);
    for (const i of [0, 1]) {
      const half = <T extends Float32Array>(v: T) => v.slice((i * v.length) / 2, ((i + 1) * v.length) / 2);
      const one = await run(model, { ...input, n: 1, x: half(input.x), mask: half(input.mask) });
      expectExact("y", half(both.y), one.y, d.seed);
      expectExact("mask", half(both.mask), one.mask, d.seed);
    }
    // A mask of batch 1 is every picture's.
    const shared = {
      ...input,
      mask: input.mask.slice(0, 128),
      x: nanInHoles(d.floats(768), 3, input.mask.slice(0, 128)),
    };
    const tape = new Tape(gpu(), { grad: false });
    const { output } = model.forward(tape, tape.upload({ n: 2, h: 8, w: 16, c: 3 }, shared.x, "x"), tape.uploadMask({ n: 1, h: 8, w: 16 }, shared.mask)); // prettier-ignore
    const y = await output.values();
    tape.dispose();
    const twice = Float32Array.from([...shared.mask, ...shared.mask]);
    expectExact("shared mask", y, (await run(model, { ...shared, mask: twice })).y, d.seed);
    model.free();
  });

  it("two models of one seed take the same step, bit by bit", async () => {
    const d = new Draw(2323);
    const input = draw(d, 2, 16, 8);
    const dy = d.floats(768);
    const models = [1, 1, 2].map((seed) => new PConvUNet(gpu(), config, seed));
    const [a, b, other] = [await step(models[0], input, dy), await step(models[1], input, dy), await step(models[2], input, dy)]; // prettier-ignore
    expectExact("y", a.y, b.y, d.seed);
    for (const [name, g] of a.gradients) expectExact(name, g, b.gradients.get(name)!, d.seed);
    expect(other.y).not.toEqual(a.y);
    for (const model of models) model.free();
  });

  it("leaves the caller's image alone, and stage 2 freezes the encoder's batch norm only", async () => {
    const d = new Draw(2324);
    const model = new PConvUNet(gpu(), config);
    const tape = new Tape(gpu(), { grad: false });
    const shape = { n: 1, h: 8, w: 8, c: 3 };
    const values = d.floats(192);
    const mask = tape.uploadMask(shape, new Float32Array(64).fill(1));
    const image = tape.upload(shape, values, "image");
    image.zeroUnder = mask; // as after `maskMultiply`
    model.freezeBatchNorm("encoder");
    model.forward(tape, image, mask);
    for (let i = 0; i < 4; i++) tape.upload(shape, new Float32Array(192), "other"); // would overwrite what was freed
    expectExact("image", await image.values(), values, d.seed);
    tape.dispose();
    const state = await model.stateDict();
    for (const [name, t] of state) {
      if (name.endsWith("num_batches_tracked")) expect(Number(t.values[0]), name).toBe(name.startsWith("enc") ? 0 : 1);
    }
    model.freezeBatchNorm("none");
    await step(model, { ...shape, x: values, mask: new Float32Array(64).fill(1) }, values);
    expect(Number((await model.stateDict()).get("enc_2.bn.num_batches_tracked")!.values[0])).toBe(1);
    model.free();
  });
});

it.each(["paper", "pytorch", "keras"] as const)(
  "folds fixed batch norm where nothing needs a gradient, %s",
  async (convention) => {
    const d = new Draw(71);
    const model = new PConvUNet(gpu(), { depth: 3, channels: [6, 8, 12], convention }, 5).eval();
    await randomise(model, d);
    const { x, mask, ...size } = draw(d, 2, 24, 16);
    const output = async (grad: boolean) => {
      const tape = new Tape(gpu(), { grad });
      try {
        const out = model.forward(tape, tape.upload({ ...size, c: 3 }, x, "x"), tape.uploadMask(size, mask)).output;
        expect(out.requiresGrad).toBe(grad);
        return await out.values();
      } finally {
        tape.dispose();
      }
    };
    const [folded, separate] = [await output(false), await output(true)];
    expectClose("output", folded, separate, separate.map(() => 1e-5 * largest(separate)), d.seed); // prettier-ignore
    model.free();
  },
);
