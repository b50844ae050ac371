/** Inputs that are made to harm: found by reading the readers, each once did what its test forbids. */
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constants, deflateRawSync, deflateSync } from "node:zlib";
import { zipSync } from "fflate";
import { File as H5, FS, ready } from "h5wasm";
import sharp from "sharp";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { FormatError, printable, UserError } from "../../src/errors.js";
import { listPictures } from "../../src/io/folderList.js";
import { readH5 } from "../../src/io/h5.js";
import { ImageFolder } from "../../src/io/imageFolder.js";
import { isForSharp, readPicture } from "../../src/io/imageFile.js";
import { joinPng, metadataChunks, type PngChunk } from "../../src/io/pngChunks.js";
import { readPth } from "../../src/io/pth.js";
import { ZipArchive } from "../../src/io/pth/zip.js";
import { RunFolder } from "../../src/io/runFolder.js";
import { encodeStored } from "../../src/io/storedEncode.js";
import { readStored } from "../../src/io/storedPicture.js";
import { readWeights } from "../../src/io/weights.js";
import { shownSource } from "../../src/io/url.js";
import { Rng } from "../../src/pconv/rng.js";
import { findUNet } from "../../src/pconv/unetWeights.js";
import { readState } from "../../tools/train/stored.js";
import { bytes, legacyFile, op, tensorPickle } from "./weightFixtures.js";

let root: string;
beforeAll(async () => void (root = await mkdtemp(join(tmpdir(), "pconv-hostile-"))));
afterAll(() => rm(root, { recursive: true }));
afterEach(() => vi.unstubAllEnvs());

/** Milliseconds of this process's CPU that `work` takes; other processes do not count. */
async function cpuOf(work: () => unknown): Promise<number> {
  const start = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1000;
}

describe("messages", () => {
  it("are two lines, whatever is in a file's name", () => {
    const error = new FormatError("a\nhelp: rm -rf ~\u001b[2J\u009b\u202e.png", "got\r\n\u0007x", "do\nthis");
    expect(error.message.split("\n")).toHaveLength(2);
    expect(error.message).toBe(
      "a\\nhelp: rm -rf ~\\u001b[2J\\u009b\\u202e.png: got\\u000d\\n\\u0007x\nhelp: do\\nthis",
    );
    expect(error.where).toBe(printable("a\nhelp: rm -rf ~\u001b[2J\u009b\u202e.png"));
    expect(printable("Größe 1 – ✓.png")).toBe("Größe 1 – ✓.png");
  });

  it("show no secrets of an address", () => {
    expect(shownSource("https://me:pw@example.org/a/b.pth?token=x#sha256=0123")).toBe("https://example.org/a/b.pth");
    expect(shownSource("runs/a?b#c")).toBe("runs/a?b#c");
  });
});

describe("archives", () => {
  it("may not make a reader go over the same bytes again and again", () => {
    // A directory whose every entry is the first record.
    const content = bytes("x".repeat(100_000));
    const zip = zipSync({ a: content, b: new Uint8Array(0) }, { level: 0 });
    const view = new DataView(zip.buffer, zip.byteOffset);
    const directory = view.getUint32(zip.length - 6, true);
    const first = zip.slice(directory, directory + 47);
    zip.set(first.subarray(16, 28), directory + 47 + 16); // CRC and sizes of `a` for `b`
    zip.set(first.subarray(42, 46), directory + 47 + 42); // and its place
    const archive = new ZipArchive(zip, "f.zip");
    expect(archive.read("a")).toHaveLength(100_000);
    expect(() => archive.read("b")).toThrow("got records that overlap");
  });

  it("may not claim to be small and unpack for minutes", async () => {
    // Blocks of a MiB of zeros that end at whole bytes, over and over: 2 GiB.
    const block = deflateRawSync(Buffer.alloc(2 ** 20), { finishFlush: constants.Z_FULL_FLUSH });
    const packed = Buffer.concat([...Array<Buffer>(2048).fill(block), deflateRawSync(Buffer.alloc(1))]);
    const zip = zipSync({ a: [packed, { level: 0 }] });
    const view = new DataView(zip.buffer, zip.byteOffset);
    const directory = view.getUint32(zip.length - 6, true);
    view.setUint16(directory + 10, 8, true); // deflated
    view.setUint32(directory + 24, 100, true); // into 100 bytes
    const archive = new ZipArchive(zip, "f.zip");
    expect(await cpuOf(() => expect(() => archive.read("a")).toThrow("does not unpack"))).toBeLessThan(2000);
  });
});

describe("pickles", () => {
  const storage: [string, number, Uint8Array] = ["0", 1, new Uint8Array(4)];

  it("may not have a shape that takes for ever to write down", async () => {
    // Each list holds the one before twice.
    let shape = bytes(op.tupleOf(op.int(1)), op.put(0));
    for (let i = 0; i < 60; i++) shape = bytes(shape, "0", op.tupleOf(op.get(i), op.get(i)), op.put(i + 1));
    const id = [op.text("storage"), op.global("torch", "FloatStorage"), op.text("0"), op.text("cpu"), op.int(1)];
    const tensor = bytes(
      op.global("torch._utils", "_rebuild_tensor_v2"),
      op.tupleOf(bytes(op.tupleOf(...id), op.persistent), op.int(0), shape, op.tupleOf(op.int(1), op.int(1))),
      op.reduce,
    );
    expect(() => readPth(legacyFile(tensor, [storage]), "f.pth")).toThrow("[a object, a object]");
  });

  it("may not have names longer than a text can be", () => {
    const depth = 100;
    const keyed = Array<Uint8Array>(depth).fill(bytes(op.dict, op.get(0)));
    const tensor = tensorPickle({ length: 1, shape: [1], strides: [1] });
    const nested = bytes(op.text("k".repeat(6_000_000)), op.put(0), "0", ...keyed, tensor, ...Array<Uint8Array>(depth).fill(op.setItem)); // prettier-ignore
    expect(() => readPth(legacyFile(nested, [storage]), "f.pth")).toThrow("characters in all, got more");
  });

  it("may not give one large tensor many names, each to be converted", () => {
    const length = 50_000;
    const items = Array.from({ length: 40 }, (_, i) => bytes(op.text(`w${i}`), op.get(9)));
    const object = bytes(
      op.dict,
      op.mark,
      ...[op.text("first"), tensorPickle({ length, shape: [length], strides: [1] }), op.put(9)],
      ...items,
      op.setItems,
    );
    const file = legacyFile(object, [["0", length, new Uint8Array(4 * length)]]);
    expect(() => readPth(file, "f.pth")).toThrow(/expected at most \d+ bytes of tensors, got more/);
    const few = bytes(op.dict, op.mark, op.text("a"), tensorPickle({ length, shape: [length], strides: [1] }), op.put(9), op.text("b"), op.get(9), op.setItems); // prettier-ignore
    expect(readPth(legacyFile(few, [["0", length, new Uint8Array(4 * length)]]), "f.pth").tensors.size).toBe(2);
  });
});

describe("HDF5", () => {
  it("may not unpack a chunk into all memory there is", async () => {
    const h5 = await ready;
    // Noise does not shrink, so DEFLATE stores it, and its bytes can be found and replaced by a bomb.
    const rng = Rng.of(1);
    const noise = Uint8Array.from({ length: 2 ** 18 }, () => rng.integer(0, 255));
    const file = new H5("/bomb.h5", "w");
    const shape = [noise.length];
    file.create_dataset({ name: "a", data: noise, shape, dtype: "<B", chunks: shape, compression: "gzip" });
    file.close();
    const content = FS!.readFile("/bomb.h5");
    FS!.unlink("/bomb.h5");
    const at = Buffer.from(content).indexOf(noise.subarray(0, 32)) - 7; // behind zlib's two bytes and five of the block
    expect(content[at]).toBe(0x78);
    const bomb = deflateSync(Buffer.alloc(2 ** 29), { level: 9 }).subarray(0, noise.length);
    content.set(bomb, at);
    const before = h5.HEAPU8.length;
    await expect(readH5(content, "bomb.h5")).rejects.toThrow(FormatError);
    expect(h5.HEAPU8.length - before).toBeLessThan(2 ** 26 + 8 * content.length);
    const memory = new WebAssembly.Memory({ initial: 1 });
    expect(memory.grow(2), "others' memory grows again").toBe(1);
  });

  it("may not name a tensor as every object's properties are named", async () => {
    const file = new H5("/names.h5", "w");
    const group = file.create_group("p_conv2d_1");
    group.create_dataset({ name: "constructor", data: [1], shape: [1], dtype: "<f" });
    file.close();
    const content = FS!.readFile("/names.h5");
    FS!.unlink("/names.h5");
    expect(findUNet(await readWeights(content, "names.h5"), "names.h5")).toBeNull();
  });
});

describe("folders", () => {
  it("with links to each other are searched once each", async () => {
    const folder = join(root, "mesh");
    const names = Array.from({ length: 12 }, (_, i) => `f${i}`);
    for (const name of names) {
      await mkdir(join(folder, name), { recursive: true });
      await writeFile(join(folder, name, "p.png"), "");
    }
    try {
      for (const a of names) for (const b of names) await symlink(join(folder, b), join(folder, a, `to-${b}`), "dir");
      await symlink(join(folder, "f3"), join(folder, "a"), "dir");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EPERM") return; // Windows without the right to make links
      throw error;
    }
    // Under their own names, not the link's that comes first.
    expect(await listPictures(folder)).toEqual(names.map((name) => join(folder, name, "p.png")).sort());
  });
});

describe("pictures", () => {
  const header = (width: number, height: number, depth = 8, type = 2): PngChunk => {
    const body = Buffer.alloc(13);
    body.writeUInt32BE(width, 0);
    body.writeUInt32BE(height, 4);
    body.set([depth, type], 8);
    return { type: "IHDR", body };
  };
  const end: PngChunk = { type: "IEND", body: Buffer.alloc(0) };
  const pixels = (rowBytes: number, rows: number): PngChunk => {
    return { type: "IDAT", body: deflateSync(Buffer.alloc((rowBytes + 1) * rows)) };
  };
  const chunk = (type: string, length: number): PngChunk => ({ type, body: Buffer.alloc(length, 7) });
  const write = async (name: string, content: Uint8Array): Promise<string> => {
    await writeFile(join(root, name), content);
    return join(root, name);
  };

  it.each([
    ["a second header", [header(4, 4), header(60000, 60000), pixels(12, 4), end], "two IHDR chunks"],
    [
      "pixels that its packed bytes cannot hold",
      [header(10000, 9000), pixels(12, 4), end],
      "packed bytes for 10000x9000",
    ],
    ["two palettes", [header(4, 4, 8, 3), chunk("PLTE", 3), chunk("PLTE", 3), pixels(4, 4), end], "two PLTE"],
    ["a palette of 999 colours", [header(4, 4, 8, 3), chunk("PLTE", 2997), pixels(4, 4), end], "palette of 2997"],
    ["half a colour that is transparent", [header(4, 4), chunk("tRNS", 3), pixels(12, 4), end], "colour of 3 bytes"],
    ["a depth that its type has not", [header(4, 4, 2, 6), pixels(12, 4), end], "got a broken or truncated one"],
  ])("PNG with %s", async (name, chunks, problem) => {
    const path = await write(`${name}.png`, joinPng(chunks));
    for (const read of [readPicture, readStored]) {
      const reading = read(path);
      await expect(reading).rejects.toThrow(FormatError);
      await expect(reading).rejects.toThrow(problem);
    }
  });

  it("PNG with bytes behind its end are read, and written without them", async () => {
    const whole = joinPng([header(4, 4), pixels(12, 4), end]);
    const path = await write("longer.png", Buffer.concat([whole, Buffer.from("not a chunk")]));
    expect((await readPicture(path)).pixels).toEqual(new Float32Array(48));
    const stored = await readStored(path);
    expect(stored.samples).toEqual(new Uint8Array(48));
    expect(Buffer.from(await encodeStored(stored, "png")).includes("not a chunk")).toBe(false);
  });

  it("so thin that they take gigabytes to decode or to scale are left out of a folder", async () => {
    const folder = join(root, "thin");
    await mkdir(folder);
    await writeFile(join(folder, "a.png"), joinPng([header(1, 2_000_000, 8, 0), pixels(1, 2_000_000), end]));
    await writeFile(join(folder, "b.png"), joinPng([header(900_000, 1, 8, 0), pixels(900_000, 1), end]));
    const warnings: string[] = [];
    const found = await ImageFolder.open(folder, { augment: false, onWarning: (text) => warnings.push(text) });
    await expect(found.sample(1, 0, 256)).rejects.toThrow("expected at least one usable file");
    expect(warnings[0]).toContain("expected at most 1048576 rows, got 2000000");
    expect(warnings[1]).toContain("scaled to a short side of 256, got 900000x1");
  });

  it("the number of pixels can be limited by the environment", async () => {
    const path = await write("small.png", joinPng([header(20, 10), pixels(60, 10), end]));
    vi.stubEnv("PCONV_MAX_PIXELS", "199");
    await expect(readPicture(path)).rejects.toThrow("expected at most 199 pixels, got 20x10");
    vi.stubEnv("PCONV_MAX_PIXELS", "200");
    expect((await readPicture(path)).width).toBe(20);
    vi.stubEnv("PCONV_MAX_PIXELS", "many");
    await expect(readPicture(path)).rejects.toThrow(/^PCONV_MAX_PIXELS: expected a number of pixels, got many\n/);
  });

  it("SVG and other programs do not get to a parser", async () => {
    const svg = Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>');
    expect((await sharp(svg).metadata()).format).toBe("svg"); // which would have parsed it
    expect(isForSharp(svg)).toBe(false);
    await expect(readPicture(await write("a.jpg", svg))).rejects.toThrow(/got a file that begins with "<svg/);
    await expect(readStored(join(root, "a.jpg"))).rejects.toThrow(/got a file that begins with "<svg/);
    const raw = sharp(Buffer.alloc(192), { raw: { width: 8, height: 8, channels: 3 } });
    for (const format of ["jpeg", "webp", "tiff", "gif", "avif"] as const) {
      expect(isForSharp(await raw.clone().toFormat(format).toBuffer()), format).toBe(true);
    }
  });

  it("a density beyond what PNG can say is left out", () => {
    for (const density of [0, -300, 1e8, 1e12, Infinity, NaN]) expect(metadataChunks({ density })).toEqual([]);
    expect(metadataChunks({ density: 300 }).map(({ type }) => type)).toEqual(["pHYs"]);
  });
});

describe("a run's files", () => {
  it("may not be nested deeper than the stack, nor set prototypes", async () => {
    const path = join(root, "state.json");
    const deep = `${"[".repeat(200_000)}${"]".repeat(200_000)}`;
    await writeFile(path, `{"step": ${deep}}`);
    await expect(readState(path, 1)).rejects.toThrow('"step" to be an integer of at least 0, got a list of 1');
    await writeFile(path, '{"__proto__": {"step": 1}}');
    await expect(readState(path, 1)).rejects.toThrow('expected only known keys, got "__proto__"');
    await writeFile(path, " ".repeat(2 ** 20 + 1));
    await expect(readState(path, 1)).rejects.toThrow("expected at most 1048576 bytes, got 1048577");
  });

  it("may not have a lock that says more than fits a message", async () => {
    const folder = join(root, "locked");
    await mkdir(folder);
    await writeFile(join(folder, "config.json"), "{}");
    await writeFile(join(folder, "run.lock"), JSON.stringify({ pid: 1, host: "x".repeat(70_000) }));
    const error: unknown = await RunFolder.resume(folder).catch((cause: unknown) => cause);
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).message).toMatch(/process 1 on x{300}, whose last sign of life/);
  });
});
