import { describe, expect, it } from "vitest";
import { FormatError, UserError } from "../../src/errors.js";
import { decodeBfloat16, decodeHalf, encodeHalf, floatToHalf, halfToFloat } from "../../src/half.js";
import { readSafetensors, writeSafetensors, type TensorToWrite } from "../../src/io/safetensors.js";
import { contents, fixture, safetensorsFile, u64, bytes } from "./weightFixtures.js";

describe("half precision", () => {
  it("takes every float16 to float32 and back", () => {
    const wrong = Array.from({ length: 65536 }, (_, half) => half).filter((half) => {
      const isNan = (half & 0x7c00) === 0x7c00 && (half & 0x3ff) !== 0;
      return isNan ? !Number.isNaN(halfToFloat(half)) : floatToHalf(halfToFloat(half)) !== half;
    });
    expect(wrong).toEqual([]);
    expect(halfToFloat(0x3c00)).toBe(1);
    expect(halfToFloat(0x8000)).toBe(-0);
    expect(halfToFloat(0x0001)).toBe(2 ** -24);
    expect(halfToFloat(0x7bff)).toBe(65504);
    expect(halfToFloat(0xfc00)).toBe(-Infinity);
    expect(halfToFloat(floatToHalf(NaN))).toBeNaN();
  });

  it("rounds to the nearest, ties to even", () => {
    const wrong = Array.from({ length: 0x7c00 }, (_, half) => half).filter((half) => {
      const low = halfToFloat(half);
      const high = half === 0x7bff ? 65536 : halfToFloat(half + 1);
      const middle = (low + high) / 2; // exact in float32
      const step = 2 ** (Math.floor(Math.log2(middle)) - 23);
      return (
        floatToHalf(middle) !== (half % 2 === 0 ? half : half + 1) ||
        floatToHalf(middle - step) !== half ||
        floatToHalf(middle + step) !== half + 1 ||
        floatToHalf(-middle - step) !== (0x8000 | (half + 1))
      );
    });
    expect(wrong).toEqual([]);
    expect(floatToHalf(1e30)).toBe(0x7c00);
    expect(floatToHalf(-1e-30)).toBe(0x8000);
  });

  it("converts arrays, bfloat16 too", () => {
    expect([...decodeHalf(encodeHalf(Float32Array.of(0.1, -2, 70000)))]).toEqual([
      Math.fround(0.0999755859375),
      -2,
      Infinity,
    ]);
    expect([...decodeBfloat16(Uint16Array.of(0x3f80, 0xc049, 0x7f80))]).toEqual([1, -3.140625, Infinity]);
  });
});

const all: [string, TensorToWrite][] = [
  ["i8", { dtype: "I8", shape: [3], values: Int8Array.of(-128, 0, 127) }],
  ["f32", { dtype: "F32", shape: [2, 2], values: Float32Array.of(1, -0, NaN, Infinity) }],
  ['é✓ "quoted"\n', { dtype: "F64", shape: [1], values: Float64Array.of(Math.PI) }],
  ["__proto__", { dtype: "I64", shape: [2], values: BigInt64Array.of(-1n, 2n ** 62n) }],
  ["scalar", { dtype: "I32", shape: [], values: Int32Array.of(-7) }],
  ["empty", { dtype: "I16", shape: [0, 3], values: new Int16Array(0) }],
  ["half", { dtype: "F16", shape: [2], values: Float32Array.of(0.1, 1) }],
  ["brain", { dtype: "BF16", shape: [1], values: Uint16Array.of(0x3f80) }],
  ["u8", { dtype: "U8", shape: [2], values: Uint8Array.of(1, 255) }],
  ["bool", { dtype: "BOOL", shape: [2], values: Uint8Array.of(1, 0) }],
  ["raw", { dtype: "F32", shape: [1], values: new Uint8Array(Float32Array.of(2.5).buffer) }],
];

describe("safetensors", () => {
  it("writes what it reads, every dtype", () => {
    const file = writeSafetensors(all, { format: "pt", __proto__x: "é" });
    const { tensors, metadata } = readSafetensors(file, "all.safetensors");
    expect({ ...metadata }).toEqual({ format: "pt", __proto__x: "é" });
    expect(new Set(tensors.keys())).toEqual(new Set(all.map(([name]) => name)));
    for (const [name, { dtype, shape }] of all) expect(tensors.get(name)).toMatchObject({ dtype, shape });
    const numbers = (name: string) => [...(tensors.get(name)?.toFloat64() ?? [])];
    expect(numbers("f32")).toEqual([1, -0, NaN, Infinity]);
    expect(numbers('é✓ "quoted"\n')).toEqual([Math.PI]);
    expect(numbers("__proto__")).toEqual([-1, 2 ** 62]);
    expect(numbers("i8")).toEqual([-128, 0, 127]);
    expect(numbers("scalar")).toEqual([-7]);
    expect(numbers("empty")).toEqual([]);
    expect(numbers("half")).toEqual([0.0999755859375, 1]);
    expect(numbers("brain")).toEqual([1]);
    expect(numbers("bool")).toEqual([1, 0]);
    expect(numbers("raw")).toEqual([2.5]);

    // Another pass changes nothing, byte for byte.
    const copies = [...tensors].map(
      ([name, { dtype, shape, bytes }]) => [name, { dtype, shape, values: bytes }] as const,
    );
    expect(writeSafetensors(copies, metadata)).toEqual(file);
  });

  it("aligns every tensor to its element size and the header to 8 bytes", () => {
    const file = writeSafetensors(all);
    const start = 8 + Number(new DataView(file.buffer).getBigUint64(0, true));
    expect(start % 8).toBe(0);
    for (const { bytes, shape, dtype } of readSafetensors(file, "f").tensors.values()) {
      const width = bytes.length / shape.reduce((a, b) => a * b, 1) || 1;
      expect((bytes.byteOffset - start) % width, dtype).toBe(0);
    }
  });

  it("reads the files of the reference implementation and writes them back with the same tensors", () => {
    for (const name of ["vgg16_small.safetensors", "vgg16_allkeys.safetensors", "edge.safetensors"]) {
      const { tensors, metadata } = readSafetensors(fixture(name), name);
      expect(tensors.size).toBeGreaterThan(9);
      const copies = [...tensors].map(
        ([key, { dtype, shape, bytes }]) => [key, { dtype, shape, values: bytes }] as const,
      );
      const again = readSafetensors(writeSafetensors(copies, metadata), name);
      expect(new Set(contents(again.tensors))).toEqual(new Set(contents(tensors)));
    }
    const edge = readSafetensors(fixture("edge.safetensors"), "edge").tensors;
    expect([...(edge.get("i64")?.toFloat64() ?? [])].every(Number.isInteger)).toBe(true);
    expect(edge.get("empty")?.shape).toEqual([0, 3]);
    expect(edge.get("scalar_i64")?.shape).toEqual([]);
  });

  it("works on a view into a larger buffer at an odd offset", () => {
    const file = fixture("edge.safetensors");
    const shifted = bytes(0, 1, 2, file, 3).subarray(3, 3 + file.length);
    const expected = contents(readSafetensors(file, "edge").tensors);
    expect(contents(readSafetensors(shifted, "edge").tensors)).toEqual(expected);
    expect(readSafetensors(shifted, "edge").tensors.get("f64")?.toFloat64()).toEqual(
      readSafetensors(file, "edge").tensors.get("f64")?.toFloat64(),
    );
  });

  const one = (entry: string) => `{"w":${entry}}`;
  const four = new Uint8Array(4);
  it.each([
    ["nothing", new Uint8Array(0), "8 more bytes"],
    ["a length beyond the file", bytes(u64(1000n), "{}"), "at most 2 bytes, got a length of 1000"],
    ["a length beyond 100 MB", bytes(u64(2n ** 63n), "{}"), "got a length of 9223372036854776000"],
    ["no JSON", safetensorsFile("{nonsense}"), "a string"],
    ["a list for a header", safetensorsFile("[]"), '"{"'],
    ["an unclosed string", safetensorsFile('{"w'), "end of a string"],
    ["a bad escape", safetensorsFile('{"\\x":1}'), "a valid string"],
    ["no UTF-8", bytes(u64(4n), '{"', 0xff, '"'), "UTF-8"],
    ["text after the header", safetensorsFile("{} x"), "only spaces"],
    ["a repeated name", safetensorsFile('{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"w":{}}'), '"w" again'],
    ["a repeated field", safetensorsFile(one('{"dtype":"F32","dtype":"F64"}')), '"dtype" again'],
    ["a missing field", safetensorsFile(one('{"dtype":"F32","shape":[1]}'), four), "an entry without them"],
    ["another field", safetensorsFile(one('{"size":1}')), 'field "size"'],
    [
      "an unknown dtype",
      safetensorsFile(one('{"dtype":"toString","shape":[1],"data_offsets":[0,4]}'), four),
      '"toString"',
    ],
    ["a negative size", safetensorsFile(one('{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}'), four), "an integer"],
    ["a fraction", safetensorsFile(one('{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}'), four), '"," or "]"'],
    ["an exponent", safetensorsFile(one('{"dtype":"F32","shape":[1e9],"data_offsets":[0,4]}'), four), '"," or "]"'],
    [
      "a size of 2^64",
      safetensorsFile(one('{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}'), four),
      "2^53",
    ],
    [
      "a product of 2^66",
      safetensorsFile(one('{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}'), four),
      "2^53",
    ],
    [
      "an empty tensor of huge sizes",
      safetensorsFile(one('{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}')),
      "2^53",
    ],
    [
      "too few bytes",
      safetensorsFile(one('{"dtype":"F32","shape":[2],"data_offsets":[0,4]}'), four),
      "expected 8 bytes",
    ],
    [
      "offsets the wrong way",
      safetensorsFile(one('{"dtype":"F32","shape":[1],"data_offsets":[4,0]}'), four),
      "expected 4 bytes",
    ],
    [
      "offsets beyond the file",
      safetensorsFile(one('{"dtype":"F32","shape":[1],"data_offsets":[4,8]}'), four),
      "within 4 bytes",
    ],
    ["a gap", safetensorsFile(one('{"dtype":"U8","shape":[1],"data_offsets":[1,2]}'), four), "a gap"],
    [
      "bytes that no tensor has",
      safetensorsFile(one('{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'), four),
      "expected 1 bytes",
    ],
    [
      "an overlap",
      safetensorsFile(
        '{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}',
        four,
      ),
      "a shared byte",
    ],
    ["metadata that is no string", safetensorsFile('{"__metadata__":{"a":1}}'), "a string"],
    ["deep nesting", safetensorsFile(`{"w":${"[".repeat(100000)}${"]".repeat(100000)}}`), '"{"'],
  ])("refuses %s", (_, file, problem) => {
    const read = () => readSafetensors(file, "bad.safetensors");
    expect(read).toThrow(FormatError);
    expect(read).toThrow(/^bad\.safetensors/);
    expect(read).toThrow(problem);
    expect(read).toThrow(/\nhelp: ./);
  });

  it("treats __proto__ as any other name", () => {
    const entry = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}';
    const file = safetensorsFile(`{"__metadata__":{"__proto__":"x"},"__proto__":${entry}}`, Uint8Array.of(9));
    const { tensors, metadata } = readSafetensors(file, "proto");
    expect(tensors.get("__proto__")?.bytes).toEqual(Uint8Array.of(9));
    expect(Object.entries(metadata)).toEqual([["__proto__", "x"]]);
  });

  it("does not let a name reach the terminal raw", () => {
    const entry = '{"dtype":"U8","shape":[2],"data_offsets":[0,1]}';
    const file = safetensorsFile(`{"\\u001b[2J\\u202e":${entry}}`, Uint8Array.of(9));
    expect(() => readSafetensors(file, "f")).toThrow('"\\u001b[2J\\u202e"');
  });

  it.each<[string, [string, TensorToWrite][]]>([
    ["a wrong length", [["w", { dtype: "F32", shape: [3], values: new Float32Array(2) }]]],
    ["a wrong array", [["w", { dtype: "F32", shape: [2], values: new Int32Array(2) }]]],
    ["a fractional shape", [["w", { dtype: "U8", shape: [1.5, 2], values: new Uint8Array(3) }]]],
    ["a reserved name", [["__metadata__", { dtype: "U8", shape: [1], values: new Uint8Array(1) }]]],
    ["a repeated name", [all[0], all[0]]],
  ])("does not write %s", (_, tensors) => {
    expect(() => writeSafetensors(tensors)).toThrow(UserError);
  });
});
