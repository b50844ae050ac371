/** What the tests of pconv-train share: a folder to run it in, starting it, reading what it wrote. */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { afterAll, beforeAll, expect } from "vitest";
import { writeMaskPng } from "../../src/io/png.js";
import { readSafetensors, writeSafetensors } from "../../src/io/safetensors.js";
import { deadLeaves } from "../../src/pconv/deadLeaves.js";
import { generateMask } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";
import { tinyVggState } from "./tinyVgg.js";

const PROGRAM = fileURLToPath(new URL("../../dist/tools/pconv-train.js", import.meta.url));
export const SMALL = ["--image-size", "32", "--width", "0.1", "--depth", "3"];
export const STEPS = 12;

let dir: string;
export const at = (...parts: string[]) => join(dir, ...parts);

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  /** Without what Dawn and the Vulkan loader print. */
  readonly stderr: string;
}

export function start(args: readonly string[], env: Readonly<Record<string, string>> = {}): ChildProcess {
  return spawn(process.execPath, [PROGRAM, ...args], { cwd: dir, env: { ...process.env, ...env } });
}

export function finish(child: ChildProcess): Promise<Finished> {
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  return new Promise((resolve) => {
    child.on("close", (code) => {
      const ours = stderr.split("\n").filter((line) => !/^(Warning: |\s+at |$)/.test(line));
      resolve({ code, stdout, stderr: ours.map((line) => `${line}\n`).join("") });
    });
  });
}

export const train = (...args: string[]) => finish(start(args));

/** Names and contents of everything in the folder. */
export async function everything(): Promise<string> {
  const hash = createHash("sha256");
  for (const entry of (await readdir(dir, { recursive: true, withFileTypes: true })).filter((e) => e.isFile())) {
    const path = join(entry.parentPath, entry.name);
    hash.update(path).update(await readFile(path));
  }
  return hash.digest("hex");
}

export const checkpoints = async (run: string) =>
  (await readdir(at(run))).filter((name) => name.startsWith("step-")).sort();
export const stepName = (step: number) => `step-${String(step).padStart(8, "0")}`;

export async function logLines(run: string): Promise<Record<string, unknown>[]> {
  const text = await readFile(at(run, "log.jsonl"), "utf8").catch(() => "");
  return text.split("\n").slice(0, -1).map((line) => JSON.parse(line) as Record<string, unknown>); // prettier-ignore
}

/** Resolves once the run has logged `steps` steps. */
export async function logged(run: string, steps: number): Promise<void> {
  while ((await logLines(run).catch(() => [])).length < steps) await new Promise((resolve) => setTimeout(resolve, 5));
}

export const tensors = async (run: string, step: number, file: string) =>
  readSafetensors(await readFile(at(run, stepName(step), file)), file).tensors;

/** Fails unless the two runs logged the same lines and ended with the same bits. */
export async function expectSameRun(got: string, want: string): Promise<void> {
  for (const file of [
    "log.jsonl",
    ...["model.safetensors", "optimizer.safetensors", "state.json"].map((name) => join(stepName(STEPS), name)),
  ]) {
    expect((await readFile(at(got, file))).equals(await readFile(at(want, file))), `${got}: ${file}`).toBe(true);
  }
}

async function makeFiles(): Promise<void> {
  for (const name of ["images", "masks", "empty", "text", "uniform", "pixel"]) await mkdir(at(name));
  for (let i = 0; i < 5; i++) {
    const { width, height, pixels } = deadLeaves(48, 40, Rng.of(5, i));
    const bytes = Uint8Array.from(pixels, (v) => Math.round(255 * v));
    const picture = sharp(bytes, { raw: { width, height, channels: 3 } });
    await (i % 2 === 0
      ? picture.png().toFile(at("images", `${i}.png`))
      : picture.jpeg().toFile(at("images", `${i}.jpg`)));
    await writeMaskPng(at("masks", `${i}.png`), generateMask(64, 64, Rng.of(6, i)));
  }
  const whole = await readFile(at("images", "1.jpg"));
  await writeFile(at("images", "truncated.jpg"), whole.subarray(0, whole.length >> 1));
  await writeMaskPng(at("masks", "allHole.png"), { width: 8, height: 8, values: new Uint8Array(64) });
  await writeMaskPng(at("uniform", "hole.png"), { width: 8, height: 8, values: new Uint8Array(64) });
  await writeMaskPng(at("uniform", "valid.png"), { width: 8, height: 8, values: new Uint8Array(64).fill(1) });
  await writeFile(at("text", "a.png"), "this is no picture");
  await sharp({ create: { width: 1, height: 1, channels: 3, background: "#c04020" } }).png().toFile(at("pixel", "a.png")); // prettier-ignore
  await writeFile(at("vgg.safetensors"), writeSafetensors(tinyVggState()));
  const header = Buffer.alloc(10);
  header.writeBigUInt64LE(2n ** 60n);
  await writeFile(at("hugeHeader.safetensors"), header);
  // A pickle that asks for os.system("exit"): protocol 2, GLOBAL, text, TUPLE1, REDUCE, STOP.
  await writeFile(at("hostile.pth"), Buffer.from("\x80\x02cos\nsystem\nX\x04\0\0\0exit\x85R.", "latin1"));
}

/** Gives each test file a folder of its own with pictures, masks and weights, good and bad. */
export function useTrainFolder(): void {
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), "pconv-train-"));
    await makeFiles();
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));
}

/** All six terms, pictures and masks from folders with a broken file in each, validation. */
export const FOLDERS = [
  "--train",
  "images",
  "--masks",
  "masks",
  "--validation",
  "images",
  "--vgg-path",
  "vgg.safetensors",
  "--batch-size",
  "2",
];
export const DRAWN = ["--no-vgg"];
export const INTERVALS = ["--steps", String(STEPS), "--save-every", "2"];
