import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zipSync } from "fflate";
import { afterAll, describe, expect, it } from "vitest";
import { FormatError, UserError } from "../../src/errors.js";
import { writeSafetensors } from "../../src/io/safetensors.js";
import { readWeights, type Weights } from "../../src/io/weights.js";
import { readWeightsFile } from "../../src/io/weightsFile.js";
import { bytes, contents, fixture, op, u64 } from "./weightFixtures.js";

/** HDF5 lists a group's members by name, the other formats in the order of writing. */
const byName = ({ tensors }: Weights) => contents(new Map([...tensors].sort(([a], [b]) => (a < b ? -1 : 1))));

describe("readWeights", () => {
  it("recognises each format by content, whatever the name", async () => {
    const formats = {
      "vgg16_small.safetensors": "safetensors",
      "vgg16_small.pth": "pth-zip",
      "vgg16_small_legacy.pth": "pth-legacy",
      "vgg16_small_keras2.h5": "h5",
    };
    const expected = byName(await readWeights(fixture("vgg16_small.safetensors"), "x"));
    for (const [name, format] of Object.entries(formats)) {
      const read = await readWeights(fixture(name), "weights.bin");
      expect(read.format).toBe(format);
      expect(byName(read)).toEqual(expected);
    }
    expect((await readWeights(fixture("vgg16_small.safetensors"), "x")).metadata.format).toBe("pt");
    expect((await readWeights(fixture("edge.pth"), "x")).root).toBeInstanceOf(Map);
  });

  it("takes a Buffer as it takes a Uint8Array", async () => {
    for (const name of ["edge.safetensors", "edge.pth", "edge_legacy.pth", "vgg16_small_keras2.h5"]) {
      const pooled = Buffer.concat([Buffer.of(1), fixture(name)]).subarray(1);
      const { tensors } = await readWeights(pooled, name);
      expect(contents(tensors)).toEqual(contents((await readWeights(fixture(name), name)).tensors));
      for (const tensor of tensors.values()) expect(tensor.toFloat32().buffer).not.toBe(pooled.buffer);
    }
  });

  it("is not misled by a safetensors header whose length looks like a pickle", async () => {
    const name = "n".repeat(0x280 - 56);
    let file = writeSafetensors([[name, { dtype: "U8", shape: [1], values: Uint8Array.of(5) }]]);
    for (let pad = 0; file[0] !== 0x80 && pad < 64; pad++) {
      file = writeSafetensors([[name.slice(pad), { dtype: "U8", shape: [1], values: Uint8Array.of(5) }]]);
    }
    expect([file[0], file[1]]).toEqual([0x80, 0x02]);
    expect((await readWeights(file, "x")).format).toBe("safetensors");
  });

  it.each([
    ["nothing", bytes(), "an empty file"],
    ["the first bytes of Keras weights", bytes(0x89, "HDF\r\n", 0x1a, "\n"), "one that HDF5 refuses"],
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
  ])("refuses %s", async (_, file, problem) => {
    const reading = readWeights(file, "weights.bin");
    await expect(reading).rejects.toThrow(FormatError);
    await expect(reading).rejects.toThrow(problem);
    await expect(reading).rejects.toThrow(/^weights\.bin.*\nhelp: ./s);
  });

  it("refuses any beginning of each file", async () => {
    for (const name of ["edge.safetensors", "edge.pth", "edge_legacy.pth"]) {
      const whole = fixture(name);
      for (let length = 0; length < whole.length; length += 7) {
        const reading = readWeights(whole.slice(0, length), name);
        await expect(reading, `${name} cut to ${length}`).rejects.toThrow(FormatError);
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
