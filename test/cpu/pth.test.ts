import { zipSync } from "fflate";
import { describe, expect, it } from "vitest";
import { FormatError } from "../../src/errors.js";
import { readPth } from "../../src/io/pth.js";
import { ZipArchive } from "../../src/io/pth/zip.js";
import { readSafetensors } from "../../src/io/safetensors.js";
import type { TensorEntry } from "../../src/io/tensorEntry.js";
import { bytes, contents, fixture, legacyFile, op, tensorPickle, u32 } from "./weightFixtures.js";

const float32 = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);
const values = (tensor: TensorEntry | undefined) => [...(tensor?.toFloat64() ?? [])];

/** A zip checkpoint with the given pickle and storages. */
function zipFile(object: Uint8Array, storages: Record<string, Uint8Array> = {}, level: 0 | 9 = 0): Uint8Array {
  const records: Record<string, Uint8Array> = { "x/data.pkl": bytes(op.proto, object, op.stop) };
  for (const [key, content] of Object.entries(storages)) records[`x/data/${key}`] = content;
  return zipSync(records, { level });
}

describe("pth: files that PyTorch wrote", () => {
  it.each([
    ["vgg16_small.pth", "vgg16_small.safetensors", "", "zip"],
    ["vgg16_small_legacy.pth", "vgg16_small.safetensors", "", "legacy"],
    ["vgg16_allkeys_params_legacy.pth", "vgg16_allkeys.safetensors", "", "legacy"],
    ["edge.pth", "edge.safetensors", "model.", "zip"],
    ["edge_legacy.pth", "edge.safetensors", "model.", "legacy"],
  ])("%s holds exactly the tensors of %s", (name, twin, prefix, container) => {
    const read = readPth(fixture(name), name);
    const expected = contents(readSafetensors(fixture(twin), twin).tensors);
    expect(read.container).toBe(container);
    expect(contents(read.tensors)).toEqual(expected.map((tensor) => ({ ...tensor, name: prefix + tensor.name })));
  });

  it.each(["edge.pth", "edge_legacy.pth"])("%s: plain values, integers beyond 2^53 as bigint", (name) => {
    const root = readPth(fixture(name), name).root as Map<string, unknown>;
    expect(root.get("n_iter")).toBe(1234);
    expect(root.get("lr")).toBe(2e-4);
    expect(root.get("name")).toBe("é✓");
    expect(root.get("big")).toBe(2n ** 70n);
    expect(root.get("nested")).toEqual(new Map([["list", [1, [2, 3.5], null, true]]]));
  });

  it.each(["naoto_small_ckpt.pth", "naoto_small_ckpt_legacy.pth"])("%s: a trainer's checkpoint", (name) => {
    const { root, tensors } = readPth(fixture(name), name);
    expect((root as Map<string, unknown>).get("n_iter")).toBe(2);
    const model = [...tensors].filter(([key]) => key.startsWith("model."));
    expect(model).toHaveLength(47);
    let sum = 0;
    for (const [, tensor] of model) for (const value of tensor.toFloat64()) sum += Math.abs(value);
    expect(sum).toBeCloseTo(5441.1802, 3);
    const moments = [...tensors.keys()].filter((key) => /^optimizer\.state\.\d+\.exp_avg$/.test(key));
    expect(moments.length).toBeGreaterThan(0);
  });
});

describe("pth: tensors", () => {
  const storage = float32(0, 1, 2, 3, 4, 5);
  const read = (tensor: Parameters<typeof tensorPickle>[0], content: Uint8Array = storage) =>
    readPth(legacyFile(tensorPickle(tensor), [["0", tensor.length, content]]), "t.pth").tensors.get("tensor");

  it("follows strides and offsets", () => {
    expect(values(read({ length: 6, shape: [3, 2], strides: [1, 3] }))).toEqual([0, 3, 1, 4, 2, 5]);
    expect(values(read({ length: 6, offset: 2, shape: [2, 2], strides: [2, 1] }))).toEqual([2, 3, 4, 5]);
    expect(values(read({ length: 6, shape: [2, 3], strides: [0, 2] }))).toEqual([0, 2, 4, 0, 2, 4]);
    expect(values(read({ length: 6, offset: 5, shape: [], strides: [] }))).toEqual([5]);
    expect(values(read({ length: 6, offset: 1, shape: [1, 2, 1], strides: [9, 2, 7] }))).toEqual([1, 3]);
    expect(read({ length: 6, shape: [0, 4], strides: [4, 1] })?.bytes.length).toBe(0);
  });

  it.each([
    ["BFloat16Storage", "BF16", Uint8Array.of(0x80, 0x3f, 0x49, 0xc0), [1, -3.140625]],
    ["HalfStorage", "F16", Uint8Array.of(0, 0x3c, 1, 0), [1, 2 ** -24]],
    ["CharStorage", "I8", Uint8Array.of(255, 127), [-1, 127]],
    ["ShortStorage", "I16", Uint8Array.of(255, 255, 0, 128), [-1, -32768]],
    ["IntStorage", "I32", bytes(u32(7), u32(0xffffffff)), [7, -1]],
    ["BoolStorage", "BOOL", Uint8Array.of(1, 0), [1, 0]],
  ])("reads %s", (type, dtype, content, expected) => {
    const tensor = read({ type, length: 2, shape: [2], strides: [1] }, content);
    expect(tensor?.dtype).toBe(dtype);
    expect(values(tensor)).toEqual(expected);
  });

  it("reads deflated archives, and a shared storage once for each view", () => {
    const both = bytes(
      op.dict,
      op.mark,
      op.text("a"),
      tensorPickle({ length: 6, shape: [6], strides: [1] }),
      op.text("b"),
      tensorPickle({ length: 6, offset: 3, shape: [2], strides: [1] }),
      op.setItems,
    );
    for (const level of [0, 9] as const) {
      const { tensors } = readPth(zipFile(both, { 0: storage }, level), "t.pth");
      expect(values(tensors.get("a"))).toEqual([0, 1, 2, 3, 4, 5]);
      expect(values(tensors.get("b"))).toEqual([3, 4]);
    }
  });

  it("reads a legacy view of a storage", () => {
    const view = op.tupleOf(op.text("v"), op.int(2), op.int(3));
    const id = op.tupleOf(
      op.text("storage"),
      op.global("torch", "FloatStorage"),
      op.text("0"),
      op.text("cpu"),
      op.int(6),
      view,
    );
    const args = op.tupleOf(bytes(id, op.persistent), op.int(1), op.tupleOf(op.int(2)), op.tupleOf(op.int(1)));
    const object = bytes(op.global("torch._utils", "_rebuild_tensor"), args, op.reduce);
    expect(values(readPth(legacyFile(object, [["0", 6, storage]]), "t").tensors.get("tensor"))).toEqual([3, 4]);
  });

  it("names tensors by their path through dicts, lists and integer keys", () => {
    const tensor = tensorPickle({ length: 6, shape: [1], strides: [1] });
    const inner = bytes(op.dict, op.int(0), bytes(op.list, op.none, op.append, tensor, op.append), op.setItem);
    const object = bytes(op.dict, op.text("state"), inner, op.setItem);
    expect([...readPth(legacyFile(object, [["0", 6, storage]]), "t").tensors.keys()]).toEqual(["state.0.1"]);
  });

  it.each([
    ["beyond its storage", { length: 6, shape: [7], strides: [1] }, "below 6"],
    ["beyond its storage by its offset", { length: 6, offset: 6, shape: [1], strides: [1] }, "below 6"],
    ["beyond its storage by its strides", { length: 6, shape: [2, 2], strides: [5, 1] }, "below 6"],
    ["with a negative size", { length: 6, shape: [-1], strides: [1] }, "at most"],
    ["with a negative stride", { length: 6, shape: [2], strides: [-1] }, "a stride"],
    ["with a negative offset", { length: 6, offset: -1, shape: [2], strides: [1] }, "offset"],
    ["with a missing stride", { length: 6, shape: [2, 2], strides: [1] }, "as many strides"],
    [
      "that strides of 0 blow up",
      { length: 6, shape: [2 ** 30, 2 ** 30], strides: [0, 0] },
      "more bytes of strided tensors",
    ],
    [
      "of complex numbers",
      { type: "ComplexFloatStorage", length: 6, shape: [1], strides: [1] },
      "torch.ComplexFloatStorage",
    ],
    ["whose storage has another key", { key: "1", length: 6, shape: [1], strides: [1] }, "each storage once"],
    ["whose storage has another length", { length: 5, shape: [1], strides: [1] }, "got 6"],
  ])("refuses a tensor %s", (_, tensor, problem) => {
    const file = legacyFile(tensorPickle(tensor), [["0", 6, storage]]);
    expect(() => readPth(file, "t.pth")).toThrow(FormatError);
    expect(() => readPth(file, "t.pth")).toThrow(problem);
  });
});

describe("pth: hostile pickles", () => {
  const command = op.tupleOf(op.text("touch /tmp/owned"));
  const stackGlobal = (module: string, name: string) => bytes(op.text(module), op.text(name), op.stackGlobal);
  it.each([
    ["GLOBAL", bytes(op.global("os", "system"), command, op.reduce), "os.system"],
    ["STACK_GLOBAL", bytes(stackGlobal("posix", "system"), command, op.reduce), "posix.system"],
    ["INST", bytes(op.mark, op.text("x"), "ios\nsystem\n"), "os.system"],
    ["OBJ", bytes(op.mark, op.global("subprocess", "Popen"), op.text("x"), "o"), "subprocess.Popen"],
    ["NEWOBJ", bytes(op.global("builtins", "eval"), command, 0x81), "builtins.eval"],
    [
      "a name that all objects have",
      bytes(op.global("constructor", "constructor"), command, op.reduce),
      "constructor.constructor",
    ],
    ["an attribute of an allowed module", bytes(op.global("torch", "load"), command, op.reduce), "torch.load"],
    ["a dotted way round", bytes(op.global("collections", "abc.sys.modules")), "collections.abc.sys.modules"],
  ])("refuses %s and names what it wanted", (_, object, name) => {
    for (const file of [legacyFile(object), zipFile(object), bytes(op.proto, object, op.stop)]) {
      expect(() => readPth(file, "evil.pth")).toThrow(FormatError);
      expect(() => readPth(file, "evil.pth")).toThrow(`the Python object "${name}", which was not run`);
    }
  });

  it("refuses control characters in a name without printing them", () => {
    expect(() => readPth(legacyFile(op.global("\u001b[2J", "x")), "evil.pth")).toThrow('"\\u001b[2J.x"');
  });

  const nest = (levels: number) => bytes("]".repeat(levels), "a".repeat(levels - 1));
  /** Each list holds the one before it twice: 2^levels paths to `start`. */
  const doubling = (start: Uint8Array, levels: number) =>
    bytes(
      start,
      ...Array.from({ length: levels }, (_, i) =>
        bytes(op.put(i), op.list, op.get(i), op.append, op.get(i), op.append),
      ),
    );

  it("refuses 2^100 paths to a tensor", () => {
    const file = legacyFile(doubling(tensorPickle({ length: 0, shape: [0], strides: [1] }), 100), [["0", 0, bytes()]]);
    expect(() => readPth(file, "evil.pth")).toThrow(FormatError);
    expect(() => readPth(file, "evil.pth")).toThrow("characters in all");
  });

  it("takes 2^100 paths to no tensor as one", () => {
    expect(readPth(legacyFile(doubling(op.list, 100)), "t").tensors.size).toBe(0);
  });

  it.each([
    ["REDUCE on a storage type", bytes(op.global("torch", "FloatStorage"), command, op.reduce), "a function to call"],
    ["REDUCE on a string", bytes(op.text("eval"), command, op.reduce), "a function to call"],
    [
      "REDUCE without a tuple",
      bytes(op.global("collections", "OrderedDict"), op.none, op.reduce),
      "a tuple of arguments",
    ],
    ["BUILD on a tensor type", bytes(op.global("torch", "FloatStorage"), op.dict, op.build), "OrderedDict only"],
    ["an extension code", bytes(0x82, 1), "0x82"],
    ["an out-of-band buffer", bytes(0x97), "0x97"],
    ["protocol 9", bytes(0x80, 9), "protocol 2 to 5"],
    ["a memo index never stored", op.get(7), "index 7"],
    ["an empty stack", op.reduce, "2 values on the stack"],
    ["a missing mark", op.tuple, "a mark"],
    ["APPEND to a tuple", bytes(op.emptyTuple, op.none, op.append), "a list to append to"],
    ["a dict as a key", bytes(op.dict, op.dict, op.none, op.setItem), "a hashable key"],
    ["half a pair", bytes(op.dict, op.mark, op.none, op.setItems), "pairs"],
    ["a string longer than the file", bytes("X", u32(0xffffffff), "x"), "more bytes"],
    ["an integer of 1 MB", op.long(new Uint8Array(2 ** 20).fill(1)), "at most 1024"],
    ["no UTF-8", bytes("X", u32(1), 0xff), "UTF-8"],
    ["an unknown persistent id", bytes(op.tupleOf(op.text("module")), op.persistent), "a persistent id"],
    [
      "a storage type that is a string",
      bytes(op.tupleOf(...["storage", "x", "0", "cpu"].map(op.text), op.int(1)), op.persistent),
      "type",
    ],
    ["a list in itself", bytes(op.list, op.put(0), op.get(0), op.append), "a cycle"],
    ["nesting 4000 deep", nest(4000), "nesting of at most 128"],
    ["nesting 100000 deep", nest(100000), "containers"],
    [
      "copies of copies",
      bytes(
        op.list,
        op.put(0),
        op.mark,
        ...Array<Uint8Array>(5000).fill(op.none),
        "e",
        ...Array.from({ length: 5000 }, () =>
          bytes(op.global("torch", "Size"), op.mark, op.get(0), op.tuple, op.reduce),
        ),
      ),
      "elements copied",
    ],
    ["more containers than a checkpoint of its size", new Uint8Array(2 ** 21).fill(0x7d), "at most 266246 containers"],
    ["more containers than any checkpoint", new Uint8Array(2 ** 23 + 2 ** 20).fill(0x7d), "at most 1048576 containers"],
    ["more instructions than any checkpoint", new Uint8Array(2 ** 23).fill(0x4e), "instructions"],
  ])("refuses %s", (_, object, problem) => {
    const file = legacyFile(object);
    expect(() => readPth(file, "evil.pth")).toThrow(FormatError);
    expect(() => readPth(file, "evil.pth")).toThrow(problem);
  });

  it.each([
    ["a plain pickle", bytes(op.proto, op.dict, op.stop), "magic number, got a pickle of a dict"],
    [
      "big-endian storages",
      zipSync({ "x/data.pkl": bytes(op.proto, op.none, op.stop), "x/byteorder": bytes("big") }),
      "little-endian",
    ],
    [
      "TorchScript",
      zipSync({ "x/data.pkl": bytes(op.proto, op.none, op.stop), "x/constants.pkl": bytes("x") }),
      "TorchScript",
    ],
    ["a zip of something else", zipSync({ "a.txt": bytes("x") }), "data.pkl, got 0"],
    ["two objects", zipSync({ "x/data.pkl": bytes("."), "y/data.pkl": bytes(".") }), "data.pkl, got 2"],
    ["a storage that is not there", zipFile(tensorPickle({ length: 1, shape: [1], strides: [1] })), "got none"],
    [
      "a storage of another size",
      zipFile(tensorPickle({ length: 1, shape: [1], strides: [1] }), { 0: bytes("x") }),
      "4 bytes",
    ],
  ])("refuses %s", (_, file, problem) => {
    expect(() => readPth(file, "odd.pth")).toThrow(FormatError);
    expect(() => readPth(file, "odd.pth")).toThrow(problem);
  });
});

describe("pth: zip", () => {
  it("refuses a record whose claimed size no DEFLATE stream of its length can have", () => {
    const bomb = zipSync({ a: new Uint8Array(100000) }, { level: 9 });
    const directory = Buffer.from(bomb).indexOf("PK\x01\x02", 0, "latin1");
    bomb.set(u32(0xfffffff0), directory + 24);
    expect(() => new ZipArchive(bomb, "z").read("a")).toThrow("unpacked bytes");
  });

  it("refuses a claimed size that differs from the true one, either way", () => {
    for (const size of [99999, 100001]) {
      const archive = zipSync({ a: new Uint8Array(100000) }, { level: 9 });
      const directory = Buffer.from(archive).indexOf("PK\x01\x02", 0, "latin1");
      archive.set(u32(size), directory + 24);
      expect(() => new ZipArchive(archive, "z").read("a")).toThrow(FormatError);
    }
  });

  it("bounds what all records together may grow to", () => {
    const zeros = new Uint8Array(2 ** 16);
    const names = Array.from({ length: 9 }, (_, i) => `${i}`);
    const archive = new ZipArchive(zipSync(Object.fromEntries(names.map((name) => [name, zeros])), { level: 9 }), "z");
    expect(archive.names()).toEqual(names);
    expect(() => names.map((name) => archive.read(name))).toThrow("in all");
  });

  it("notices one flipped bit in a stored tensor", () => {
    const file = fixture("edge.pth");
    const place = Buffer.from(file).indexOf(Buffer.from(readPth(file, "e").tensors.get("model.f64")?.bytes ?? []));
    file[place] ^= 1;
    expect(() => readPth(file, "e")).toThrow("with CRC");
  });

  it("reads a directory that uses the zip64 field and end record", () => {
    const file = Buffer.from(fixture("edge.pth"));
    const end = file.lastIndexOf("PK\x05\x06", undefined, "latin1");
    file.writeUInt16LE(0xffff, end + 8);
    file.writeUInt16LE(0xffff, end + 10);
    file.writeUInt32LE(0xffffffff, end + 16); // torch writes the zip64 end record always
    expect(contents(readPth(new Uint8Array(file), "e").tensors)).toEqual(
      contents(readPth(fixture("edge.pth"), "e").tensors),
    );
  });
});
