import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zipSync } from "fflate";
import { afterAll, describe, expect, it } from "vitest";
import { FormatError, UserError } from "../../src/errors.js";
import { writeSafetensors } from "../../src/io/safetensors.js";
import { readWeights } from "../../src/io/weights.js";
import { readWeightsFile } from "../../src/io/weightsFile.js";
import { bytes, contents, fixture, op, u64 } from "./weightFixtures.js";

describe("readWeights", () => {
  it("recognises each format by content, whatever the name", () => {
    const formats = {
      "vgg16_small.safetensors": "safetensors",
      "vgg16_small.pth": "pth-zip",
      "vgg16_small_legacy.pth": "pth-legacy",
    };
    const expected = contents(readWeights(fixture("vgg16_small.safetensors"), "x").tensors);
    for (const [name, format] of Object.entries(formats)) {
      const read = readWeights(fixture(name), "weights.bin");
      expect(read.format).toBe(format);
      expect(contents(read.tensors)).toEqual(expected);
    }
    expect(readWeights(fixture("vgg16_small.safetensors"), "x").metadata.format).toBe("pt");
    expect(readWeights(fixture("edge.pth"), "x").root).toBeInstanceOf(Map);
  });

  it("takes a Buffer as it takes a Uint8Array", () => {
    for (const name of ["edge.safetensors", "edge.pth", "edge_legacy.pth"]) {
      const pooled = Buffer.concat([Buffer.of(1), fixture(name)]).subarray(1);
      const { tensors } = readWeights(pooled, name);
      expect(contents(tensors)).toEqual(contents(readWeights(fixture(name), name).tensors));
      for (const tensor of tensors.values()) expect(tensor.toFloat32().buffer).not.toBe(pooled.buffer);
    }
  });

  it("is not misled by a safetensors header whose length looks like a pickle", () => {
    const name = "n".repeat(0x280 - 56);
    let file = writeSafetensors([[name, { dtype: "U8", shape: [1], values: Uint8Array.of(5) }]]);
    for (let pad = 0; file[0] !== 0x80 && pad < 64; pad++) {
      file = writeSafetensors([[name.slice(pad), { dtype: "U8", shape: [1], values: Uint8Array.of(5) }]]);
    }
    expect([file[0], file[1]]).toEqual([0x80, 0x02]);
    expect(readWeights(file, "x").format).toBe("safetensors");
  });

  it.each([
    ["nothing", bytes(), "an empty file"],
    ["Keras weights", bytes(0x89, "HDF\r\n", 0x1a, "\n"), "HDF5 (Keras .h5), which this version does not read"],
    ["text", bytes("hello weights"), 'text that begins with "hello weights"'],
    ["a web page", bytes("<!DOCTYPE html><html>"), "a web page"],
    ["a Git LFS pointer", bytes("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "a Git LFS pointer"],
    ["other bytes", bytes(0xff, 0xd8, 0xff, 0xe0, 0, 16), "bytes that begin with ff d8 ff e0 00 10"],
    ["a huge header", bytes(u64(2n ** 62n), "{}"), "a header of at most 2 bytes"],
    ["a header length that looks like a pickle", bytes(0x80, 2, 0, 0, 0, 0, 0, 0, "{}"), "got a length of 640"],
    ["a text pickle", bytes("cos\nsystem\n(S'id'\ntR."), '"os.system", which was not run'],
    [
      "a binary pickle",
      bytes(op.proto, op.global("os", "system"), op.tupleOf(op.text("{}")), op.reduce, op.stop),
      "os.system",
    ],
    ["a pickle with a brace in ninth place", bytes(op.proto, op.global("abcd", "{"), op.stop), "abcd.{"],
    ["a zip of something else", zipSync({ "a.txt": bytes("x") }), "one record data.pkl"],
  ])("refuses %s", (_, file, problem) => {
    const read = () => readWeights(file, "weights.bin");
    expect(read).toThrow(FormatError);
    expect(read).toThrow(problem);
    expect(read).toThrow(/^weights\.bin.*\nhelp: ./s);
  });

  it("refuses any beginning of each file", () => {
    for (const name of ["edge.safetensors", "edge.pth", "edge_legacy.pth"]) {
      const whole = fixture(name);
      for (let length = 0; length < whole.length; length += 7) {
        expect(() => readWeights(whole.slice(0, length), name), `${name} cut to ${length}`).toThrow(FormatError);
      }
    }
  });
});

describe("readWeightsFile", () => {
  const folder = mkdtempSync(join(tmpdir(), "pconv-weights-"));
  afterAll(() => rmSync(folder, { recursive: true }));

  it("reads a file", async () => {
    const path = join(folder, "é weights.pth");
    writeFileSync(path, fixture("edge.pth"));
    expect((await readWeightsFile(path)).tensors.size).toBe(10);
  });

  it.each([
    ["a missing file", "missing.pth", "no such file"],
    ["a folder", ".", "EISDIR"],
  ])("refuses %s", async (_, name, problem) => {
    const reading = readWeightsFile(join(folder, name));
    await expect(reading).rejects.toThrow(UserError);
    await expect(reading).rejects.toThrow(problem);
  });

  it("refuses an empty file", async () => {
    const path = join(folder, "empty.safetensors");
    writeFileSync(path, "");
    await expect(readWeightsFile(path)).rejects.toThrow(FormatError);
  });
});
