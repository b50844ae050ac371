import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it, vi } from "vitest";
import { FormatError, UserError } from "../../src/errors.js";
import { readSafetensors } from "../../src/io/safetensors.js";
import { readWeights } from "../../src/io/weights.js";
import { findUNet } from "../../src/pconv/unetWeights.js";
import { type ConversionReport, convertCommand, convertWeights } from "../../tools/convert.js";
import { kerasFile, kerasPath } from "../support/kerasFile.js";
import { Rng } from "../../src/pconv/rng.js";
import { contents, damage, fixture } from "./weightFixtures.js";

const fixturePath = (name: string) => fileURLToPath(new URL(`../fixtures/weights/${name}`, import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "pconv-convert-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** The command in this process: what it prints on stdout. */
async function convert(...args: string[]): Promise<string> {
  const lines: string[] = [];
  const log = vi.spyOn(console, "log").mockImplementation((line: string) => void lines.push(line));
  try {
    await convertCommand().exitOverride().parseAsync(args, { from: "user" });
  } finally {
    log.mockRestore();
  }
  return lines.join("\n");
}

type Line = ConversionReport & { readonly output: string; readonly bytes: number };
const json = async (...args: string[]) => JSON.parse(await convert(...args, "--json")) as Line;
const sorted = (bytes: Uint8Array) => {
  const { tensors } = readSafetensors(bytes, "sorted");
  return contents(new Map([...tensors].sort(([a], [b]) => (a < b ? -1 : 1))));
};

/** A PConv-Keras checkpoint of the golden network, with moving statistics. */
async function kerasCheckpoint(): Promise<Uint8Array> {
  const golden = new URL("../fixtures/golden/unetK.safetensors", import.meta.url);
  const { tensors } = readSafetensors(new Uint8Array(readFileSync(golden)), "unetK");
  const init = [...tensors].filter(([name]) => name.startsWith("unetK/init."));
  const named = init.map(([name, t]) => [name.slice("unetK/init.".length), t] as const);
  const statistics = named
    .filter(([name]) => name.endsWith("_bn.weight"))
    .flatMap(([name, t]) => ["running_mean", "running_var"].map((s) => [name.replace("weight", s), t] as const));
  return kerasFile([
    ...[...named, ...statistics].map(([name, t]) => [kerasPath(name, 4), t] as const),
    ["training/Adam/iterations:0", { shape: [1], toFloat32: () => Float32Array.of(3) }],
  ]);
}

describe("pconv convert", () => {
  it("turns the port's checkpoint into ours and back, bit for bit", async () => {
    const own = join(folder, "own.safetensors");
    const report = await json(fixturePath("naoto_small_ckpt.pth"), own);
    expect(report).toMatchObject({ format: "pth-zip", contents: "unet", source: "pytorch-port", to: "safetensors", missing: [] }); // prettier-ignore
    expect(report.bytes).toBe(readFileSync(own).length);
    expect(report.read + report.skipped.length).toBe(report.tensors);
    expect(report.skipped.filter(({ why }) => why.startsWith("constant ones")).length).toBe(8);
    const port = join(folder, "port.safetensors");
    await convert(own, port, "--to", "port");
    const { tensors } = await readWeights(fixture("naoto_small_ckpt.pth"), "port");
    const model = [...tensors].filter(([name]) => name.startsWith("model.")).map(([name, t]) => [name.slice(6), t] as const); // prettier-ignore
    const want = contents(new Map(model.sort(([a], [b]) => (a < b ? -1 : 1))));
    expect(sorted(new Uint8Array(readFileSync(port)))).toEqual(want);
  });

  it("says what it read, skipped and did not find in a PConv-Keras checkpoint", async () => {
    const input = join(folder, "keras.h5");
    writeFileSync(input, await kerasCheckpoint());
    const output = join(folder, "keras.safetensors");
    const report = await json(input, output);
    expect(report).toMatchObject({ format: "h5", source: "pconv-keras", read: 42, tensors: 43 });
    expect(report.skipped).toEqual([{ name: "training/Adam/iterations:0", why: "not part of the network" }]);
    expect(report.missing).toContain("enc_2.bn.num_batches_tracked");
    expect(report.missing).toHaveLength(6);
    const again = findUNet(await readWeights(new Uint8Array(readFileSync(output)), output), output)!;
    expect(again.config).toEqual(report.config);
    const before = findUNet(await readWeights(new Uint8Array(readFileSync(input)), input), input)!;
    for (const [name, t] of before.state) expect(again.state.get(name)!.toFloat32(), name).toEqual(t.toFloat32());

    const text = await convert(input, output, "--force");
    expect(text).toContain("a U-Net (pconv-keras, 4 levels, channels 4 8 16 32, convention keras)");
    expect(text).toContain('skipped  1 (not part of the network): "training/Adam/iterations:0"');
    await expect(convert(input, join(folder, "no.safetensors"), "--to", "port")).rejects.toThrow(/bias in holes/);
    expect((await json(input, join(folder, "keras.onnx"))).to).toBe("onnx");
  });

  it.each(["vgg16_small_keras2.h5", "vgg16_small_legacy.pth"])("writes the VGG of %s", async (name) => {
    const output = join(folder, `${name}.safetensors`);
    const report = await json(fixturePath(name), output);
    expect(report).toMatchObject({ contents: "vgg", source: "torchvision", read: 14, skipped: [], notes: [] });
    expect(sorted(new Uint8Array(readFileSync(output)))).toEqual(sorted(fixture("vgg16_small.safetensors")));
  });

  it("converts a VGG for another input only when it is said or known", async () => {
    const bytes = fixture("vgg16_small_keras2.h5");
    const named = join(folder, "vgg16_weights_tf_dim_ordering_tf_kernels.h5");
    writeFileSync(named, bytes);
    const output = join(folder, "caffe.safetensors");
    const report = await json(named, output);
    expect(report.source).toBe("caffe");
    expect(report.notes[0]).toContain("outermost pixels of conv1_1");
    const said = await convertWeights(bytes, "renamed.h5", "safetensors", "caffe");
    expect(sorted(said.file)).toEqual(sorted(new Uint8Array(readFileSync(output))));
    const plain = await json(named, output, "--force", "--vgg-convention", "torchvision");
    expect(plain.source).toBe("torchvision");
    expect(sorted(new Uint8Array(readFileSync(output)))).toEqual(sorted(fixture("vgg16_small.safetensors")));
  });

  it("writes other tensors as they are", async () => {
    const { file, report } = await convertWeights(fixture("edge.pth"), "edge.pth", "safetensors", "torchvision");
    expect(report).toMatchObject({ contents: "tensors", source: null, read: 10 });
    const { tensors } = await readWeights(fixture("edge.pth"), "edge.pth");
    expect(sorted(file)).toEqual(contents(new Map([...tensors].sort(([a], [b]) => (a < b ? -1 : 1)))));
  });

  it("converts or refuses damaged networks", async () => {
    const own = await convertWeights(fixture("naoto_small_ckpt.pth"), "own", "safetensors", "torchvision");
    const originals = [fixture("naoto_small_ckpt_legacy.pth"), await kerasCheckpoint(), own.file];
    let refused = 0;
    for (let seed = 0; seed < 90; seed++) {
      const rng = Rng.of(2019, seed);
      // Half of them where names, shapes and the configuration are.
      const original = originals[seed % 3];
      const damaged = damage(original, rng);
      if (seed % 2 === 0) damaged[rng.integer(0, Math.min(2000, damaged.length - 1))] ^= 1 << rng.integer(0, 7);
      const to = (["safetensors", "port", "onnx"] as const)[rng.integer(0, 2)];
      try {
        await convertWeights(damaged, "damaged", to, "torchvision");
      } catch (error) {
        if (!(error instanceof UserError)) throw new Error(`seed ${seed}: ${String(error)}`, { cause: error });
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(30);
  });

  it("replaces nothing unless told, and leaves nothing half written", async () => {
    const output = join(folder, "taken.safetensors");
    writeFileSync(output, "mine");
    await expect(convert(fixturePath("edge.pth"), output)).rejects.toThrow(/expected a free name/);
    writeFileSync(join(folder, "bad.pth"), "PK nothing");
    await expect(convert(join(folder, "bad.pth"), output, "--force")).rejects.toThrow(FormatError);
    expect(readFileSync(output, "utf8")).toBe("mine");
    await convert(fixturePath("edge.pth"), output, "--force");
    expect(readSafetensors(new Uint8Array(readFileSync(output)), output).tensors.size).toBe(10);
    expect(readdirSync(folder).filter((name) => name.includes("partial"))).toEqual([]);
  });

  it.each([
    [["edge.pth", "out.bin"], "ends in .safetensors or .onnx"],
    [["edge.pth", "out.onnx"], "expected a partial convolution U-Net for --to onnx"],
    [["missing.pth", "out.onnx"], "no such file"],
  ])("refuses %j", async ([input, output], problem) => {
    const converting = convert(fixturePath(input), join(folder, output));
    await expect(converting).rejects.toThrow(UserError);
    await expect(converting).rejects.toThrow(problem);
  });
});
