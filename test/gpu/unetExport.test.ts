/** Exported networks compute what the model computes: the ONNX graph in onnxruntime, the port's state dict here. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { nhwcToNchw } from "../../src/autograd/layout.js";
import { Tape } from "../../src/autograd/tape.js";
import { UserError } from "../../src/errors.js";
import { readWeights } from "../../src/io/weights.js";
import { harmonicRef } from "../../src/kernels/harmonic.js";
import { PConvUNet, type UNetConfig } from "../../src/pconv/unet.js";
import { unetToOnnx } from "../../src/pconv/unetOnnx.js";
import { unetToPort } from "../../src/pconv/unetPort.js";
import { unetFromCheckpoint } from "../../src/pconv/unetWeights.js";
import { fixture } from "../cpu/weightFixtures.js";
import { expectClose, expectExact } from "../support/close.js";
import { Draw, nanInHoles } from "../support/draw.js";
import { useGpu } from "../support/gpu.js";
import { largest } from "../support/ops.js";

const gpu = useGpu();

const KERAS = { convention: "keras", convBias: "all", concat: "skip-up", head: "sigmoid", bnEps: 1e-3 } as const;

const FORMS: readonly (readonly [Partial<UNetConfig>, number, number, number])[] = [
  [{ channels: [5] }, 1, 8, 6],
  [{ channels: [4, 6, 8] }, 2, 16, 24],
  [{ channels: [4, 6, 8, 8, 8] }, 1, 45, 33],
  [{ channels: [4, 6, 8], convention: "pytorch" }, 2, 21, 8],
  [{ channels: [4, 6, 8], convention: "unscaled" }, 1, 24, 16],
  [{ channels: [4, 6, 8], base: "harmonic" }, 2, 11, 16],
  [{ channels: [4, 6, 8, 8], convention: "pytorch", concat: "skip-up" }, 1, 16, 16],
  [{ channels: [4, 6, 8], ...KERAS }, 2, 19, 17],
  [{ channels: [4, 6], ...KERAS, head: "none" }, 1, 12, 9],
];

/** A model whose every tensor is drawn, in evaluation mode. */
async function drawn(config: Partial<UNetConfig>, d: Draw): Promise<PConvUNet> {
  const model = new PConvUNet(gpu(), config, 5).eval();
  const state = await model.stateDict();
  const values = [...state].map(([name, t]) => {
    const positive = name.endsWith("running_var") || name.endsWith("bn.weight");
    const [low, high] = positive ? [0.5, 2] : [-0.5, 0.5];
    const floats = name.endsWith("conv.weight")
      ? Float32Array.from(t.values, Number)
      : d.floats(t.values.length, low, high);
    return [name, { shape: t.shape, toFloat32: () => floats }] as const;
  });
  model.loadStateDict(new Map(values));
  return model;
}

interface Input {
  readonly n: number;
  readonly h: number;
  readonly w: number;
  readonly x: Float32Array;
  readonly mask: Float32Array;
}

/** A solid hole, scattered ones, NaN in them. */
function draw(d: Draw, n: number, h: number, w: number): Input {
  const mask = d.mask(n * h * w, 0.2).map((v, i) => {
    const [row, col] = [Math.floor(i / w) % h, i % w];
    return row < (3 * h) / 4 && col > w / 3 ? 0 : v;
  });
  return { n, h, w, mask, x: nanInHoles(d.floats(n * h * w * 3, 0, 1), 3, mask) };
}

/** Output, NCHW. */
async function run(model: PConvUNet, { n, h, w, x, mask }: Input): Promise<Float32Array> {
  const tape = new Tape(gpu(), { grad: false });
  const image = tape.upload({ n, h, w, c: 3 }, x, "x");
  const { output } = model.forward(tape, image, tape.uploadMask({ n, h, w }, mask));
  const y = nhwcToNchw(await output.values(), [n, 3, h, w]);
  tape.dispose();
  return y;
}

interface Ort {
  readonly InferenceSession: {
    create(
      model: Uint8Array,
      options: object,
    ): Promise<{ run(feeds: object): Promise<{ output: { data: Float32Array } }> }>;
  };
  readonly Tensor: new (type: string, values: Float32Array, shape: readonly number[]) => unknown;
}

const peers = fileURLToPath(new URL("../../bench/peers/package.json", import.meta.url));
const installed = existsSync(new URL("../../bench/peers/node_modules/onnxruntime-node/package.json", import.meta.url));

// `npm ci --prefix bench/peers` installs it.
describe.skipIf(!installed)("the ONNX graph in onnxruntime", () => {
  const evaluate = async (model: PConvUNet, { n, h, w, x, mask }: Input) => {
    const ort = createRequire(peers)("onnxruntime-node") as Ort;
    const options = { executionProviders: ["cpu"], intraOpNumThreads: 1 };
    const session = await ort.InferenceSession.create(await unetToOnnx(model), options);
    const feeds = {
      image: new ort.Tensor("float32", Float32Array.from(nhwcToNchw(x, [n, 3, h, w])), [n, 3, h, w]),
      mask: new ort.Tensor("float32", mask, [n, 1, h, w]),
    };
    const base = Float32Array.from(harmonicRef({ n, h, w, masks: n }, x, mask));
    const added = { base: new ort.Tensor("float32", Float32Array.from(nhwcToNchw(base, [n, 3, h, w])), [n, 3, h, w]) };
    return (await session.run(model.config.base === "none" ? feeds : { ...feeds, ...added })).output.data;
  };

  it.each(FORMS)("gives the output of %j, %i x 3 x %i x %i", async (config, n, h, w) => {
    const d = new Draw(4100, h * w);
    const model = await drawn(config, d);
    const input = draw(d, n, h, w);
    const want = await run(model, input);
    expect(largest(want)).toBeGreaterThan(0.05);
    expectClose("output", await evaluate(model, input), want, 1e-4 * Math.max(1, largest(want)), d.seed);
    model.free();
  });

  it.each(["paper", "pytorch", "keras"] as const)(
    "gives the output of %s with fractional masks",
    async (convention) => {
      const d = new Draw(4101);
      const form = convention === "keras" ? KERAS : { convBias: "all" as const };
      const model = await drawn({ channels: [4, 6], ...form, convention }, d);
      const input = {
        n: 1,
        h: 12,
        w: 16,
        x: d.floats(576, 0, 1),
        mask: d.floats(192, 0, 1).map((v) => (v < 0.6 ? 0 : v)),
      };
      const want = await run(model, input);
      expectClose("output", await evaluate(model, input), want, 1e-4 * Math.max(1, largest(want)), d.seed);
      model.free();
    },
  );

  it("gives the output of nothing but hole", async () => {
    const d = new Draw(4102);
    const model = await drawn({ channels: [4, 6] }, d);
    const input = { n: 1, h: 8, w: 8, x: new Float32Array(192).fill(NaN), mask: new Float32Array(64) };
    expectExact("output", await evaluate(model, input), new Float32Array(192), d.seed);
    model.free();
  });
});

describe("unetToPort", () => {
  it.each([
    { channels: [4, 6, 8] },
    { channels: [5, 6, 4], concat: "skip-up", bnEps: 1e-3 },
    { channels: [4, 6], convention: "pytorch", range: "imagenet" },
  ] as const)("gives the output of %j", async (config) => {
    const d = new Draw(4110);
    const model = await drawn(config, d);
    const again = unetFromCheckpoint(gpu(), await readWeights(await unetToPort(model), "port"), "port").eval();
    expect(again.config).toMatchObject({ convention: "pytorch", concat: "up-skip", bnEps: 1e-5 });
    const input = draw(d, 2, 16, 8);
    const want = await run(model, input);
    expectClose("output", await run(again, input), want, 1e-5 * Math.max(1, largest(want)), d.seed);
    model.free();
    again.free();
  });

  it("writes back the port's own checkpoint: names, shapes, types and bits", async () => {
    const { tensors } = await readWeights(fixture("naoto_small_ckpt.pth"), "port");
    const model = unetFromCheckpoint(gpu(), await readWeights(fixture("naoto_small_ckpt.pth"), "port"), "port");
    const written = (await readWeights(await unetToPort(model), "written")).tensors;
    const names = [...tensors.keys()].filter((name) => name.startsWith("model.")).map((name) => name.slice(6));
    expect([...written.keys()].sort()).toEqual(names.sort());
    for (const name of names) {
      const want = tensors.get(`model.${name}`)!;
      const got = written.get(name)!;
      expect([got.dtype, got.shape], name).toEqual([want.dtype, want.shape]);
      expect([...got.bytes], name).toEqual([...want.bytes]);
    }
    model.free();
  });

  it("refuses what the port cannot express", async () => {
    const model = new PConvUNet(gpu(), { channels: [4], ...KERAS });
    await expect(unetToPort(model)).rejects.toThrow(UserError);
    await expect(unetToPort(model)).rejects.toThrow("got bias in holes, a bias in every layer, a last 1x1 layer with sigmoid"); // prettier-ignore
    model.free();
  });
});
