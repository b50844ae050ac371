import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { nchwToNhwc, nhwcToNchw } from "../../src/autograd/layout.js";
import { Tape } from "../../src/autograd/tape.js";
import type { Tensor } from "../../src/autograd/tensor.js";
import { FormatError, UserError } from "../../src/errors.js";
import { readSafetensors, writeSafetensors } from "../../src/io/safetensors.js";
import { loadVgg } from "../../src/io/vggFile.js";
import { readWeightsFile } from "../../src/io/weightsFile.js";
import { Vgg } from "../../src/pconv/vgg.js";
import { foldInputShift, vggFromCaffe } from "../../src/pconv/vggWeights.js";
import { fixture } from "../cpu/weightFixtures.js";
import { expectClose, expectExact } from "../support/close.js";
import { useGpu } from "../support/gpu.js";

const gpu = useGpu();
const path = (name: string) => fileURLToPath(new URL(`../fixtures/weights/${name}`, import.meta.url));
const shared = (name: string) => fileURLToPath(new URL(`../../../shared/vgg/${name}`, import.meta.url));

const folder = mkdtempSync(join(tmpdir(), "pconv-vgg-"));
afterAll(() => rmSync(folder, { recursive: true }));

const small = readSafetensors(fixture("vgg16_small.safetensors"), "small").tensors;

/** The small VGG16 under other names; undefined leaves a tensor out. */
function renamed(name: string, rename: (key: string) => string | string[] | undefined): string {
  const tensors = [...small].flatMap(([key, { dtype, shape, bytes }]) =>
    [rename(key) ?? []].flat().map((to) => [to, { dtype, shape, values: bytes }] as const),
  );
  writeFileSync(join(folder, name), writeSafetensors(tensors));
  return join(folder, name);
}

async function expectSmall(file: string): Promise<void> {
  const vgg = await loadVgg(gpu(), file);
  expect(vgg.architecture).toBe("vgg16");
  const state = await vgg.stateDict();
  expect([...state.keys()].sort()).toEqual([...small.keys()].sort());
  for (const [name, want] of small) {
    expectExact(name, Array.from(state.get(name)!.values as ArrayLike<number>), want.toFloat32(), file);
  }
  vgg.free();
}

describe("loadVgg", () => {
  it.each([
    "vgg16_small.safetensors",
    "vgg16_small.pth",
    "vgg16_small_legacy.pth",
    "vgg16_small_keras2.h5",
    "vgg16_small_keras2_vlen.h5",
    "vgg16_small_official_names.h5",
  ])("loads %s", (name) => expectSmall(path(name)));

  it.each(["module.", "vgg.", "state_dict.module.vgg."])("takes the prefix %s", (prefix) =>
    expectSmall(renamed("prefix.safetensors", (key) => prefix + key)),
  );

  it("leaves later blocks and the classifier alone, and prefers names without a prefix", async () => {
    const vgg = await loadVgg(gpu(), path("vgg16_allkeys_params_legacy.pth"));
    const last = (await vgg.stateDict()).get("features.14.weight")!;
    const want = readSafetensors(fixture("vgg16_allkeys.safetensors"), "all").tensors.get("features.14.weight")!;
    expectExact("features.14.weight", Array.from(last.values as ArrayLike<number>), want.toFloat32(), "fixture");
    vgg.free();
    await expectSmall(renamed("both.safetensors", (key) => [key, `ema.${key}`]));
  });

  it.each([
    ["a U-Net", () => path("naoto_small_ckpt.pth"), "expected the tensors of a VGG (features.0.weight and so on), got"],
    ["a file without tensors", () => renamed("none.safetensors", () => undefined), "got no tensors"],
    [
      "a VGG without its last convolution",
      () => renamed("cut.safetensors", (key) => (key.includes(".14.") ? undefined : key)),
      "expected features.14.weight and .bias, got none",
    ],
    [
      "convolutions in another order",
      () => renamed("order.safetensors", (key) => key.replace(/\.(5|7)\./, (_, n) => (n === "5" ? ".7." : ".5."))),
      "features.5.weight of shape 8x4x3x3, got 8x8x3x3",
    ],
    ["two VGGs", () => renamed("two.safetensors", (key) => [`a.${key}`, `b.${key}`]), "expected one VGG, got 2"],
  ])("refuses %s with the file's name", async (_, make, problem) => {
    const file = make();
    const loading = loadVgg(gpu(), file);
    await expect(loading).rejects.toThrow(FormatError);
    await expect(loading).rejects.toThrow(problem);
    await expect(loading).rejects.toThrow(file);
  });

  it("refuses a missing file", async () => {
    await expect(loadVgg(gpu(), join(folder, "missing.pth"))).rejects.toThrow(UserError);
  });

  describe("weights for BGR of 0..255 less Caffe's mean", () => {
    const caffeMean = [103.939, 116.779, 123.68];
    const imageNet = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    const size = { n: 1, h: 16, w: 24, c: 3 };
    const rgb = Float32Array.from({ length: 16 * 24 * 3 }, (_, i) => ((i * 2654435761) >>> 8) / 2 ** 24);
    // With weights of this size the first layer's results are those of a normalised image.
    const scaled = [...small].map(([key, tensor]) => {
      const values = tensor.toFloat32();
      const kind = { dtype: tensor.dtype, shape: tensor.shape };
      return [key, { ...kind, values: key === "features.0.weight" ? values.map((v) => v / 50) : values }] as const;
    });
    const file = (name: string) => {
      writeFileSync(join(folder, name), writeSafetensors(scaled));
      return join(folder, name);
    };
    const features = async (vgg: Vgg, value: (v: number, c: number, i: number) => number) => {
      const tape = new Tape(gpu(), { grad: false });
      const image = tape.upload(size, rgb.map((v, i) => value(v, i % 3, i)), "x"); // prettier-ignore
      const read = Object.entries(vgg.forward(tape, image)) as [string, Tensor][];
      const values = await Promise.all(read.map(async ([name, t]) => [name, await t.values()] as const));
      tape.dispose();
      return values;
    };
    const normalised = (v: number, c: number) => (v - imageNet.mean[c]) / imageNet.std[c];
    const bgr = (_: number, c: number, i: number) => 255 * rgb[i - c + 2 - c] - caffeMean[c];

    it.each([
      ["by its name", "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "auto"],
      ["when it is said", "renamed.bin", "caffe"],
    ] as const)(
      "give the same features from torchvision's input at every pixel, known %s",
      async (_, name, convention) => {
        const raw = await loadVgg(gpu(), file("raw.safetensors"), { convention: "torchvision" });
        const converted = await loadVgg(gpu(), file(name), { convention });
        const want = await features(raw, bgr);
        for (const [i, [pool, got]] of (await features(converted, normalised)).entries()) {
          const scale = want[i][1].reduce((a, v) => Math.max(a, Math.abs(v)), 0);
          expect(scale).toBeGreaterThan(0.1);
          expectClose(pool, got, want[i][1], 1e-5 * scale, name);
        }
        raw.free();
        converted.free();
      },
    );

    it("fold the mean into the bias, exact inside and off at the border", async () => {
      const raw = await loadVgg(gpu(), file("raw.safetensors"), { convention: "torchvision" });
      const tensors = readSafetensors(writeSafetensors(scaled), "raw").tensors;
      const folded = new Vgg(gpu(), foldInputShift(vggFromCaffe(tensors, "raw"), "raw"));
      const [, want] = (await features(raw, bgr))[0];
      const [, got] = (await features(folded, normalised))[0];
      const scale = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
      // pool1 is 8 x 12; its outermost pixels see the padding.
      const border = (i: number) => {
        const [row, col] = [Math.floor(i / (4 * 12)), Math.floor(i / 4) % 12];
        return row === 0 || row === 7 || col === 0 || col === 11;
      };
      const error = (where: boolean) =>
        got.reduce((a, v, i) => (border(i) === where ? Math.max(a, Math.abs(v - want[i])) : a), 0) / scale;
      expect(error(false)).toBeLessThan(1e-5);
      expect(error(true)).toBeGreaterThan(1e-5);
      expect(error(true)).toBeLessThan(0.02);
      raw.free();
      folded.free();
    });
  });

  const real = shared("vgg19_tv_meannorm_fp16.safetensors");
  const vectorFile = shared("vgg19_testvector.safetensors");
  it.skipIf(!existsSync(real) || !existsSync(vectorFile))("computes the features of a real VGG19", async () => {
    const vector = (await readWeightsFile(vectorFile)).tensors;
    const vgg = await loadVgg(gpu(), real);
    expect(vgg.architecture).toBe("vgg19");
    const tape = new Tape(gpu(), { grad: false });
    const x = vector.get("x")!;
    const [n, c, h, w] = x.shape;
    // The vector's image is RGB of 0..1.
    const [mean, deviation] = [
      [0.485, 0.456, 0.406],
      [0.229, 0.224, 0.225],
    ];
    const normalised = x.toFloat32().map((v, i) => {
      const channel = Math.floor(i / (h * w)) % c;
      return (v - mean[channel]) / deviation[channel];
    });
    const image = tape.upload({ n, h, w, c }, nchwToNhwc(normalised, [n, c, h, w]), "x");
    for (const [name, t] of Object.entries(vgg.forward(tape, image)) as [string, Tensor][]) {
      const want = vector.get(name)!.toFloat64();
      const got = nhwcToNchw(await t.values(), [t.shape.n, t.shape.c, t.shape.h, t.shape.w]);
      const largest = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
      expectClose(name, got, want, 1e-5 * largest, "float64 test vector");
    }
    tape.dispose();
    vgg.free();
  });
});
