/** The commands `pconv` and `pconv-bench` as users run them: compiled, in a process of their own. */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { PNG } from "pngjs";
import { afterAll, describe, expect, it } from "vitest";
import type { Measurement } from "../../bench/measure.js";
import { choose } from "../../bench/plan.js";

const COMMANDS = fileURLToPath(new URL("../../dist/tools/", import.meta.url));

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(line: string, environment: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const [name, ...args] = line.split(" ");
  const child = spawn(process.execPath, [join(COMMANDS, `${name}.js`), ...args], {
    env: { ...process.env, ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (text) => (stdout += text));
  child.stderr.on("data", (text) => (stderr += text));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status) => resolve({ status, stdout, stderr }));
  });
}

const linesOf = (outcome: Outcome) =>
  outcome.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Measurement);

const folder = mkdtempSync(join(tmpdir(), "pconv-e2e-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Exit status 2 and two lines, the second of help; no stack trace. */
function expectRefusal(outcome: Outcome, ...words: readonly string[]): void {
  expect(outcome.stdout).toBe("");
  expect(outcome.status).toBe(2);
  const lines = outcome.stderr.trim().split("\n");
  expect(lines).toHaveLength(2);
  expect(lines[1]).toMatch(/^help: /);
  for (const word of words) expect(outcome.stderr).toContain(word);
}

describe("pconv doctor", () => {
  it("names the adapter and the versions, and computes", async () => {
    const outcome = await run("pconv doctor --json");
    expect(outcome.status).toBe(0);
    const found = JSON.parse(outcome.stdout) as Record<string, unknown>;
    expect(found).toMatchObject({ node: process.version, problem: null, computeCheck: { passed: true } });
    expect(found["dawn"]).toMatch(/^\d+\.\d+\.\d+$/);
    expect(found["package"]).toMatch(/^\d+\.\d+\.\d+$/);
    const cache = found["cache"] as { folder: string; downloads: { files: number } };
    expect(cache.folder).toMatch(/pconv-webgpu$/);
    expect(cache.downloads.files).toBeGreaterThanOrEqual(0);
    const adapter = found["adapter"] as { name: string; limits: Record<string, number> };
    expect(adapter.name).not.toBe("");
    expect(adapter.limits["maxStorageBufferBindingSize"]).toBeGreaterThanOrEqual(2 ** 27);
  });

  it("counts what the cache holds", async () => {
    const downloads = join(folder, "cache", "pconv-webgpu", "downloads");
    mkdirSync(downloads, { recursive: true });
    writeFileSync(join(downloads, "a.pth"), "12345");
    // Without an adapter: the driver's own cache would move too, and everything compile anew.
    const missing = { VK_DRIVER_FILES: "/nonexistent/driver.json", VK_ICD_FILENAMES: "/nonexistent/driver.json" };
    const { stdout } = await run("pconv doctor --json", { XDG_CACHE_HOME: join(folder, "cache"), ...missing });
    const { cache } = JSON.parse(stdout) as { cache: unknown };
    expect(cache).toMatchObject({
      folder: join(folder, "cache", "pconv-webgpu"),
      downloads: { files: 1, bytes: 5 },
      tuning: { files: 0, bytes: 0 },
    });
  });

  it("prints the same for people", async () => {
    const { status, stdout } = await run("pconv doctor");
    expect(status).toBe(0);
    for (const word of ["adapter  ", "cache  ", "shader-f16", "largest tensor", "compute check", "passed"]) {
      expect(stdout).toContain(word);
    }
  });

  it.runIf(process.platform === "linux")("says what to do when there is no adapter, and exits with 2", async () => {
    const missing = "/nonexistent/driver.json";
    const outcome = await run("pconv doctor --json", { VK_DRIVER_FILES: missing, VK_ICD_FILENAMES: missing });
    expect(outcome.status).toBe(2);
    expect(JSON.parse(outcome.stdout)).toMatchObject({
      adapter: null,
      computeCheck: null,
      problem: "openGpu: expected a WebGPU adapter, got none",
      chosenDrivers: `VK_DRIVER_FILES=${missing}`,
    });
    expect(outcome.stderr).toMatch(/help: unset VK_DRIVER_FILES/);
  });
});

describe("pconv masks", () => {
  /** Name to bytes. */
  const files = (path: string) =>
    Object.fromEntries(readdirSync(path).map((name) => [name, readFileSync(join(path, name)).toString("base64")]));

  it("writes white holes whose share it reports, the same for the same seed", async () => {
    const [a, b, c] = ["a", "b", "c"].map((name) => join(folder, name));
    const outcome = await run(`pconv masks --count 4 --size 96x64 --out ${a} --seed 5 --json`);
    expect(outcome.status).toBe(0);
    const said = JSON.parse(outcome.stdout) as {
      meanHoleRatio: number;
      bins: { bin: string; count: number }[];
      outside: number;
    };
    expect(said).toMatchObject({ count: 4, width: 96, height: 64, seed: 5, holes: "white", folder: a });
    expect(said.bins.map(({ bin }) => bin)).toEqual([
      "0.01-0.1",
      "0.1-0.2",
      "0.2-0.3",
      "0.3-0.4",
      "0.4-0.5",
      "0.5-0.6",
    ]);
    expect(said.bins.reduce((sum, { count }) => sum + count, said.outside)).toBe(4);
    const names = readdirSync(a);
    expect(names).toEqual(["mask-00000.png", "mask-00001.png", "mask-00002.png", "mask-00003.png"]);
    const ratios = names.map((name) => {
      const { width, height, data: rgba } = PNG.sync.read(readFileSync(join(a, name)));
      expect([width, height]).toEqual([96, 64]);
      const grays = Array.from({ length: width * height }, (_, i) => rgba[4 * i]);
      expect(grays.every((v) => v === 0 || v === 255)).toBe(true);
      return grays.filter((v) => v === 255).length / grays.length;
    });
    expect(said.meanHoleRatio).toBeCloseTo(ratios.reduce((x, y) => x + y) / 4, 12);

    await run(`pconv masks --count 2 --size 96x64 --out ${b} --seed 5`);
    await run(`pconv masks --count 2 --size 96x64 --out ${c} --seed 6`);
    const first = files(a);
    expect(files(b)).toEqual({ "mask-00000.png": first["mask-00000.png"], "mask-00001.png": first["mask-00001.png"] });
    expect(files(c)["mask-00000.png"]).not.toBe(first["mask-00000.png"]);
  });

  it("leaves existing files alone unless told otherwise", async () => {
    const out = join(folder, "kept");
    await run(`pconv masks --count 1 --size 32x32 --out ${out}`);
    const before = files(out);
    expectRefusal(await run(`pconv masks --count 3 --size 32x32 --seed 1 --out ${out}`), "mask-00000.png", "--force");
    expect(files(out)).toEqual(before);
    expect((await run(`pconv masks --count 3 --size 32x32 --seed 1 --out ${out} --force`)).status).toBe(0);
    expect(readdirSync(out)).toHaveLength(3);
    expect(files(out)["mask-00000.png"]).not.toBe(before["mask-00000.png"]);
  });

  it("takes an empty name for no folder", async () => {
    expectRefusal(await run("pconv masks --count 1 --size 32x32 --out "), "--out: expected a path");
    expectRefusal(await run("pconv convert  out.onnx"), "<in>: expected a path");
  });

  it.each([
    ["--count 0 --size 64x64", "at least 1"],
    ["--count 2 --size 64", "WIDTHxHEIGHT"],
    ["--count 2 --size 0x64", "WIDTHxHEIGHT"],
    ["--count 2 --size 64x64 --seed x", "got x"],
    ["--size 64x64", "--count"],
  ])("refuses %s and writes nothing", async (options, word) => {
    const out = join(folder, "refused");
    expectRefusal(await run(`pconv masks ${options} --out ${out}`), word);
    expect(readdirSync(folder)).not.toContain("refused");
  });
});

describe("pconv-bench", () => {
  it("measures every kernel and pass of a shape, right and below the peak", async () => {
    const outcome = await run("pconv-bench --shape odd --repeat 1 --json");
    expect(outcome.stderr).not.toContain("rejected");
    expect(outcome.status).toBe(0);
    const [fma, copy, ...lines] = linesOf(outcome);
    expect(fma.kernel).toBe("fmaPeak");
    expect(copy.kernel).toBe("copyPeak");
    const name = (m: Pick<Measurement, "kernel" | "pass" | "holes">) => [m.kernel, m.pass, m.holes].join(" ");
    expect(lines.map(name)).toEqual(choose({ shape: "odd" }).flat().map(name));
    for (const m of lines) {
      expect(m).toMatchObject({ shape: "odd", impl: "ours", adapter: fma.adapter });
      expect(m.checked).toBeGreaterThan(0);
      expect(m.minMs).toBeGreaterThan(0);
      expect(m.medianMs).toBeGreaterThanOrEqual(m.minMs!);
      expect(m.shareOfPeak ?? 0).toBeLessThan(1);
      expect(m.maxError!).toBeLessThan(1e-5);
      expect(m.speedUp!).toBeGreaterThan(0);
    }
  });

  it("measures the backend that is asked for at all hole shares, and prints a table", async () => {
    const options = "--shape odd --kernel pconvForward --backend simple --holes --repeat 1";
    const { status, stdout } = await run(`pconv-bench ${options}`);
    expect(status).toBe(0);
    expect(stdout).toContain("FMA peak");
    expect(stdout).toContain("EXTRAPOLATED");
    const rows = [...stdout.matchAll(/^pconvForward +odd +forward +ours +(-|\d+ %)/gm)];
    expect(rows.map(([, holes]) => holes)).toEqual(["-", "0 %", "25 %", "50 %"]);
  });

  it.each([
    ["--kernel conv", "pconvForward, pconvBackwardInput, pconvBackwardWeight, pconvUp, maskUpdate, batchNorm"],
    ["--shape F", "A, B, C, D, E, small, odd"],
    ["--pass backward", "forward, dx, dw"],
    ["--backend fast", "simple, register, subgroup, workgroup, matrix"],
    ["--kernel pconvForward --pass dw", "its passes: forward"],
    ["--kernel batchNorm --backend simple", "are for the convolutions"],
    ["--shape odd --network", "leave it out"],
    ["--repeat 0", "at least 1"],
    ["--network --vgg-path absent.pth", "no such file"],
  ])("refuses %s, and lists what there is", async (options, words) => {
    expectRefusal(await run(`pconv-bench ${options}`), words);
  });
});
