import { mkdtempSync, rmSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, describe, expect, it } from "vitest";
import { MaskFolder } from "../../src/io/maskFolder.js";
import { writeMaskPng } from "../../src/io/png.js";
import { holeRatio, type MaskPicture } from "../../src/pconv/picture.js";
import { generateMask, isMixed } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";

const root = mkdtempSync(join(tmpdir(), "pconv-masks-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

async function folderOf(
  name: string,
  masks: Record<string, MaskPicture>,
  holes: "white" | "black" = "white",
): Promise<string> {
  await mkdir(join(root, name));
  for (const [file, mask] of Object.entries(masks)) await writeMaskPng(join(root, name, file), mask, holes);
  return join(root, name);
}

/** All of one value, but for a square of the other. */
function squareMask(width: number, height: number, x0: number, y0: number, side: number): MaskPicture {
  const values = new Uint8Array(width * height).fill(1);
  for (let y = y0; y < y0 + side; y++) values.fill(0, y * width + x0, y * width + x0 + side);
  return { width, height, values };
}

const blank: MaskPicture = { width: 8, height: 8, values: new Uint8Array(64).fill(1) };
const full: MaskPicture = { width: 8, height: 8, values: new Uint8Array(64) };

describe("MaskFolder", () => {
  it("resizes each mask by nearest neighbour, in the order of names, for either hole colour", async () => {
    const masks = { "b.png": squareMask(16, 16, 8, 0, 8), "a.png": squareMask(32, 16, 0, 0, 8) };
    for (const holes of ["white", "black"] as const) {
      const folder = await MaskFolder.open(await folderOf(`plain-${holes}`, masks, holes), { holes, augment: false });
      const a = await folder.sample(1, 0, 8);
      expect([a.width, a.height]).toEqual([8, 8]);
      expect([...a.values.subarray(0, 8)]).toEqual([0, 0, 1, 1, 1, 1, 1, 1]);
      expect(holeRatio(a)).toBe(1 / 8);
      expect([...(await folder.sample(1, 3, 4)).values]).toEqual([1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
      expect([folder.length, folder.skipped, folder.greyPixels]).toEqual([2, 0, 0]);
    }
  });

  it("augments: binary, mixed, varied, and the same for the same seed and index", async () => {
    const drawn = Object.fromEntries(
      Array.from({ length: 4 }, (_, i) => [`${i}.png`, generateMask(128, 96, Rng.of(i), { lines: [2, 4] })]),
    );
    const path = await folderOf("drawn", drawn);
    const folder = await MaskFolder.open(path, { holes: "white" });
    const masks = await Promise.all(Array.from({ length: 24 }, (_, i) => folder.sample(2, i, 48)));
    for (const mask of masks) {
      expect(mask.values.length).toBe(48 * 48);
      expect(mask.values.every((v) => v === 0 || v === 1)).toBe(true);
      expect(isMixed(mask)).toBe(true);
    }
    expect(new Set(masks.map((m) => m.values.join(""))).size).toBe(24);
    const again = await MaskFolder.open(path, { holes: "white" });
    for (const index of [17, 3]) expect((await again.sample(2, index, 48)).values).toEqual(masks[index].values);
    expect((await again.sample(3, 3, 48)).values).not.toEqual(masks[3].values);
  });

  it("dilates by the kernel size, scaled with the mask", async () => {
    const path = await folderOf("dot", { "dot.png": squareMask(256, 256, 120, 120, 16) });
    const mean = async (dilation: readonly [number, number]): Promise<number> => {
      const folder = await MaskFolder.open(path, { holes: "white", dilation });
      const masks = await Promise.all(Array.from({ length: 60 }, (_, i) => folder.sample(1, i, 64)));
      return masks.reduce((sum, mask) => sum + Math.sqrt(holeRatio(mask)), 0) / 60;
    };
    // A kernel of 48 at 512 is one of 24 at 256: the square of 16 grows by 12 on each side, to 40.
    const growth = (await mean([48, 48])) / (await mean([0, 0]));
    expect(growth).toBeGreaterThan(2.1);
    expect(growth).toBeLessThan(2.9);
  });

  it("keeps holes that resizing would lose", async () => {
    const path = await folderOf("speck", { "speck.png": squareMask(100, 100, 41, 77, 1) });
    for (const options of [{ augment: false }, { dilation: [0, 0] as const }]) {
      const folder = await MaskFolder.open(path, { holes: "white", ...options });
      for (let i = 0; i < 10; i++) expect(isMixed(await folder.sample(1, i, 8)), `#${i}`).toBe(true);
    }
    const folder = await MaskFolder.open(path, { holes: "white", augment: false });
    expect((await folder.sample(1, 0, 8)).values.indexOf(0)).toBe(6 * 8 + 3);
  });

  it("skips broken, all-hole and all-valid masks with a warning each", async () => {
    const path = await folderOf("bad", {
      "0-full.png": full,
      "1-blank.png": blank,
      "3-good.png": squareMask(8, 8, 0, 0, 4),
    });
    await writeFile(join(path, "2-text.png"), "words");
    const warnings: string[] = [];
    const folder = await MaskFolder.open(path, { holes: "white", augment: false, onWarning: (m) => warnings.push(m) });
    for (let i = 0; i < 8; i++) expect(holeRatio(await folder.sample(1, i, 8))).toBe(1 / 4);
    expect(folder.skipped).toBe(3);
    expect(warnings.map((w) => /\d-\w+\.png: .*/.exec(w)![0])).toEqual([
      "0-full.png: expected a mask with both hole and valid pixels, got one that is all hole",
      "1-blank.png: expected a mask with both hole and valid pixels, got one that is all valid",
      expect.stringMatching(/2-text\.png: .*begins with "words"/),
    ]);
  });

  it("refuses a folder of such masks only", async () => {
    const folder = await MaskFolder.open(await folderOf("useless", { "a.png": full, "b.png": blank }), {
      holes: "white",
      onWarning: () => undefined,
    });
    await expect(folder.sample(1, 0, 8)).rejects.toThrow(/at least one usable file, got 2 that cannot be used/);
  });

  it("binarises grey masks, counts their grey pixels and says so once", async () => {
    const path = join(root, "grey");
    await mkdir(path);
    for (const name of ["a", "b"]) {
      const levels = Buffer.from([0, 90, 180, 255]);
      await sharp(levels, { raw: { width: 2, height: 2, channels: 1 } }).toFile(join(path, `${name}.png`));
    }
    const warnings: string[] = [];
    const folder = await MaskFolder.open(path, { holes: "white", augment: false, onWarning: (m) => warnings.push(m) });
    for (let i = 0; i < 4; i++) expect([...(await folder.sample(1, i, 2)).values]).toEqual([1, 1, 0, 0]);
    expect(folder.greyPixels).toBe(4);
    expect(warnings).toEqual([expect.stringMatching(/a\.png: 2 grey pixels; above 0\.6 they count as white/)]);
    const low = await MaskFolder.open(path, {
      holes: "white",
      threshold: 0.3,
      augment: false,
      onWarning: () => undefined,
    });
    expect([...(await low.sample(1, 0, 2)).values]).toEqual([1, 0, 0, 0]);
  });

  it("refuses options and sizes that cannot work", async () => {
    const path = await folderOf("options", { "a.png": squareMask(8, 8, 0, 0, 4) });
    await expect(MaskFolder.open(path, { holes: "grey" as "white" })).rejects.toThrow(
      /option holes.*expected "white" or "black"/,
    );
    await expect(MaskFolder.open(path, { holes: "white", dilation: [9, 3] })).rejects.toThrow(/option dilation/);
    await expect(MaskFolder.open(path, { holes: "white", augment: false, dilation: [1, 3] })).rejects.toThrow(
      /augment: false/,
    );
    await expect(MaskFolder.open(path, { holes: "white", threshold: 7 })).rejects.toThrow(/mask threshold/);
    await expect(MaskFolder.open(join(root, "missing"), { holes: "white" })).rejects.toThrow(/no such folder/);
    const folder = await MaskFolder.open(path, { holes: "white" });
    await expect(folder.sample(1, 0, 1)).rejects.toThrow(/size of 2 pixels or more, got 1/);
  });
});
