import { mkdtempSync, rmSync } from "node:fs";
import { copyFile, mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ShapeError, UserError } from "../../src/errors.js";
import { ImageFolder } from "../../src/io/imageFolder.js";
import type { Picture } from "../../src/pconv/picture.js";

const root = mkdtempSync(join(tmpdir(), "pconv-folder-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const good = join(root, "good");
const mixed = join(root, "mixed");

/** Every picture is one flat colour of its own, so that a sample tells which file it came from. */
const LEVELS = [30, 80, 130, 180, 230];

async function flat(path: string, level: number, width = 48, height = 36): Promise<void> {
  const image = sharp({ create: { width, height, channels: 3, background: { r: level, g: level, b: level } } });
  await image.toFile(path);
}

/** Which of LEVELS a flat sample shows. */
function fileOf(picture: Picture): number {
  const level = picture.pixels[0] * 255;
  expect(picture.pixels.every((v) => Math.abs(v * 255 - level) < 3)).toBe(true);
  return LEVELS.findIndex((l) => Math.abs(l - level) < 5);
}

function samples(folder: ImageFolder, seed: number, from: number, count: number, size = 16): Promise<Picture[]> {
  return Promise.all(Array.from({ length: count }, (_, i) => folder.sample(seed, from + i, size)));
}

beforeAll(async () => {
  await mkdir(join(good, "sub", ".hidden"), { recursive: true });
  await flat(join(good, "a.jpg"), LEVELS[0]);
  await flat(join(good, "b.PNG"), LEVELS[1], 36, 48);
  await flat(join(good, "c.webp"), LEVELS[2]);
  await flat(join(good, "sub", "d.jpeg"), LEVELS[3], 200, 20);
  await flat(join(good, "sub", "e.png"), LEVELS[4], 1, 1);
  await writeFile(join(good, "notes.txt"), "not a picture");
  await flat(join(good, "sub", ".hidden", "x.png"), 0);

  await mkdir(mixed);
  for (const [name, from] of [
    ["0-good.jpg", "a.jpg"],
    ["3-good.webp", "c.webp"],
  ]) {
    await copyFile(join(good, from), join(mixed, name));
  }
  const noise = Buffer.from(Array.from({ length: 99 * 99 * 3 }, (_, i) => (i * 7919) % 251));
  const jpeg = await sharp(noise, { raw: { width: 99, height: 99, channels: 3 } })
    .jpeg()
    .toBuffer();
  await writeFile(join(mixed, "1-cut.jpg"), jpeg.subarray(0, jpeg.length / 2));
  await writeFile(join(mixed, "2-text.png"), "words, not pixels");
});

describe("ImageFolder", () => {
  it("lists pictures of all kinds in subfolders, by name, and leaves others out", async () => {
    const folder = await ImageFolder.open(good, { augment: false });
    expect(folder.length).toBe(5);
    expect(folder.description).toContain("5 pictures");
    expect((await samples(folder, 1, 0, 7)).map(fileOf)).toEqual([0, 1, 2, 3, 4, 0, 1]);
    expect(folder.skipped).toBe(0);
  });

  it("shows every file once an epoch, in another order each epoch and for each seed", async () => {
    const folder = await ImageFolder.open(good);
    const epoch = async (seed: number, n: number): Promise<string> =>
      (await samples(folder, seed, 5 * n, 5)).map(fileOf).join("");
    const orders = [await epoch(1, 0), await epoch(1, 1), await epoch(1, 2), await epoch(2, 0), await epoch(2, 1)];
    for (const order of orders) expect([...order].sort().join("")).toBe("01234");
    expect(new Set(orders).size).toBeGreaterThan(2);
  });

  it("depends on seed, index and size only, bit for bit", async () => {
    const photo = join(root, "photo");
    await mkdir(photo);
    const noise = Buffer.from(Array.from({ length: 90 * 60 * 3 }, (_, i) => (i * i * 31) % 255));
    await sharp(noise, { raw: { width: 90, height: 60, channels: 3 } }).toFile(join(photo, "p.png"));
    await sharp(noise, { raw: { width: 60, height: 90, channels: 3 } }).toFile(join(photo, "q.jpg"));
    const first = await ImageFolder.open(photo, { minCrop: 0.5 });
    const inOrder = await samples(first, 9, 0, 6, 33);
    const again = await ImageFolder.open(photo, { minCrop: 0.5 });
    for (const index of [5, 0, 3]) expect((await again.sample(9, index, 33)).pixels).toEqual(inOrder[index].pixels);
    expect(inOrder[0].pixels).not.toEqual(inOrder[2].pixels);
    expect((await again.sample(10, 0, 33)).pixels).not.toEqual(inOrder[0].pixels);
    expect([inOrder[1].width, inOrder[1].height, inOrder[1].pixels.length]).toEqual([33, 33, 33 * 33 * 3]);
  });

  it("resizes the short side and crops the centre for validation", async () => {
    const wide = join(root, "wide");
    await mkdir(wide);
    // 120 x 40 in thirds of 40: red, green, blue. The centre square is all green.
    const bytes = Buffer.from(
      Array.from({ length: 120 * 40 }, (_, i) =>
        [0, 1, 2].map((k) => (k === Math.floor((i % 120) / 40) ? 255 : 0)),
      ).flat(),
    );
    await sharp(bytes, { raw: { width: 120, height: 40, channels: 3 } }).toFile(join(wide, "thirds.png"));
    const folder = await ImageFolder.open(wide, { augment: false });
    const { pixels } = await folder.sample(1, 0, 20);
    const green = Array.from({ length: 400 }, (_, i) => pixels[3 * i + 1]);
    expect(green.filter((v) => v > 0.95).length).toBeGreaterThanOrEqual(360);
    // Augmented, the crop moves along the long side: other colours come up.
    const moved = await samples(await ImageFolder.open(wide), 1, 0, 12, 20);
    const reds = moved.map((p) => p.pixels.filter((_, i) => i % 3 === 0).reduce((a, b) => a + b) / 400);
    expect(Math.max(...reds)).toBeGreaterThan(0.7);
    expect(Math.min(...reds)).toBeLessThan(0.3);
  });

  it("flips, turns and shifts within bounds, and shows no empty corner", async () => {
    const ramp = join(root, "ramp");
    await mkdir(ramp);
    // Red grows to the right, green grows downwards, blue is full: an empty corner would lack blue.
    const side = 64;
    const bytes = Buffer.from(
      Array.from({ length: side * side }, (_, i) => [3 * (i % side) + 30, 3 * Math.floor(i / side) + 30, 255]).flat(),
    );
    await sharp(bytes, { raw: { width: side, height: side, channels: 3 } }).toFile(join(ramp, "ramp.png"));
    const size = 32;
    /** Mean change of channel k per pixel to the right, in the middle of the sample, relative to an unturned sample. */
    const slope = (p: Picture, k: number): number =>
      ((p.pixels[3 * (16 * size + 20) + k] - p.pixels[3 * (16 * size + 12) + k]) * 255) / 8 / 6;
    const turned = await samples(await ImageFolder.open(ramp), 3, 0, 40, size);
    const flips = turned.filter((p) => slope(p, 0) < 0).length;
    expect(flips).toBeGreaterThan(8);
    expect(flips).toBeLessThan(32);
    const angles = turned.map((p) => (Math.atan2(slope(p, 1), Math.abs(slope(p, 0))) * 180) / Math.PI);
    expect(Math.max(...angles)).toBeGreaterThan(6);
    expect(Math.min(...angles)).toBeLessThan(-6);
    expect(Math.max(...angles.map(Math.abs))).toBeLessThan(12);
    for (const p of turned) expect(p.pixels.every((v, i) => i % 3 !== 2 || v > 0.98)).toBe(true);
    const still = await samples(await ImageFolder.open(ramp, { rotation: 0, shift: 0 }), 3, 0, 12, size);
    const plain = await (await ImageFolder.open(ramp, { augment: false })).sample(3, 0, size);
    for (const p of still) {
      // The whole square picture: either as it is or mirrored.
      const mirrored = slope(p, 0) < 0;
      for (let x = 0; x < size; x++) {
        const same = plain.pixels[3 * (5 * size + (mirrored ? size - 1 - x : x))];
        expect(Math.abs(p.pixels[3 * (5 * size + x)] - same)).toBeLessThan(0.02);
      }
    }
  });

  it("magnifies with minCrop", async () => {
    const folder = await ImageFolder.open(join(root, "ramp"), { minCrop: 0.3, rotation: 0, shift: 0 });
    const spans = (await samples(folder, 5, 0, 24, 16)).map((p) => {
      const red = Array.from({ length: 16 }, (_, x) => p.pixels[3 * (8 * 16 + x)]);
      return (Math.max(...red) - Math.min(...red)) / (189 / 255);
    });
    expect(Math.min(...spans)).toBeLessThan(0.5);
    expect(Math.max(...spans)).toBeGreaterThan(0.75);
    expect(Math.min(...spans)).toBeGreaterThan(0.2);
  });

  it("skips broken files with one warning each and shows the next good one, the same on every run", async () => {
    const run = async (from: number): Promise<{ shown: number[]; warnings: string[]; skipped: number }> => {
      const warnings: string[] = [];
      const folder = await ImageFolder.open(mixed, { onWarning: (message) => warnings.push(message) });
      const shown = (await samples(folder, 4, from, 12 - from)).map(fileOf);
      return { shown, warnings, skipped: folder.skipped };
    };
    const whole = await run(0);
    expect(whole.skipped).toBe(2);
    expect(whole.warnings.length).toBe(2);
    expect(whole.warnings.sort()[0]).toMatch(
      /^skipped .*1-cut\.jpg: expected a picture, got a damaged or truncated one/,
    );
    expect(whole.warnings.sort()[1]).toMatch(/^skipped .*2-text\.png: .*begins with "words, not/);
    expect(new Set(whole.shown)).toEqual(new Set([0, 2]));
    // A run that resumes at sample 6 has not met the broken files yet, and still shows the same.
    expect((await run(6)).shown).toEqual(whole.shown.slice(6));
  });

  it("treats a file that vanished as a broken one", async () => {
    const leaving = join(root, "leaving");
    await mkdir(leaving);
    await copyFile(join(good, "a.jpg"), join(leaving, "a.jpg"));
    await copyFile(join(good, "c.webp"), join(leaving, "b.webp"));
    const warnings: string[] = [];
    const folder = await ImageFolder.open(leaving, { augment: false, onWarning: (message) => warnings.push(message) });
    await rm(join(leaving, "a.jpg"));
    expect(fileOf(await folder.sample(1, 0, 8))).toBe(2);
    expect(warnings).toEqual([expect.stringMatching(/a\.jpg: expected a file that can be read, got no such file/)]);
    await rm(join(leaving, "b.webp"));
    await expect(folder.sample(1, 1, 8)).rejects.toThrow(
      /expected a folder of pictures, got one that is gone or empty now/,
    );
  });

  it("follows links, and does not hang on one that leads back", async () => {
    const linked = join(root, "linked");
    await mkdir(linked);
    try {
      await symlink(join(good, "a.jpg"), join(linked, "link.jpg"));
      await symlink(join(linked, "nowhere"), join(linked, "dangling.jpg"));
      await symlink(linked, join(linked, "loop"), "dir");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EPERM") return; // Windows without the right to make links
      throw error;
    }
    const folder = await ImageFolder.open(linked, { augment: false });
    expect(folder.length).toBe(1);
    expect(fileOf(await folder.sample(1, 0, 8))).toBe(0);
  });

  it("refuses folders and options that cannot work", async () => {
    const empty = join(root, "empty");
    await mkdir(empty);
    await expect(ImageFolder.open(join(root, "missing"))).rejects.toThrow(
      /expected a folder of pictures, got no such folder/,
    );
    await expect(ImageFolder.open(join(good, "a.jpg"))).rejects.toThrow(/expected a folder of pictures, got a file/);
    await expect(ImageFolder.open(empty)).rejects.toThrow(/expected a folder with pictures .*\.jpg.*, got one without/);
    await writeFile(join(empty, "broken.png"), "x");
    const broken = await ImageFolder.open(empty, { onWarning: () => undefined });
    await expect(broken.sample(1, 0, 8)).rejects.toThrow(UserError);
    await expect(ImageFolder.open(good, { minCrop: 0 })).rejects.toThrow(/option minCrop/);
    await expect(ImageFolder.open(good, { rotation: -1 })).rejects.toThrow(/option rotation/);
    await expect(ImageFolder.open(good, { shift: NaN })).rejects.toThrow(/option shift/);
    await expect(ImageFolder.open(good, { augment: false, shift: 0.1 })).rejects.toThrow(/augment: false/);
    const folder = await ImageFolder.open(good);
    await expect(folder.sample(1, 0, 0)).rejects.toThrow(ShapeError);
  });
});
