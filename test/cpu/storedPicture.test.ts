/** Pictures as stored: what goes in comes out, but for the hole. */
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import sharp, { type Sharp } from "sharp";
import { afterAll, describe, expect, it } from "vitest";
import { FormatError, UserError } from "../../src/errors.js";
import { joinPng, metadataChunks, splitPng } from "../../src/io/pngChunks.js";
import { displayOrder } from "../../src/io/orientation.js";
import { encodeStored, losslessFormat, lossesOf } from "../../src/io/storedEncode.js";
import { displayedSize, fillStored, maskAsDisplayed, viewsOf } from "../../src/io/storedFill.js";
import { readStored, type StoredPicture } from "../../src/io/storedPicture.js";
import type { MaskPicture, Picture } from "../../src/pconv/picture.js";

const folder = mkdtempSync(join(tmpdir(), "pconv-stored-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const [WIDTH, HEIGHT] = [13, 7];

async function stored(name: string, bytes: Uint8Array | Promise<Uint8Array>): Promise<StoredPicture> {
  const path = join(folder, name);
  await writeFile(path, await bytes);
  return readStored(path);
}

const noise = (channels: 1 | 2 | 3 | 4): Sharp => {
  const raw = Buffer.from(Array.from({ length: WIDTH * HEIGHT * channels }, (_, i) => (i * 97 + 13 * (i % 7)) % 251));
  return sharp(raw, { raw: { width: WIDTH, height: HEIGHT, channels } });
};

/** A PNG of one colour type and depth whose rows are these bytes. */
function png(
  colourType: number,
  depth: number,
  rows: readonly number[][],
  extra: { type: string; body: number[] }[] = [],
) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(WIDTH, 0);
  header.writeUInt32BE(rows.length, 4);
  header.set([depth, colourType], 8);
  const body = deflateSync(Buffer.concat(rows.map((row) => Buffer.from([0, ...row]))));
  const more = extra.map((c) => ({ type: c.type, body: Uint8Array.from(c.body) }));
  return joinPng([
    { type: "IHDR", body: header },
    ...more,
    { type: "IDAT", body },
    { type: "IEND", body: Buffer.alloc(0) },
  ]);
}

/** The left half, as displayed. */
const leftHalf = (s: StoredPicture): MaskPicture => {
  const { width, height } = displayedSize(s);
  const values = Uint8Array.from({ length: width * height }, (_, i) => (i % width < width / 2 ? 0 : 1));
  return { width, height, values };
};
const plain = (s: StoredPicture, value: number): Picture => {
  const size = displayedSize(s);
  return { ...size, pixels: new Float32Array(size.width * size.height * 3).fill(value) };
};

/** Fills the left half, writes, reads again; checks that all but the hole's samples came back. */
async function roundTrip(s: StoredPicture, value = 0.5): Promise<{ again: StoredPicture; hole: boolean[] }> {
  const mask = leftHalf(s);
  const fills = viewsOf(s).pictures.map(() => plain(s, value));
  const format = losslessFormat(s);
  const again = await stored(`again.${format}`, encodeStored(fillStored(s, mask, fills), format));
  const { colour, alpha, depth, width, height, channels, orientation } = s;
  expect(again).toMatchObject({ colour, alpha, depth, width, height, channels, orientation });
  const hole = new Array<boolean>(width * height).fill(false);
  displayOrder(orientation, width, height).forEach((from, i) => (hole[from] = mask.values[i] === 0));
  const kept = (v: number, i: number) =>
    !hole[Math.floor(i / channels)] || (alpha && (i + 1) % channels === 0) ? v : -1;
  expect(Array.from(again.samples, kept)).toEqual(Array.from(s.samples, kept));
  return { again, hole };
}

describe("displayOrder", () => {
  it("shows what sharp shows upright", async () => {
    for (let orientation = 1; orientation <= 8; orientation++) {
      const bytes = await noise(3).withMetadata({ orientation }).png().toBuffer();
      const s = await stored(`turned${orientation}.png`, bytes);
      expect(s.orientation).toBe(orientation);
      const upright = await sharp(bytes).autoOrient().raw().toBuffer({ resolveWithObject: true });
      expect(displayedSize(s)).toEqual({ width: upright.info.width, height: upright.info.height });
      const shown = Array.from(viewsOf(s).pictures[0].pixels, (v) => Math.round(v * 255));
      expect(shown).toEqual([...upright.data]);
    }
  });
});

describe("fillStored and encodeStored", () => {
  it("keep gray, RGB, alpha and the orientation of 8-bit pictures of all formats", async () => {
    for (const [name, pipeline] of [
      ["gray.png", noise(1).toColourspace("b-w").png()],
      ["gray.jpg", noise(1).toColourspace("b-w").jpeg()],
      ["ga.png", noise(2).toColourspace("b-w").png()],
      ["rgb.jpg", noise(3).withMetadata({ orientation: 6 }).jpeg({ progressive: true })],
      ["rgba.png", noise(4).withMetadata({ orientation: 8 }).png()],
      ["rgba.webp", noise(4).webp({ quality: 50 })],
      ["rgb.webp", noise(3).withMetadata({ orientation: 3 }).webp()],
      ["rgb.tif", noise(3).tiff()],
    ] as const) {
      const s = await stored(name, pipeline.toBuffer());
      const { again, hole } = await roundTrip(s);
      expect(losslessFormat(s), name).toBe(name.endsWith("webp") ? "webp" : "png");
      const first = hole.findIndex((h, i) => h && (!s.alpha || s.samples[(i + 1) * s.channels - 1] > 0));
      expect(again.samples[first * s.channels], name).toBe(128);
    }
  });

  it("keep the ink of CMYK pictures, which come out as TIFF, and fill each ink", async () => {
    const read = await stored("cmyk.jpg", noise(3).toColourspace("cmyk").jpeg().toBuffer());
    // sharp would make it sRGB if it were to write the orientation.
    const s = { ...read, orientation: 6, chunks: metadataChunks({ exif: Buffer.from("Exif\0\0MM") }) };
    expect(s.colour).toBe("cmyk");
    const { again } = await roundTrip(s, 0.25);
    expect(again.format).toBe("tiff");
    expect(lossesOf(s, "tiff")).toHaveLength(1);
    const filled = fillStored(s, leftHalf(s), [plain(s, 0.25), plain(s, 1)]);
    // Orientation 6: the displayed left half is the stored lower half.
    expect([...filled.samples.subarray(-4)]).toEqual([191, 191, 191, 0]);
    await expect(encodeStored(s, "png")).rejects.toThrow(UserError);
    const jpeg = await stored("back.jpg", encodeStored(s, "jpeg"));
    expect(jpeg).toMatchObject({ colour: "cmyk", orientation: 6, width: WIDTH, height: HEIGHT });
    const errors = Array.from(jpeg.samples, (v, k) => Math.abs(v - s.samples[k]));
    expect(Math.max(...errors)).toBeLessThan(8);
  });

  it("keep profiles, EXIF and texts", async () => {
    const bytes = await noise(3).withIccProfile("p3").withMetadata({ orientation: 6 }).jpeg().toBuffer();
    const before = await sharp(bytes).metadata();
    const s = await stored("profile.jpg", bytes);
    for (const format of ["png", "webp", "jpeg", "tiff"] as const) {
      const after = await sharp(await encodeStored(s, format)).metadata();
      expect(after.icc?.equals(before.icc!), format).toBe(true);
      expect(after.orientation, format).toBe(6);
    }
    const text = { type: "tEXt", body: [...Buffer.from("Author\0someone")] };
    const rows = Array.from({ length: HEIGHT }, (_, y) => Array.from({ length: WIDTH }, (_, x) => x * y));
    const kept = splitPng(
      Buffer.from(await encodeStored(await stored("text.png", png(0, 8, rows, [text])), "png")),
      "",
    );
    expect(kept.map((c) => c.type)).toEqual(["IHDR", "tEXt", "IDAT", "IEND"]);
  });

  it.each([1, 2, 4, 8, 16])("keep gray of %i bits", async (depth) => {
    const bytes = Math.ceil((WIDTH * depth) / 8);
    const rows = Array.from({ length: HEIGHT }, (_, y) =>
      Array.from({ length: bytes }, (_, x) => (x * 91 + y * 57) % 256),
    );
    const s = await stored("gray.png", png(0, depth, rows));
    expect(s.depth).toBe(depth);
    const { again } = await roundTrip(s, 1);
    expect(again.samples[0]).toBe(2 ** depth - 1);
  });

  it("keep all 16 bits of RGB", async () => {
    const rows = Array.from({ length: HEIGHT }, (_, y) =>
      Array.from({ length: WIDTH * 6 }, (_, x) => (x * 91 + y * 57) % 256),
    );
    const s = await stored("rgb16.png", png(2, 16, rows));
    expect(s.samples[0]).toBe(91);
    const { again } = await roundTrip(s, 0.2);
    expect(again.samples[0]).toBe(Math.round(65535 * Math.fround(0.2)));
  });

  it("keep a palette, take its nearest colours and mix them to the mean", async () => {
    const palette = { type: "PLTE", body: [0, 0, 0, 255, 255, 255, 200, 30, 30, 128, 128, 128] };
    const transparent = { type: "tRNS", body: [255, 255, 255, 0] };
    const rows = Array.from({ length: HEIGHT }, (_, y) => [
      y === 3 ? 0b11111111 : 0b00011011,
      0b00011000,
      0b10010001,
      0b01000000,
    ]);
    const s = await stored("palette.png", png(3, 2, rows, [palette, transparent]));
    expect(s.palette).toHaveLength(16);
    const { again, hole } = await roundTrip(s, 0.5);
    const chosen = [...again.samples].filter((_, i) => hole[i] && s.samples[i] !== 3);
    // The grey entry is transparent, and these pixels are not.
    expect(chosen).not.toContain(3);
    expect(chosen).toContain(0);
    const mean = chosen.reduce((sum, v) => sum + [0, 1, 200 / 255][v], 0) / chosen.length;
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.15);
  });

  it("do not make a filled pixel transparent by a colour key", async () => {
    const key = { type: "tRNS", body: [0, 128] };
    const rows = Array.from({ length: HEIGHT }, () =>
      Array.from({ length: WIDTH }, (_, x) => (x === 0 ? 128 : 10 * x)),
    );
    const s = await stored("key.png", png(0, 8, rows, [key]));
    expect(viewsOf(s).seen!.values[0]).toBe(0);
    const filled = fillStored(s, leftHalf(s), [plain(s, 128 / 255)]);
    expect(filled.samples[0]).toBe(128); // transparent before and after
    expect(filled.samples[1]).toBe(129);
    await expect(encodeStored(s, "jpeg")).rejects.toThrow(/transparency/);
  });
});

describe("maskAsDisplayed", () => {
  it("turns a mask as the picture", async () => {
    const s = await stored("six.png", noise(3).withMetadata({ orientation: 6 }).png().toBuffer());
    const mask = { width: WIDTH, height: HEIGHT, values: new Uint8Array(WIDTH * HEIGHT).fill(1) };
    mask.values[(HEIGHT - 1) * WIDTH] = 0; // bottom left comes to the top left
    const shown = maskAsDisplayed(mask, s);
    expect([shown.width, shown.height, shown.values.indexOf(0)]).toEqual([HEIGHT, WIDTH, 0]);
  });
});

describe("readStored", () => {
  it("refuses what it cannot keep", async () => {
    const frames = sharp([await noise(3).png().toBuffer(), await noise(3).negate().png().toBuffer()], {
      join: { animated: true },
    });
    await expect(stored("moving.webp", frames.webp().toBuffer())).rejects.toThrow(/animation/);
    const whole = await noise(3).png().toBuffer();
    await expect(stored("cut.png", whole.subarray(0, whole.length - 30))).rejects.toThrow(FormatError);
    const jpeg = await noise(3).resize(200, 200).jpeg().toBuffer();
    await expect(stored("cut.jpg", jpeg.subarray(0, jpeg.length / 2))).rejects.toThrow(FormatError);
    await expect(stored("empty.jpg", Buffer.alloc(0))).rejects.toThrow(/empty/);
    await expect(stored("text.png", Buffer.from("hello"))).rejects.toThrow(FormatError);
  });
});

const odd = new URL("../../../shared/photos/odd/", import.meta.url).pathname;

describe.runIf(existsSync(odd))("the photos of all kinds", () => {
  // The largest takes seconds, and is like the others.
  it.each(existsSync(odd) ? readdirSync(odd).filter((name) => !name.includes("3177")) : [])(
    "keeps %s",
    async (name) => {
      const s = await stored(name, readFile(join(odd, name)));
      const { again } = await roundTrip(s);
      const [before, after] = await Promise.all([s, again].map((p) => sharp(p.path).metadata()));
      for (const key of ["width", "height", "space", "channels", "depth", "hasAlpha", "isPalette"] as const) {
        expect(after[key], key).toBe(before[key]);
      }
      expect(after.orientation ?? 1).toBe(before.orientation ?? 1);
      expect(after.icc).toEqual(before.icc);
    },
  );
});

it("keeps the orientation of a TIFF, which has it outside of EXIF", async () => {
  const turned = await stored("turned.tif", noise(3).withMetadata({ orientation: 6 }).tiff().toBuffer());
  expect(turned.orientation).toBe(6);
  const png = await encodeStored(turned, "png");
  expect((await sharp(png).metadata()).orientation).toBe(6);
});
