/** `pconv inpaint` as users run it: compiled, in a process of its own. */
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openGpu } from "../../src/gpu/node.js";
import { writeMaskPng, writePicturePng } from "../../src/io/png.js";
import { readStored } from "../../src/io/storedPicture.js";
import { deadLeaves } from "../../src/pconv/deadLeaves.js";
import { Rng } from "../../src/pconv/rng.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { unetToSafetensors } from "../../src/pconv/unetWeights.js";

const PCONV = fileURLToPath(new URL("../../dist/tools/pconv.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "pconv-inpaint-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (...names: string[]): string => join(folder, ...names);

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function inpaint(
  args: readonly string[],
  onStderr?: (text: string, stop: () => void) => void,
  signal: NodeJS.Signals = "SIGINT",
): Promise<Outcome> {
  const child = spawn(process.execPath, [PCONV, "inpaint", ...args], {
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (text) => (stdout += text));
  child.stderr.on("data", (text) => {
    stderr += text;
    onStderr?.(stderr, () => child.kill(signal));
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status) => resolve({ status, stdout, stderr }));
  });
}

const lines = (o: Outcome) =>
  o.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
const COMMON = ["--weights", "model.safetensors", "--json"];

/** Left third hole. */
const maskOf = (width: number, height: number) => ({
  width,
  height,
  values: Uint8Array.from({ length: width * height }, (_, i) => (i % width < width / 3 ? 0 : 1)),
});

beforeAll(async () => {
  const gpu = await openGpu();
  const model = new PConvUNet(gpu, { width: 0.125, depth: 3 }, 1);
  writeFileSync(at("model.safetensors"), await unetToSafetensors(model));
  gpu.close();
  mkdirSync(at("photos", "deep"), { recursive: true });
  mkdirSync(at("masks", "deep"), { recursive: true });
  const picture = deadLeaves(90, 60, Rng.of(1));
  await writePicturePng(at("photos", "a.png"), picture);
  await sharp(at("photos", "a.png")).jpeg().toFile(at("photos", "a.jpg"));
  await sharp(at("photos", "a.png"))
    .toColourspace("b-w")
    .webp()
    .toFile(at("photos", "deep", "b.webp"));
  await writeMaskPng(at("masks", "a.png"), maskOf(90, 60));
  await writeMaskPng(at("masks", "deep", "b_mask.png"), maskOf(90, 60));
  await writeMaskPng(at("inverted.png"), maskOf(90, 60), "black");
  await writeMaskPng(at("small.png"), maskOf(45, 30));
});

/** Checks that outside the left third nothing changed, and inside something did. */
async function expectFilled(image: string, result: string): Promise<void> {
  const [before, after] = await Promise.all([readStored(image), readStored(result)]);
  expect([after.width, after.height, after.channels]).toEqual([before.width, before.height, before.channels]);
  let changed = 0;
  before.samples.forEach((v, i) => {
    const x = Math.floor(i / before.channels) % before.width;
    if (x >= before.width / 3) expect(after.samples[i]).toBe(v);
    else if (after.samples[i] !== v) changed++;
  });
  expect(changed).toBeGreaterThan(before.samples.length / 6);
}

describe("pconv inpaint", () => {
  it("fills a folder with masks by name, goes on past a broken file, and skips what is done", async () => {
    cpSync(at("photos"), at("mixed"), { recursive: true });
    cpSync(at("masks", "a.png"), at("masks", "broken.png"));
    writeFileSync(at("mixed", "broken.jpg"), readFileSync(at("photos", "a.jpg")).subarray(0, 800));
    writeFileSync(at("mixed", "orphan.png"), readFileSync(at("photos", "a.png")));
    const args = ["mixed", "--mask", "masks", "--out", "out", "--tile", "48", ...COMMON];
    const first = await inpaint(args);
    expect(first.status).toBe(1);
    const told = lines(first);
    expect(told.map((l) => l["status"])).toEqual(["done", "done", "failed", "done", "failed"]);
    expect(told[0]).toMatchObject({ holes: "white", holeRatio: 1 / 3, greyPixels: 0, width: 90, height: 60 });
    expect(told[0]["passes"]).toBeGreaterThan(2);
    expect(first.stderr).toContain("3 filled, 0 skipped, 2 failed, of 5");
    expect(first.stderr).toMatch(/broken\.jpg: expected/);
    expect(first.stderr).toMatch(/one mask named orphan or orphan_mask in masks, got none/);
    // a.jpg and a.png would both be a.png.
    expect(readdirSync(at("out")).sort()).toEqual(["a.jpg.png", "a.png.png", "deep"]);
    await expectFilled(at("mixed", "a.jpg"), at("out", "a.jpg.png"));
    await expectFilled(at("mixed", "a.png"), at("out", "a.png.png"));
    await expectFilled(at("mixed", "deep", "b.webp"), at("out", "deep", "b.webp"));
    const again = await inpaint(args);
    expect(lines(again).filter((l) => l["status"] === "skipped")).toHaveLength(3);
    expect(lines(again).filter((l) => l["status"] === "done")).toHaveLength(0);
  });

  it("writes beside the picture or to the named file, tells the polarity, and takes black holes", async () => {
    const beside = await inpaint(["photos/a.jpg", "--mask", "masks/a.png", "--weights", "model.safetensors"]);
    expect(beside.status).toBe(0);
    expect(beside.stdout).toContain("white = hole, black = valid");
    expect(beside.stdout).toContain("33.3 % hole");
    await expectFilled(at("photos", "a.jpg"), at("photos", "a.inpainted.png"));
    const black = ["photos/a.png", "--mask", "inverted.png", "--holes", "black", "--out", "new/x.png", ...COMMON];
    expect((await inpaint(black)).status).toBe(0);
    await expectFilled(at("photos", "a.png"), at("new", "x.png"));
    const wrongWay = await inpaint([...black.filter((a) => a !== "--holes" && a !== "black"), "--force"]);
    expect(lines(wrongWay)[0]).toMatchObject({ holes: "white" });
    expect(lines(wrongWay)[0]["holeRatio"]).toBeCloseTo(2 / 3, 9);
    expect(String(lines(wrongWay)[0]["notes"])).toContain("--holes black");
    rmSync(at("photos", "a.inpainted.png"));
  });

  it("writes the network's own picture with --raw, and JPEG with a note", async () => {
    const args = ["photos/a.png", "--mask", "masks/a.png", "--raw", "--out", "raw.jpg", ...COMMON];
    const outcome = await inpaint(args);
    expect(String(lines(outcome)[0]["notes"])).toContain("JPEG changes pixels");
    const [before, after] = await Promise.all([readStored(at("photos", "a.png")), readStored(at("raw.jpg"))]);
    const right = before.samples.length - 3;
    expect(Math.abs(before.samples[right] - after.samples[right])).toBeGreaterThan(8);
  });

  it("counts grey pixels, and resizes masks only when told to", async () => {
    const args = ["photos/a.png", "--mask", "small.png", "--out", "resized.png", ...COMMON];
    const refused = await inpaint(args);
    expect(refused.status).toBe(2);
    expect(refused.stderr).toMatch(
      /small\.png: expected a mask of 90x60 for photos.a\.png, got 45x30\nhelp: .*--resize-mask/,
    );
    expect(existsSync(at("resized.png"))).toBe(false);
    expect((await inpaint([...args, "--resize-mask"])).status).toBe(0);
    await expectFilled(at("photos", "a.png"), at("resized.png"));
    await sharp(at("masks", "a.png")).blur(2).png().toFile(at("grey.png"));
    const grey = await inpaint(["photos/a.png", "--mask", "grey.png", "--out", "grey-out.png", ...COMMON]);
    expect(lines(grey)[0]["greyPixels"]).toBeGreaterThan(60);
  });

  it("fits masks to turned pictures, and refuses those that fit in two ways", async () => {
    const turned = (orientation: number) =>
      sharp(at("photos", "a.png"))
        .withMetadata({ orientation })
        .png()
        .toFile(at(`turned${orientation}.png`));
    await Promise.all([turned(6), turned(3)]);
    await writeMaskPng(at("upright.png"), maskOf(60, 90));
    const run = (name: string, mask: string, ...more: string[]) =>
      inpaint([name, "--mask", mask, "--out", `out-${name}`, "--force", ...more, ...COMMON]);
    expect((await run("turned6.png", "masks/a.png")).status).toBe(0);
    await expectFilled(at("turned6.png"), at("out-turned6.png"));
    expect((await sharp(at("out-turned6.png")).metadata()).orientation).toBe(6);
    const upright = lines(await run("turned6.png", "upright.png"))[0];
    expect(String(upright["notes"])).toContain("displayed picture");
    const refused = await run("turned3.png", "masks/a.png");
    expect(refused.status).toBe(2);
    expect(refused.stderr).toContain("--mask-orientation displayed");
    expect((await run("turned3.png", "masks/a.png", "--mask-orientation", "stored")).status).toBe(0);
    await expectFilled(at("turned3.png"), at("out-turned3.png"));
  });

  it.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("stops at %s without a partial file", async (signal, status) => {
    await writePicturePng(at("large.png"), deadLeaves(1400, 1400, Rng.of(2)));
    await writeMaskPng(at("large-mask.png"), maskOf(1400, 1400));
    let stopped = false;
    const outcome = await inpaint(
      ["large.png", "--mask", "large-mask.png", "--out", "stopped", "--tile", "32", ...COMMON],
      (text, stop) => {
        if (stopped || !text.includes("adapter:")) return;
        stopped = true;
        setTimeout(stop, 700); // into the tiles, of which there are more than any device draws by then
      },
      signal,
    );
    expect(stopped).toBe(true);
    expect(outcome.status).toBe(status);
    expect(outcome.stderr).toContain("stopped:");
    expect(existsSync(at("stopped"))).toBe(false);
  });

  it.each([
    [["photos/a.png", "--mask", "masks/a.png", "--weights", "absent.safetensors"], "absent.safetensors"],
    [["photos", "--mask", "masks", "--out", "one.png", ...COMMON], "a folder for several pictures"],
    [["absent.png", "--mask", "masks", ...COMMON], "no such file"],
    [["", "--mask", "masks", ...COMMON], "<image>: expected a path, got an empty text"],
    [["photos/a.png", "--mask", "absent.png", ...COMMON], "no such file"],
    [["photos/a.png", "--mask", "masks/a.png", "--out", "photos", "--force", ...COMMON], "expected a new file"],
    [["photos/a.png", "--mask", "white.png", "--out", "x", ...COMMON], "all hole"],
  ])("refuses %j", async (args, words) => {
    await writeMaskPng(at("white.png"), { ...maskOf(90, 60), values: new Uint8Array(5400) });
    const before = readdirSync(at("photos"));
    const outcome = await inpaint(args);
    expect(outcome.status).toBe(2);
    expect(outcome.stderr).toContain(words);
    expect(outcome.stderr).toMatch(/\nhelp: .+\n$/);
    expect(outcome.stdout).toBe("");
    expect(readdirSync(at("photos"))).toEqual(before);
  });
});
