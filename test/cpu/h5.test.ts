import { File as H5, type Group, FS, ready } from "h5wasm";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { FormatError } from "../../src/errors.js";
import { readH5 } from "../../src/io/h5.js";
import { readSafetensors } from "../../src/io/safetensors.js";
import { bytes, contents, fixture } from "./weightFixtures.js";

const fixtures = ["vgg16_small_official_names.h5", "vgg16_small_keras2.h5", "vgg16_small_keras2_vlen.h5"];

beforeAll(async () => void (await ready));

/** The file that `build` fills. */
function h5File(build: (root: Group) => void): Uint8Array {
  const file = new H5("/written.h5", "w");
  try {
    build(file);
  } finally {
    file.close();
  }
  const content = FS!.readFile("/written.h5");
  FS!.unlink("/written.h5");
  return content;
}

/** Groups `a/b/c` and in them the dataset `name` of 0, 1, 2, ... */
function put(root: Group, path: string, shape: number[], dtype = "<f", more: { compression?: "gzip" } = {}): void {
  const parts = path.split("/");
  let group = root;
  for (const part of parts.slice(0, -1)) group = (group.get(part) as Group | null) ?? group.create_group(part);
  const size = shape.reduce((product, n) => product * n, 1);
  const values = [...Array(size).keys()];
  const chunks = more.compression ? shape : null;
  group.create_dataset({ name: parts.at(-1)!, data: values, shape, dtype, chunks, ...more });
}

async function shapes(file: Uint8Array): Promise<Record<string, string>> {
  const { tensors } = await readH5(file, "w.h5");
  return Object.fromEntries([...tensors].map(([name, { dtype, shape }]) => [name, `${dtype} ${shape.join("x")}`]));
}

async function refuses(file: Uint8Array, problem: string | RegExp): Promise<void> {
  const reading = readH5(file, "bad.h5");
  await expect(reading).rejects.toThrow(FormatError);
  await expect(reading).rejects.toThrow(problem);
  await expect(reading).rejects.toThrow(/^bad\.h5.*\nhelp: ./s);
}

describe("readH5", () => {
  it.each(fixtures)("reads %s as its safetensors twin", async (name) => {
    const { tensors } = await readH5(fixture(name), name);
    const twin = readSafetensors(fixture("vgg16_small.safetensors"), "twin").tensors;
    expect(tensors.size).toBe(14);
    expect(contents(new Map([...twin.keys()].map((key) => [key, tensors.get(key)!])))).toEqual(contents(twin));
  });

  it("names every convolution of VGG16 and VGG19 as torchvision does, below whatever groups", async () => {
    const convs = (perBlock: number[]) =>
      perBlock.flatMap((count, b) => Array.from({ length: count }, (_, c) => `block${b + 1}_conv${c + 1}`));
    const indices = async (names: string[], path: (name: string) => string) => {
      const read = await shapes(h5File((root) => names.forEach((name) => put(root, path(name), [1]))));
      return Object.keys(read).map((name) => /^features\.(\d+)\.bias$/.exec(name)?.[1] ?? name);
    };
    const vgg16 = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28].map(String);
    const vgg19 = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34].map(String);
    expect(await indices(convs([2, 2, 3, 3, 3]), (n) => `${n}/${n}/bias:0`)).toEqual(vgg16);
    expect(await indices(convs([2, 2, 3, 3, 3]), (n) => `model_weights/vgg16/${n}/bias:0`)).toEqual(vgg16);
    expect(await indices(convs([2, 2, 4, 4, 4]), (n) => `${n}/${n}_b_1:0`)).toEqual(vgg19);
    expect(await indices(["block1_conv1"], (n) => `optimizer_weights/Adam/${n}/bias:0`)).toEqual([
      "optimizer_weights/Adam/block1_conv1/bias:0",
    ]);
  });

  it("keeps the paths of other files and turns kernels to OIHW", async () => {
    const file = h5File((root) => {
      put(root, "p_conv2d_1/p_conv2d_1/img_kernel:0", [2, 1, 3, 2]);
      put(root, "p_conv2d_1/p_conv2d_1/bias:0", [2], "<d");
      put(root, "dense_1/kernel:0", [2, 3]);
      put(root, "iterations:0", [], "<q");
      put(root, "packed", [4, 4, 2, 2], "<f", { compression: "gzip" });
    });
    expect(await shapes(file)).toEqual({
      "p_conv2d_1/p_conv2d_1/img_kernel:0": "F32 2x3x2x1",
      "p_conv2d_1/p_conv2d_1/bias:0": "F64 2",
      "dense_1/kernel:0": "F32 2x3",
      "iterations:0": "I64 ",
      packed: "F32 2x2x4x4",
    });
    const { tensors } = await readH5(file, "w.h5");
    // [h][w][i][o] of 2x1x3x2 held (h * 3 + i) * 2 + o.
    expect([...tensors.get("p_conv2d_1/p_conv2d_1/img_kernel:0")!.toFloat32()]).toEqual([
      0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11,
    ]);
    expect([...tensors.get("dense_1/kernel:0")!.toFloat32()]).toEqual([0, 1, 2, 3, 4, 5]);
  });

  it("leaves out what is no tensor and what lies in other files", async () => {
    const file = h5File((root) => {
      put(root, "weight", [2]);
      put(root, "unsigned", [2], "<I");
      root.create_dataset({ name: "text", data: ["a", "b"] });
      root.create_external_link("/dev/stdin", "/x", "elsewhere");
      root.create_soft_link("/missing", "broken");
    });
    expect(await shapes(file)).toEqual({ weight: "F32 2" });
  });

  it("does not change the caller's bytes", async () => {
    const file = fixture(fixtures[1]);
    await readH5(file, "w.h5");
    expect(Buffer.compare(file, fixture(fixtures[1]))).toBe(0);
  });

  it("refuses cycles, depth, numbers of objects and sizes beyond its limits", async () => {
    const cycle = h5File((root) => {
      root.create_group("a");
      root.create_hard_link("/a", "/a/again");
    });
    await refuses(cycle, "nested at most 32 deep, got more (or a cycle of links)");
    const doubling = h5File((root) => {
      let group = root;
      for (let i = 0; i < 20; i++) {
        const path = `${group.path}/a`;
        group = group.create_group("a");
        root.create_hard_link(path, path.replace(/a$/, "b"));
      }
    });
    await refuses(doubling, "at most 10000 groups and datasets");
    const bomb = h5File((root) => {
      const zeros = new Float32Array(2 ** 18);
      root.create_dataset({ name: "zeros", data: zeros, chunks: [2 ** 14], compression: 9 });
    });
    expect(bomb.length).toBeLessThan(2 ** 16);
    await refuses(bomb, /expected at most \d+ more bytes in this file, got \[262144\] F32/);
    await refuses(
      h5File((root) => {
        put(root, "one/block1_conv1/bias:0", [1]);
        put(root, "two/block1_conv1/bias:0", [1]);
      }),
      'one dataset for "features.0.bias", got two',
    );
  });

  it("refuses what is cut off or no HDF5 at all, and reads the next file none the less", async () => {
    const whole = fixture(fixtures[2]);
    for (const length of [0, 8, 200, 20_000, whole.length - 1]) await refuses(whole.slice(0, length), "HDF5 refuses");
    await refuses(bytes("hello"), "file signature not found");
    expect((await readH5(whole, "w.h5")).tensors.size).toBe(14);
  });

  // Last: what is imported after the reset, such as the reader that readWeights asks for, is new, its error classes too.
  it("replaces the library after a trap", async () => {
    vi.resetModules();
    const fresh = await import("../../src/io/h5.js");
    // Vitest gives the reset module the same h5wasm as this file: what is spied on is the instance that it will use.
    const open = vi.spyOn(await ready, "open").mockImplementation(() => {
      throw new WebAssembly.RuntimeError("unreachable");
    });
    await expect(fresh.readH5(fixture(fixtures[1]), "w.h5")).rejects.toThrow('refuses: "unreachable"');
    expect((await fresh.readH5(fixture(fixtures[1]), "w.h5")).tensors.size).toBe(14);
    expect(open).toHaveBeenCalledTimes(1);
    open.mockRestore();
  });
});
