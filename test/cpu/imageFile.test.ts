import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import sharp, { type Sharp } from "sharp";
import { afterAll, describe, expect, it } from "vitest";
import { FormatError, ShapeError, UserError } from "../../src/errors.js";
import { readMask, readPicture } from "../../src/io/imageFile.js";
import { encodePng, writeMaskPng, writePicturePng } from "../../src/io/png.js";
import { crc32 } from "../../src/io/crc.js";
import { grid, hstack, maskToPicture } from "../../src/pconv/contactSheet.js";
import type { Picture } from "../../src/pconv/picture.js";

const folder = mkdtempSync(join(tmpdir(), "pconv-image-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

/** 24 x 16: left third red, middle green, right blue, the lower half dimmer. */
const WIDTH = 24;
const HEIGHT = 16;
const rgb = Buffer.from(
  Array.from({ length: WIDTH * HEIGHT }, (_, i) => {
    const third = Math.floor((i % WIDTH) / 8);
    const level = i < (WIDTH * HEIGHT) / 2 ? 240 : 120;
    return [0, 1, 2].map((k) => (k === third ? level : 20));
  }).flat(),
);
const source = (): Sharp => sharp(rgb, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } });

function pixel(picture: Picture, x: number, y: number): number[] {
  return Array.from(picture.pixels.subarray(3 * (y * picture.width + x), 3 * (y * picture.width + x) + 3));
}

function expectClose(got: number[], bytes: number[], tolerance: number): void {
  got.forEach((v, k) =>
    expect(Math.abs(v * 255 - bytes[k]), `channel ${k} of ${got.join(" ")}`).toBeLessThan(tolerance),
  );
}

describe("readPicture", () => {
  it.each<[name: string, make: () => Promise<Buffer>, tolerance: number]>([
    ["plain.png", () => source().png().toBuffer(), 0.01],
    ["interlaced.png", () => source().png({ progressive: true }).toBuffer(), 0.01],
    ["palette.png", () => source().png({ palette: true }).toBuffer(), 0.01],
    ["deep.png", () => source().toColourspace("rgb16").png().toBuffer(), 1],
    ["opaque.png", () => source().ensureAlpha().png().toBuffer(), 0.01],
    ["named-wrongly.jpg", () => source().png().toBuffer(), 0.01],
    ["photo.jpg", () => source().jpeg({ quality: 98, chromaSubsampling: "4:4:4" }).toBuffer(), 8],
    [
      "progressive.jpeg",
      () => source().jpeg({ quality: 98, progressive: true, chromaSubsampling: "4:4:4" }).toBuffer(),
      8,
    ],
    ["photo.webp", () => source().webp({ lossless: true }).toBuffer(), 0.01],
    ["photo.tiff", () => source().tiff({ compression: "deflate" }).toBuffer(), 0.01],
  ])("reads %s as sRGB in 0..1", async (name, make, tolerance) => {
    await writeFile(at(name), await make());
    const picture = await readPicture(at(name));
    expect([picture.width, picture.height, picture.pixels.length]).toEqual([WIDTH, HEIGHT, WIDTH * HEIGHT * 3]);
    expectClose(pixel(picture, 4, 3), [240, 20, 20], tolerance);
    expectClose(pixel(picture, 12, 3), [20, 240, 20], tolerance);
    expectClose(pixel(picture, 20, 12), [20, 20, 120], tolerance);
  });

  it("reads gray and CMYK JPEGs, gray and 1-bit PNGs as three channels", async () => {
    await writeFile(at("gray.jpg"), await source().grayscale().jpeg().toBuffer());
    await writeFile(at("gray.png"), await source().grayscale().png().toBuffer());
    await writeFile(at("cmyk.jpg"), await source().toColourspace("cmyk").jpeg({ quality: 98 }).toBuffer());
    await writeFile(
      at("bits.png"),
      await source().grayscale().threshold(60).png({ palette: true, colours: 2 }).toBuffer(),
    );
    for (const name of ["gray.jpg", "gray.png", "bits.png"]) {
      const [r, g, b] = pixel(await readPicture(at(name)), 12, 3);
      expect([r, g]).toEqual([g, b]);
      expect(r).toBeGreaterThan(0.5);
    }
    const [r, g, b] = pixel(await readPicture(at("cmyk.jpg")), 4, 3);
    expect(r).toBeGreaterThan(2 * Math.max(g, b));
  });

  it("keeps the precision of 16-bit PNGs", async () => {
    const ramp = Uint16Array.from({ length: 256 }, (_, i) => 30000 + i);
    const deep = sharp(ramp, { raw: { width: 256, height: 1, channels: 1 } })
      .toColourspace("grey16")
      .png();
    await writeFile(at("ramp16.png"), await deep.toBuffer());
    const { pixels } = await readPicture(at("ramp16.png"));
    expect(new Set(pixels).size).toBe(256);
    expect(pixels[0]).toBeCloseTo(30000 / 65535, 6);
  });

  it.each([
    [1, 24, 16],
    [3, 24, 16],
    [6, 24, 16],
    [8, 24, 16],
  ])("turns EXIF orientation %i upright", async (orientation, width, height) => {
    const turn = { 1: 0, 3: 180, 6: 270, 8: 90 }[orientation]!; // stored turned, so that the tag undoes it
    const jpeg = source().rotate(turn).jpeg({ quality: 98, chromaSubsampling: "4:4:4" }).withMetadata({ orientation });
    await writeFile(at(`exif${orientation}.jpg`), await jpeg.toBuffer());
    const picture = await readPicture(at(`exif${orientation}.jpg`));
    expect([picture.width, picture.height]).toEqual([width, height]);
    expectClose(pixel(picture, 4, 3), [240, 20, 20], 8);
    expectClose(pixel(picture, 20, 12), [20, 20, 120], 8);
  });

  it("lays transparency on white, or ignores it when told so", async () => {
    const rgba = Buffer.from([200, 0, 0, 255, 200, 0, 0, 0, 200, 0, 0, 51]);
    for (const format of ["png", "webp"] as const) {
      const path = at(`alpha.${format}`);
      const image = sharp(rgba, { raw: { width: 3, height: 1, channels: 4 } });
      await writeFile(
        path,
        await (format === "png" ? image.png() : image.webp({ lossless: true, exact: true })).toBuffer(),
      );
      const flat = await readPicture(path);
      expectClose(pixel(flat, 0, 0), [200, 0, 0], 0.01);
      expectClose(pixel(flat, 1, 0), [255, 255, 255], 0.01);
      expectClose(pixel(flat, 2, 0), [244, 204, 204], 1.01);
      expectClose(pixel(await readPicture(path, { alpha: "ignore" }), 1, 0), [200, 0, 0], 0.01);
    }
  });

  it("refuses what is not a whole picture, with one clear error", async () => {
    const noise = sharp(Buffer.from(Array.from({ length: 64 * 64 * 3 }, (_, i) => (i * 7919) % 251)), {
      raw: { width: 64, height: 64, channels: 3 },
    });
    const jpeg = await noise.jpeg().toBuffer();
    const png = await noise.png().toBuffer();
    const interlaced = await noise.png({ progressive: true }).toBuffer();
    const webp = await noise.webp().toBuffer();
    const broken: [name: string, bytes: Buffer, message: RegExp][] = [
      ["cut.jpg", jpeg.subarray(0, jpeg.length / 2), /damaged or truncated/],
      ["cut.webp", webp.subarray(0, webp.length / 2), /damaged or truncated|begins with/],
      ["cut.png", png.subarray(0, png.length / 2), /damaged or truncated/],
      ["cut-interlaced.png", interlaced.subarray(0, interlaced.length / 2), /damaged or truncated/],
      ["no-end.png", png.subarray(0, png.length - 12), /damaged or truncated/],
      ["flipped-bit.png", Buffer.from(png).fill(png[200] ^ 1, 200, 201), /damaged or truncated/],
      ["header-only.png", png.subarray(0, 20), /broken or truncated/],
      ["text.png", Buffer.from("these are words, not pixels\n"), /begins with "these are wo"/],
      [
        "drawing.png",
        Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
        /begins with "<svg/,
      ],
      ["empty.jpg", Buffer.alloc(0), /an empty file/],
    ];
    for (const [name, bytes, message] of broken) {
      await writeFile(at(name), bytes);
      const error = await readPicture(at(name)).catch((e: unknown) => e);
      expect(error, name).toBeInstanceOf(FormatError);
      expect((error as FormatError).where, name).toBe(at(name));
      expect((error as FormatError).problem, name).toMatch(message);
      expect((error as FormatError).problem, name).toMatch(/^expected .* got /);
    }
    await mkdir(at("folder.png"), { recursive: true });
    await expect(readPicture(at("folder.png"))).rejects.toThrow(UserError);
    await expect(readPicture(at("missing.png"))).rejects.toThrow(/missing\.png: expected a file.*no such file/);
  });

  it("refuses decompression bombs before unpacking them", async () => {
    const chunk = (type: string, body: Buffer): Buffer => {
      const text = Buffer.concat([Buffer.from(type, "latin1"), body]);
      const [length, crc] = [Buffer.alloc(4), Buffer.alloc(4)];
      length.writeUInt32BE(body.length);
      crc.writeUInt32BE(crc32(text));
      return Buffer.concat([length, text, crc]);
    };
    const png = (width: number, height: number, interlace: number, packed: Buffer): Buffer => {
      const header = Buffer.alloc(13);
      header.writeUInt32BE(width, 0);
      header.writeUInt32BE(height, 4);
      header.set([8, 2, 0, 0, interlace], 8);
      const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
      return Buffer.concat([signature, chunk("IHDR", header), chunk("IDAT", packed), chunk("IEND", Buffer.alloc(0))]);
    };
    const zeros = deflateSync(Buffer.alloc(64 * 2 ** 20));
    await writeFile(at("huge.png"), png(60000, 60000, 0, zeros));
    await expect(readPicture(at("huge.png"))).rejects.toThrow(/at most 100000000 pixels, got 60000x60000/);
    await writeFile(at("bomb.png"), png(4, 4, 1, zeros));
    await expect(readPicture(at("bomb.png"))).rejects.toThrow(/damaged or truncated/);
    await writeFile(at("limit.jpg"), await source().jpeg().toBuffer());
    await expect(readPicture(at("limit.jpg"), { maxPixels: 100 })).rejects.toThrow(/at most 100 pixels, got 24x16/);
  });

  const odd = "../shared/photos/odd";
  it.skipIf(!existsSync(odd))("reads every odd photo at the size in its name", async () => {
    for (const name of readdirSync(odd)) {
      const picture = await readPicture(join(odd, name));
      const size = /(\d+)x(\d+)/.exec(name);
      if (size) expect([picture.width, picture.height], name).toEqual([Number(size[1]), Number(size[2])]);
      expect(picture.width > picture.height, name).toBe(!/portrait|strip|tiny|lighthouse/.test(name));
    }
  });
});

describe("readMask", () => {
  it("knows which colour is the hole, thresholds at 0.6, counts grey pixels, ignores transparency", async () => {
    const levels = [0, 1, 100, 153, 154, 200, 254, 255];
    const rgba = Buffer.from(levels.flatMap((v) => [v, v, v, v === 255 ? 0 : 255]));
    await writeFile(
      at("levels.png"),
      await sharp(rgba, { raw: { width: 8, height: 1, channels: 4 } })
        .png()
        .toBuffer(),
    );
    const white = await readMask(at("levels.png"), "white");
    expect([...white.mask.values]).toEqual([1, 1, 1, 1, 0, 0, 0, 0]);
    expect(white.greyPixels).toBe(6);
    expect([...(await readMask(at("levels.png"), "black")).mask.values]).toEqual([0, 0, 0, 0, 1, 1, 1, 1]);
    expect([...(await readMask(at("levels.png"), "white", 0.2)).mask.values]).toEqual([1, 1, 0, 0, 0, 0, 0, 0]);
    await expect(readMask(at("levels.png"), "white", 1)).rejects.toThrow(
      /mask threshold: expected a number in \[0, 1\)/,
    );
  });
});

describe("PNG writing", () => {
  it("gives back what was written, to the nearest 8-bit step, clamped", async () => {
    const pixels = Float32Array.from({ length: 5 * 3 * 3 }, (_, i) => i / 44);
    pixels[0] = -3;
    pixels[1] = 1.7;
    await writePicturePng(at("new/folder/out.png"), { width: 5, height: 3, pixels });
    const back = await readPicture(at("new/folder/out.png"));
    expect([back.width, back.height]).toEqual([5, 3]);
    expect([back.pixels[0], back.pixels[1]]).toEqual([0, 1]);
    back.pixels.forEach((v, i) => i > 1 && expect(Math.abs(v - pixels[i])).toBeLessThan(0.5 / 255 + 1e-6));
    expect(readdirSync(at("new/folder"))).toEqual(["out.png"]);
  });

  it("shows NaN as magenta", async () => {
    await writeFile(at("nan.png"), encodePng({ width: 2, height: 1, pixels: Float32Array.of(0.2, NaN, 0.2, 0, 0, 0) }));
    const back = await readPicture(at("nan.png"));
    expect([...back.pixels]).toEqual([1, 0, 1, 0, 0, 0]);
  });

  it("writes masks in both colours", async () => {
    const mask = { width: 3, height: 2, values: Uint8Array.of(1, 0, 1, 0, 0, 1) };
    for (const holes of ["white", "black"] as const) {
      await writeMaskPng(at(`${holes}.png`), mask, holes);
      const { mask: back, greyPixels } = await readMask(at(`${holes}.png`), holes);
      expect([...back.values]).toEqual([...mask.values]);
      expect(greyPixels).toBe(0);
    }
  });

  it("says so when the place cannot be written to, and leaves nothing", async () => {
    await writeFile(at("file"), "x");
    const picture = { width: 1, height: 1, pixels: new Float32Array(3) };
    await expect(writePicturePng(at("file/below.png"), picture)).rejects.toThrow(UserError);
    await mkdir(at("taken.png"), { recursive: true });
    await expect(writePicturePng(at("taken.png"), picture)).rejects.toThrow(/expected a place that can be written to/);
    expect(readdirSync(folder).filter((name) => name.includes("partial"))).toEqual([]);
    expect(await readFile(at("file"), "utf8")).toBe("x");
  });
});

describe("contact sheets", () => {
  const one = (value: number, width: number, height: number): Picture => ({
    width,
    height,
    pixels: new Float32Array(width * height * 3).fill(value),
  });
  it("joins pictures with white between and below", () => {
    const strip = hstack([one(0.25, 2, 1), one(0.5, 1, 2)], 1);
    expect([strip.width, strip.height]).toEqual([4, 2]);
    const red = Array.from({ length: 8 }, (_, i) => strip.pixels[3 * i]);
    expect(red).toEqual([0.25, 0.25, 1, 0.5, 1, 1, 1, 0.5]);
    const sheet = grid([[one(0, 2, 2)], [one(0, 1, 1), one(0, 1, 1)]], 3);
    expect([sheet.width, sheet.height]).toEqual([5, 6]);
    expect(sheet.pixels.filter((v) => v === 0).length).toBe(3 * 6);
  });
  it("shows holes white", () => {
    expect([...maskToPicture({ width: 2, height: 1, values: Uint8Array.of(1, 0) }).pixels]).toEqual([0, 0, 0, 1, 1, 1]);
  });
  it("refuses nothing at all and pixels of another size", () => {
    expect(() => hstack([])).toThrow(ShapeError);
    expect(() => hstack([{ width: 2, height: 2, pixels: new Float32Array(4) }])).toThrow(/expected 12 values/);
  });
});
