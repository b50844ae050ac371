/** `pconv evaluate`, and the kinds of `pconv masks`, as users run them: compiled, in a process of their own. */
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readPicture } from "../../src/io/imageFile.js";
import { writeMaskPng, writePicturePng } from "../../src/io/png.js";
import { writeSafetensors } from "../../src/io/safetensors.js";
import { deadLeaves } from "../../src/pconv/deadLeaves.js";
import type { BinQuality } from "../../src/pconv/evaluate.js";
import { Rng } from "../../src/pconv/rng.js";
import { tinyVggState } from "../support/tinyVgg.js";

const COMMAND = fileURLToPath(new URL("../../dist/tools/pconv.js", import.meta.url));
const WEIGHTS = fileURLToPath(new URL("../fixtures/weights/naoto_small_ckpt.pth", import.meta.url));
const root = mkdtempSync(join(tmpdir(), "pconv-evaluate-"));
const at = (name: string) => join(root, name);
afterAll(() => rmSync(root, { recursive: true, force: true }));

interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

function run(...args: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(process.execPath, [COMMAND, ...args], (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

function expectRefusal(outcome: Outcome, ...words: readonly string[]): void {
  expect([outcome.status, outcome.stdout]).toEqual([2, ""]);
  expect(outcome.stderr.trim().split("\n").at(-1)).toMatch(/^help: /);
  for (const word of words) expect(outcome.stderr).toContain(word);
}

/** Two pictures whose left halves are black and right halves white, and masks of 5 % and 25 % of the left half. */
beforeAll(async () => {
  for (const name of ["images", "masks"]) await mkdir(at(name));
  const [width, height] = [56, 40];
  const half = Float32Array.from({ length: width * height * 3 }, (_, i) => Number(Math.floor(i / 3) % width >= 28));
  for (const name of ["a", "b"]) await writePicturePng(at(`images/${name}.png`), { width, height, pixels: half });
  for (const [name, rows] of [
    ["5", 4],
    ["25", 20],
    ["none", 0],
  ] as const) {
    const values = new Uint8Array(40 * 40).fill(1);
    for (let y = 0; y < rows; y++) values.fill(0, y * 40, y * 40 + 20);
    await writeMaskPng(at(`masks/${name}.png`), { width: 40, height: 40, values });
  }
  writeFileSync(at("vgg.safetensors"), writeSafetensors(tinyVggState()));
});

const folders = () => ["--images", at("images"), "--masks", at("masks"), "--size", "40"];

describe("pconv evaluate", () => {
  it(
    "measures a network, both baselines and the distance by VGG, and draws the sheet",
    { timeout: 120_000 },
    async () => {
      const extras = ["--vgg-path", at("vgg.safetensors"), "--sheet", at("sheet.png"), "--json"];
      const outcome = await run(
        "evaluate",
        ...folders(),
        "--weights",
        WEIGHTS,
        "--baseline",
        "mean",
        "diffusion",
        ...extras,
      );
      expect(outcome.stderr).not.toContain("fault");
      expect(outcome.status).toBe(0);
      const said = JSON.parse(outcome.stdout) as {
        bins: BinQuality[];
        methods: { method: string; bins: BinQuality[] }[];
        sheet: { cells: { bin: string; rank: string; image: string }[] };
      };
      expect(said).toMatchObject({ size: 40, images: 2, masks: 3, masksOutside: 1, method: "naoto_small_ckpt.pth" });
      expect(said.methods.map(({ method }) => method)).toEqual(["naoto_small_ckpt.pth", "mean", "diffusion"]);
      expect(said.bins).toEqual(said.methods[0].bins);
      for (const { bins } of said.methods) {
        expect(bins.map(({ count }) => count)).toEqual([2, 0, 2, 0, 0, 0]);
        expect(bins[1]).toEqual({ bin: "0.1-0.2", count: 0, l1: null, psnr: null, ssim: null, vgg: null });
      }
      // A hole of 4 x 20 in black: the mean of 720 black and 800 white pixels, as 8 bits, is 134.
      const [mean, diffusion] = [said.methods[1].bins[0], said.methods[2].bins[0]];
      expect(mean.l1).toBeCloseTo(100 * 0.05 * (134 / 255), 4);
      expect(mean.psnr).toBeCloseTo(-10 * Math.log10(0.05 * (134 / 255) ** 2), 3);
      expect(diffusion.psnr).toBeGreaterThan(mean.psnr! + 3);
      expect(diffusion.ssim).toBeGreaterThan(mean.ssim!);
      expect(diffusion.vgg).toBeLessThan(mean.vgg!);
      expect(diffusion.vgg).toBeGreaterThan(0);
      expect(said.sheet.cells.map(({ bin, rank }) => `${bin} ${rank}`)).toEqual([
        "0.01-0.1 best",
        "0.01-0.1 worst",
        "0.2-0.3 best",
        "0.2-0.3 worst",
      ]);
      // Two groups of masked, three results and truth, in two rows.
      const { width, height } = await readPicture(at("sheet.png"));
      expect([width, height]).toEqual([2 * (5 * 40 + 4 * 4) + 16, 2 * 40 + 16]);
    },
  );

  it("prints a table that says what is empty and what was not used", async () => {
    const { status, stdout } = await run(
      "evaluate",
      ...folders(),
      "--no-weights",
      "--baseline",
      "mean",
      "--limit",
      "1",
    );
    expect(status).toBe(0);
    expect(stdout).toMatch(/^1 of 2 images, 3 masks at 40x40/);
    expect(stdout).toMatch(/^0\.01-0\.1 +mean +1 +1 +2\.627 +18\.60 +0\.\d{4}$/m);
    expect(stdout).toMatch(/^0\.5-0\.6 +mean +0 +0 +- +- +-$/m);
    expect(stdout).toContain("no mask has a hole ratio of 0.1-0.2, 0.3-0.4, 0.4-0.5, 0.5-0.6");
    expect(stdout).toContain("1 mask is in none of the bins");
  });

  it("prints what it measured where the sheet cannot be written", async () => {
    await mkdir(at("folder.png"));
    const baseline = ["--no-weights", "--baseline", "mean", "--limit", "1"];
    const { status, stdout, stderr } = await run("evaluate", ...folders(), ...baseline, "--sheet", at("folder.png"));
    expect(status).toBe(2);
    expect(stderr).toMatch(/folder\.png: expected a place that can be written to, .*\nhelp: /);
    expect(stdout).toMatch(/^0\.01-0\.1 +mean +1 +1 /m);
    expect(stdout).not.toContain("sheet:");
    expectRefusal(await run("evaluate", ...folders(), ...baseline, "--sheet", at("sheet.jpg")), "ends in .png");
    // Before anything is measured, where that can be told.
    await writeFile(at("file"), "");
    const below = await run("evaluate", ...folders(), ...baseline, "--sheet", at("file/sheet.png"));
    expectRefusal(below, "expected a place that can be written to");
  });

  it("measures the network that comes with the package unless told otherwise", { timeout: 60_000 }, async () => {
    const { status, stdout } = await run("evaluate", ...folders(), "--limit", "1", "--json");
    expect(status).toBe(0);
    const said = JSON.parse(stdout) as { method: string; bins: BinQuality[] };
    expect(said.method).toBe("default");
    expect(said.bins[0].psnr).toBeGreaterThan(20);
  });

  it("refuses what it cannot do", async () => {
    expectRefusal(await run("evaluate", ...folders(), "--no-weights"), "--no-weights and no --baseline");
    expectRefusal(await run("evaluate", "--images", "", "--masks", at("masks")), "--images: expected a path");
    expectRefusal(await run("evaluate", ...folders(), "--baseline", "telea"), "mean, diffusion", "telea");
    expectRefusal(
      await run("evaluate", ...folders(), "--no-weights", "--baseline", "mean", "--holes", "black"),
      "none has, with black as the hole",
      "--holes white",
    );
    expectRefusal(
      await run("evaluate", ...folders(), "--no-weights", "--baseline", "mean", "--size", "10"),
      "from 11 to 4096",
    );
    await mkdir(at("bad"));
    writeFileSync(at("bad/a.png"), "words");
    expectRefusal(
      await run("evaluate", "--images", at("bad"), "--masks", at("masks"), "--no-weights", "--baseline", "mean"),
      "a.png",
      'begins with "words"',
    );
  });
});

describe("pconv masks --kind", () => {
  it("draws strokes, and what hides between two frames", { timeout: 60_000 }, async () => {
    const scene = deadLeaves(240, 120, Rng.of(1));
    for (const [name, left] of [
      ["f1", 0],
      ["f2", 8],
    ] as const) {
      const pixels = new Float32Array(160 * 120 * 3);
      for (let y = 0; y < 120; y++) {
        pixels.set(scene.pixels.subarray((y * 240 + left) * 3, (y * 240 + left + 160) * 3), y * 160 * 3);
      }
      await writePicturePng(at(`${name}.png`), { width: 160, height: 120, pixels });
    }
    for (const kind of [["strokes"], ["occlusion", "--from", at("f1.png"), at("f2.png")]]) {
      const out = at(`drawn-${kind[0]}`);
      const options = ["--count", "3", "--size", "64x48", "--out", out, "--json", "--kind", ...kind];
      const { status, stdout } = await run("masks", ...options);
      expect(status).toBe(0);
      const said = JSON.parse(stdout) as { kind: string; meanHoleRatio: number };
      expect(said.kind).toBe(kind[0]);
      expect(said.meanHoleRatio).toBeGreaterThan(0.005);
      expect(said.meanHoleRatio).toBeLessThan(0.9);
      const { width, height, pixels } = await readPicture(join(out, "mask-00002.png"));
      expect([width, height]).toEqual([64, 48]);
      expect(new Set(pixels)).toEqual(new Set([0, 1]));
    }
  });

  it("refuses frames that do not fit the kind, and frames in which nothing hides", { timeout: 60_000 }, async () => {
    const options = ["masks", "--count", "1", "--size", "64x48", "--out", at("refused")];
    expectRefusal(
      await run(...options, "--from", at("f1.png"), at("f2.png")),
      "--kind occlusion only, got --kind lines",
    );
    expectRefusal(await run(...options, "--kind", "occlusion"), "two frames", "got none");
    expectRefusal(await run(...options, "--kind", "occlusion", "--from", at("f1.png")), "got 1");
    const still = [at("f1.png"), at("f1.png")];
    expectRefusal(await run(...options, "--kind", "occlusion", "--from", ...still), "gets hidden or uncovered");
    expect(existsSync(at("refused"))).toBe(false);
  });
});
