/** The U-Net from files of every implementation, against what the implementations computed with them. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { describe, expect, it, vi } from "vitest";
import { nchwToNhwc, nhwcToNchw } from "../../src/autograd/layout.js";
import { Tape } from "../../src/autograd/tape.js";
import { FormatError } from "../../src/errors.js";
import { readSafetensors, writeSafetensors } from "../../src/io/safetensors.js";
import type { TensorEntry } from "../../src/io/tensorEntry.js";
import { loadUNet } from "../../src/io/unetFile.js";
import { readWeights } from "../../src/io/weights.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { unetFromCheckpoint, unetToSafetensors } from "../../src/pconv/unetWeights.js";
import { fixture } from "../cpu/weightFixtures.js";
import { expectClose, expectExact } from "../support/close.js";
import { useGpu } from "../support/gpu.js";
import { kerasFile, kerasPath, type TorchTensor } from "../support/kerasFile.js";

const gpu = useGpu();

function golden(name: string): Map<string, TensorEntry> {
  const path = fileURLToPath(new URL(`../fixtures/golden/${name}`, import.meta.url));
  return readSafetensors(new Uint8Array(readFileSync(path)), name).tensors;
}

/** The whole output, NCHW. */
async function run(model: PConvUNet, image: TorchTensor, mask: TorchTensor): Promise<Float32Array> {
  const [n, c, h, w] = image.shape;
  const tape = new Tape(gpu(), { grad: false });
  const x = tape.upload({ n, h, w, c }, nchwToNhwc(image.toFloat32(), [n, c, h, w]), "x");
  const { output } = model.forward(tape, x, tape.uploadMask({ n, h, w }, mask.toFloat32()));
  const y = nhwcToNchw(await output.values(), [n, 3, h, w]);
  tape.dispose();
  return y;
}

async function load(file: Uint8Array, name: string): Promise<PConvUNet> {
  return unetFromCheckpoint(gpu(), await readWeights(file, name), name);
}

/** Running statistics 0 and 1 where the golden network, which trains, has none. */
function withStatistics(state: ReadonlyMap<string, TorchTensor>): Map<string, TorchTensor> {
  const full = new Map(state);
  for (const [name, { shape }] of state) {
    if (!name.endsWith("_bn.weight")) continue;
    const constant = (v: number) => ({ shape, toFloat32: () => new Float32Array(shape[0]).fill(v) });
    full.set(name.replace("weight", "running_mean"), constant(0));
    full.set(name.replace("weight", "running_var"), constant(1));
  }
  return full;
}

describe("PConv-Keras", () => {
  const depth = 4;
  const tensors = golden("unetK.safetensors");
  const init = [...tensors].filter(([name]) => name.startsWith("unetK/init."));
  const state = withStatistics(new Map(init.map(([name, t]) => [name.slice("unetK/init.".length), t])));
  const get = (name: string) => tensors.get(`unetK/${name}`)!;

  it.each([
    ["save_weights", (path: string) => path, 1],
    ["save", (path: string) => `model_weights/${path}`, 17],
    ["tf.keras", (path: string) => path, null],
    ["a nested model", (path: string) => `model_1/${path.split("/").slice(1).join("/")}`, 1],
  ] as const)("computes the golden output from a file of %s", async (form, place, first) => {
    const datasets = [...state].map(([name, t]) => [place(kerasPath(name, depth, first)), t] as const);
    const moment = ["optimizer_weights/Adam/p_conv2d_1/img_kernel/m:0", get("init.e1_kernel")] as const;
    const file = await kerasFile(form === "save" ? [...datasets, moment] : datasets);
    const model = await load(file, `${form}.h5`);
    expect(model.config).toMatchObject({ depth, channels: [4, 8, 16, 32], convention: "keras", concat: "skip-up", bnEps: 1e-3, head: "sigmoid", range: "unit" }); // prettier-ignore
    // The golden case is a training step: batch statistics.
    expectClose("out", await run(model, get("gt01"), get("mask")), get("out").toFloat32(), 1e-5, form);
    model.free();
  });

  it.each([
    ["without its last layer", (name: string) => !name.startsWith("out_"), "1 last convolution"],
    ["without a batch norm", (name: string) => !name.startsWith("e3_bn"), "3 encoder batch norms"],
    ["without a level", (name: string) => !name.startsWith("d2_"), "as many up as down, got 7"],
    ["without a bias", (name: string) => name !== "d2_bias", 'got none for "dec_2.conv.bias"'],
  ])("refuses one %s", async (_, keep, problem) => {
    const kept = [...state].filter(([name]) => keep(name));
    const loading = load(await kerasFile(kept.map(([name, t]) => [kerasPath(name, depth), t])), "cut.h5");
    await expect(loading).rejects.toThrow(FormatError);
    await expect(loading).rejects.toThrow(problem);
  });
});

describe("the PyTorch port", () => {
  const checkpoints = ["naoto_small_ckpt.pth", "naoto_small_ckpt_legacy.pth"];

  it("loads the zip and the legacy form to the same bits, with and without a prefix", async () => {
    const { tensors } = await readWeights(fixture(checkpoints[0]), "zip");
    const bare = (prefix: string) =>
      writeSafetensors(
        [...tensors]
          .filter(([name]) => name.startsWith("model."))
          .map(([name, { dtype, shape, bytes }]) => [
            prefix + name.slice("model.".length),
            { dtype, shape, values: bytes },
          ]),
      );
    const files = [...checkpoints.map(fixture), bare(""), bare("module.")];
    const states = [];
    for (const file of files) {
      const model = await load(file, "port");
      expect(model.config).toMatchObject({ channels: [2, 4, 8, 16], convention: "pytorch", range: "imagenet" });
      states.push(await model.stateDict());
      model.free();
    }
    for (const [name, { values }] of states[0]) {
      for (const other of states.slice(1)) {
        expectExact(name, Array.from(other.get(name)!.values, Number), Array.from(values, Number), "port");
      }
    }
    const first = states[0].get("enc_1.conv.weight")!;
    expectExact("enc_1", first.values as Float32Array, tensors.get("model.enc_1.conv.input_conv.weight")!.toFloat32(), "port"); // prettier-ignore
  });

  it("refuses a mask convolution that is not constant", async () => {
    const { tensors } = await readWeights(fixture(checkpoints[0]), "zip");
    const changed = [...tensors].map(([name, { dtype, shape, bytes }]) => {
      const values = bytes.slice();
      if (name === "model.dec_2.conv.mask_conv.weight") values[3] ^= 1;
      return [name, { dtype, shape, values }] as const;
    });
    await expect(load(writeSafetensors(changed), "mask.safetensors")).rejects.toThrow(/dec_2.*to hold ones/);
  });

  const shared = fileURLToPath(new URL("../../../shared/golden/ckpt_eval.safetensors", import.meta.url));
  it.skipIf(!existsSync(shared)).each(checkpoints)("computes the golden evaluation from %s", async (name) => {
    const tensors = readSafetensors(new Uint8Array(readFileSync(shared)), "ckpt_eval").tensors;
    const get = (key: string) => tensors.get(`ckpt_eval/${key}`)!;
    const model = (await load(fixture(name), name)).eval();
    expectClose("out", await run(model, get("gt"), get("mask")), get("out").toFloat32(), 3.5e-6, name);
    model.free();
  });
});

describe("files of this library", () => {
  it("come back to the same bits and configuration", async () => {
    const config = { channels: [4, 6], convention: "keras", head: "sigmoid", convBias: "all", concat: "skip-up", bnEps: 1e-3 } as const; // prettier-ignore
    const model = new PConvUNet(gpu(), config, 7);
    const again = await load(await unetToSafetensors(model), "own");
    expect(again.config).toEqual(model.config);
    const [a, b] = [await model.stateDict(), await again.stateDict()];
    expect([...b.keys()].sort()).toEqual([...a.keys()].sort());
    for (const [name, { values }] of a) expect(b.get(name)!.values, name).toEqual(values);
    model.free();
    again.free();
  });

  it("load from bytes, a path and URLs", async () => {
    const folder = mkdtempSync(join(tmpdir(), "pconv-load-"));
    const model = new PConvUNet(gpu(), { channels: [4, 5] }, 9);
    const bytes = await unetToSafetensors(model);
    const path = join(folder, "w ä.safetensors");
    writeFileSync(path, bytes);
    const server = createServer((_, response) => response.end(bytes));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    vi.stubEnv("XDG_CACHE_HOME", folder);
    try {
      const { port } = server.address() as AddressInfo;
      const want = await model.stateDict();
      for (const source of [
        bytes,
        bytes.buffer as ArrayBuffer,
        path,
        pathToFileURL(path),
        `http://127.0.0.1:${port}/w`,
      ]) {
        const again = await PConvUNet.load(gpu(), source);
        const got = await again.stateDict();
        for (const [name, { values }] of want) expect(got.get(name)!.values, name).toEqual(values);
        again.free();
      }
      await expect(PConvUNet.load(gpu(), join(folder, "missing"))).rejects.toThrow("no such file");
    } finally {
      vi.unstubAllEnvs();
      server.close();
      model.free();
      rmSync(folder, { recursive: true });
    }
  });

  it.each([
    ["no JSON", "{"],
    ["no object", "7"],
    ["a layer that nobody has", '{"channels":[4],"convention":"other"}'],
    ["an impossible depth", '{"depth":4000000000}'],
    ["channels that are none", '{"channels":"ab"}'],
    ["a network larger than its file", '{"channels":[1000000000,1000000000]}'],
    ["no epsilon", '{"channels":[4],"bnEps":"x"}'],
  ])("refuses a configuration with %s", async (_, text) => {
    const file = writeSafetensors([["a", { dtype: "F32", shape: [1], values: Float32Array.of(1) }]], {
      "pconv-webgpu.unet": text,
    });
    await expect(load(file, "own.safetensors")).rejects.toThrow(FormatError);
    await expect(load(file, "own.safetensors")).rejects.toThrow(/^own\.safetensors.*\nhelp: ./s);
  });
});

describe("folders", () => {
  it("of a checkpoint or a run stand for the weights in them, averaged ones first", async () => {
    const dir = mkdtempSync(join(tmpdir(), "pconv-folder-"));
    const [plain, averaged] = [1, 2].map((seed) => new PConvUNet(gpu(), { width: 0.1, depth: 2 }, seed));
    const weight = async (model: PConvUNet) => [...(await model.stateDict()).get("enc_1.conv.weight")!.values];
    try {
      for (const step of ["step-00000005", "step-00000030"]) mkdirSync(join(dir, "run", step), { recursive: true });
      await expect(loadUNet(gpu(), join(dir, "run"))).rejects.toThrow(/got a folder without model.safetensors/);
      writeFileSync(join(dir, "run", "step-00000030", "model.safetensors"), await unetToSafetensors(plain));
      const load = async (path: string) => {
        const model = await loadUNet(gpu(), path);
        const values = await weight(model);
        model.free();
        return values;
      };
      expect(await load(join(dir, "run"))).toEqual(await weight(plain));
      writeFileSync(join(dir, "run", "step-00000030", "ema.safetensors"), await unetToSafetensors(averaged));
      expect(await load(join(dir, "run", "step-00000030"))).toEqual(await weight(averaged));
      expect(await load(join(dir, "run"))).toEqual(await weight(averaged));
    } finally {
      plain.free();
      averaged.free();
      rmSync(dir, { recursive: true });
    }
  });
});
