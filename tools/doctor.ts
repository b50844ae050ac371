/** `pconv doctor`: what this machine offers, whether it computes rightly, and what to install when it does not. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { arch, platform, release } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { UserError } from "../src/errors.js";
import type { Gpu } from "../src/gpu/gpu.js";
import { adapterHelp, hasVulkanLoader } from "../src/gpu/softwareAdapter.js";
import { cacheFolder, chosenDrivers, describeSystem } from "#software-adapter";

const FEATURES: Readonly<Record<string, string>> = {
  "shader-f16": "half precision",
  subgroups: "exchange between lanes",
  "timestamp-query": "times of single passes",
};

const LIMITS = {
  maxStorageBufferBindingSize: "largest tensor, bytes",
  maxBufferSize: "largest buffer, bytes",
  maxComputeWorkgroupStorageSize: "workgroup memory, bytes",
  maxComputeInvocationsPerWorkgroup: "invocations per workgroup",
  maxComputeWorkgroupsPerDimension: "workgroups per dimension",
} as const;

interface Machine {
  readonly package: string;
  readonly node: string;
  readonly platform: string;
  readonly system: string;
  /** Version of the npm package `webgpu` that brings Dawn, or why it is not there. */
  readonly dawn: string;
  /** Null where Dawn needs none. */
  readonly vulkanLoader: boolean | null;
  /** The environment variable that says which Vulkan drivers to use. */
  readonly chosenDrivers: string | null;
  readonly cache: Cache;
}

/** What this package keeps between runs; XDG_CACHE_HOME moves it, and deleting it loses nothing but time. */
interface Cache {
  readonly folder: string;
  /** Weight files that came by URL. */
  readonly downloads: Contents;
  /** The fastest kernels found on each adapter. */
  readonly tuning: Contents;
}

interface Contents {
  readonly files: number;
  readonly bytes: number;
}

interface Adapter {
  readonly name: string;
  readonly vendor: string;
  readonly description: string;
  readonly software: boolean;
  readonly features: Readonly<Record<string, boolean>>;
  readonly limits: Readonly<Record<string, number>>;
}

/** A partial convolution on the adapter against its reference. */
interface ComputeCheck {
  readonly passed: boolean;
  /** Largest difference, relative to the largest entry; null for NaN. */
  readonly maxError: number | null;
  /** With compilation. */
  readonly milliseconds: number;
}

interface Findings extends Machine {
  readonly adapter: Adapter | null;
  readonly computeCheck: ComputeCheck | null;
  readonly problem: string | null;
  readonly help: string | null;
}

const require = createRequire(import.meta.url);

function versionOf(packageName: string): string {
  try {
    const text = readFileSync(require.resolve(`${packageName}/package.json`), "utf8");
    return (JSON.parse(text) as { version: string }).version;
  } catch {
    return "not installed";
  }
}

/** Files of a folder of the cache; a folder that is not there, or may not be read, has none. */
function contentsOf(folder: string): Contents {
  let [files, bytes] = [0, 0];
  try {
    for (const name of readdirSync(folder)) {
      const found = statSync(join(folder, name), { throwIfNoEntry: false });
      if (!found?.isFile()) continue;
      files++;
      bytes += found.size;
    }
  } catch (error) {
    if (!["ENOENT", "ENOTDIR", "EACCES"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  }
  return { files, bytes };
}

function describeMachine(): Machine {
  const folder = cacheFolder();
  return {
    package: versionOf("pconv-webgpu"),
    node: process.version,
    platform: `${platform()} ${arch()} ${release()}`,
    system: describeSystem().name,
    dawn: versionOf("webgpu"),
    vulkanLoader: platform() === "linux" ? hasVulkanLoader() : null,
    chosenDrivers: chosenDrivers() ?? null,
    cache: { folder, downloads: contentsOf(join(folder, "downloads")), tuning: contentsOf(join(folder, "tuning")) },
  };
}

function describeAdapter(gpu: Gpu): Adapter {
  const { name, vendor, description, software } = gpu.adapter;
  const features = Object.keys(FEATURES).map((f) => [f, gpu.device.features.has(f)]);
  const limits = Object.keys(LIMITS).map((l) => [l, gpu.limits[l as keyof typeof LIMITS]]);
  return {
    name,
    vendor,
    description,
    software,
    features: Object.fromEntries(features) as Record<string, boolean>,
    limits: Object.fromEntries(limits) as Record<string, number>,
  };
}

async function checkCompute(gpu: Gpu): Promise<ComputeCheck> {
  // Here and not above: this file must load where Dawn does not, and the benchmark's parts need its globals.
  const [{ makeConvolution }, { SHAPES }, { MAX_ERROR }] = await Promise.all([
    import("../bench/convolution.js"),
    import("../bench/shapes.js"),
    import("../bench/measure.js"),
  ]);
  const started = performance.now();
  const workload = makeConvolution(gpu, "forward", { layer: SHAPES.get("odd")!, holes: 0.25 });
  try {
    workload.fill(1);
    workload.record();
    const { maxError } = await workload.check();
    return {
      passed: maxError <= MAX_ERROR,
      maxError: Number.isNaN(maxError) ? null : maxError,
      milliseconds: Math.round(performance.now() - started),
    };
  } finally {
    workload.free();
  }
}

/** Opens the GPU; a UserError says why that is not possible. */
async function open(): Promise<Gpu> {
  let node: { openGpu(): Promise<Gpu> };
  try {
    node = await import("../src/gpu/node.js");
  } catch (cause) {
    // The native module is missing or does not fit the system's libraries: no adapter would help.
    const text = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
    throw new UserError(
      "openGpu",
      `expected Dawn (npm package webgpu) to load, got: ${text}`,
      "install the package again on this machine (npm ci, or npm install pconv-webgpu); Dawn needs Linux with glibc 2.36 or newer, macOS or Windows",
      { cause },
    );
  }
  return node.openGpu();
}

async function examine(): Promise<Findings> {
  const machine = describeMachine();
  let gpu: Gpu;
  try {
    gpu = await open();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return {
      ...machine,
      adapter: null,
      computeCheck: null,
      problem: `${error.where}: ${error.problem}`,
      help: error.help,
    };
  }
  try {
    const adapter = describeAdapter(gpu);
    const computeCheck = await checkCompute(gpu);
    if (!computeCheck.passed) {
      const problem = `compute check: expected a partial convolution as its reference has it, got error ${computeCheck.maxError ?? "NaN"}`;
      return { ...machine, adapter, computeCheck, problem, help: `use another adapter or driver: ${adapterHelp()}` };
    }
    const help = adapter.software
      ? `a software adapter: correct but slow; for a GPU install its maker's Vulkan driver`
      : null;
    return { ...machine, adapter, computeCheck, problem: null, help };
  } finally {
    gpu.close();
  }
}

const bytes = (count: number): string =>
  count >= 2 ** 20 ? `${Math.floor(count / 2 ** 20)} MiB` : `${Math.floor(count / 2 ** 10)} KiB`;

function text(f: Findings): string[] {
  const lines: [string, string][] = [
    ["pconv-webgpu", f.package],
    ["node", f.node],
    ["platform", `${f.platform}, ${f.system}`],
    ["Dawn (webgpu)", f.dawn],
    ["Vulkan loader", f.vulkanLoader === null ? "not needed here" : f.vulkanLoader ? "found" : "not found"],
  ];
  if (f.chosenDrivers) lines.push(["drivers chosen by", f.chosenDrivers]);
  const kept = ({ files, bytes: size }: Contents): string => `${files} files, ${bytes(size)}`;
  lines.push(
    ["cache", f.cache.folder],
    ["cached downloads", kept(f.cache.downloads)],
    ["cached tuning", kept(f.cache.tuning)],
  );
  if (!f.adapter || !f.computeCheck) lines.push(["adapter", "none"]);
  else {
    lines.push(["adapter", f.adapter.name], ["description", f.adapter.description]);
    lines.push(["kind", f.adapter.software ? "software, runs on the CPU" : "real GPU"]);
    for (const [name, has] of Object.entries(f.adapter.features)) {
      lines.push([name, `${has ? "yes" : "no"} (${FEATURES[name]})`]);
    }
    for (const [name, what] of Object.entries(LIMITS)) {
      const value = f.adapter.limits[name];
      lines.push([what.replace(", bytes", ""), what.endsWith("bytes") ? bytes(value) : `${value}`]);
    }
    const { passed, maxError, milliseconds } = f.computeCheck;
    const error = maxError === null ? "NaN" : maxError.toExponential(1);
    lines.push([
      "compute check",
      `${passed ? "passed" : "FAILED"}, error ${error}, ${milliseconds} ms with compilation`,
    ]);
  }
  return lines.map(([name, value]) => `${name.padEnd(26)} ${value}`);
}

export function doctorCommand(): Command {
  return new Command("doctor")
    .description(
      "Says which adapter, driver and versions this machine has, where this package keeps files, runs a small partial convolution and checks it, and says what " +
        "to install when there is no adapter. Exit status: 0 all is well, 1 the adapter computes wrongly, 2 there is none.",
    )
    .option("--json", "one JSON line on stdout")
    .option("--debug", "show stack traces")
    .action(async ({ json }: { json?: true }) => {
      const findings = await examine();
      if (json) console.log(JSON.stringify(findings));
      else for (const line of text(findings)) console.log(line);
      if (findings.problem !== null) console.error(`${findings.problem}\nhelp: ${findings.help}`);
      else if (!json && findings.help !== null) console.log(`help: ${findings.help}`);
      if (findings.problem !== null) process.exitCode = findings.adapter ? 1 : 2;
    });
}
