#!/usr/bin/env node
/**
 * Makes sure that Dawn finds a WebGPU adapter, before anything is built: `npm test` and `npm run demo` run this first.
 *
 * If there is an adapter, real or software, it says which and changes nothing. If there is none on Linux, it installs
 * Mesa's software driver (as root, with apt-get) or else puts SwiftShader into the user's cache folder, where
 * `src/gpu/softwareAdapter.ts` finds it. `PCONV_ADAPTER_SETUP=skip` skips all of it. Progress goes to stderr.
 *
 * Exit status: 0 there is an adapter (or skipped), 2 there is none and it says what to install, 1 a fault of this script.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync } from "node:fs";
import { renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import * as shared from "./software-adapter.mjs";

const SELF = fileURLToPath(import.meta.url);
const APT = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };

/** A failure with the two lines of the library's error style. */
class SetupError extends Error {
  constructor(problem, help) {
    super(`setup-adapter: ${problem}\nhelp: ${help}`);
  }
}

if (process.argv[2] === "--probe") await printAdapter();
else {
  try {
    await setUp();
  } catch (error) {
    console.error(error instanceof SetupError ? error.message : error);
    process.exitCode = error instanceof SetupError ? 2 : 1;
  }
}

async function setUp() {
  if (process.env.PCONV_ADAPTER_SETUP === "skip") return say("skipped, as PCONV_ADAPTER_SETUP says");
  const first = probe();
  if (first) return report(first);
  const chosen = shared.chosenDrivers();
  if (chosen !== undefined) {
    throw new SetupError(`expected a WebGPU adapter, got none with ${chosen}`, shared.installAdvice());
  }
  if (process.platform !== "linux") throw noAdapter();

  say("Dawn finds no WebGPU adapter on this machine; a software adapter (slow, but complete) will stand in for a GPU.");
  if (canInstallPackages()) {
    installMesa();
    const installed = probe();
    if (installed) return report(installed);
    say("apt-get did not give an adapter that Dawn accepts.");
  }
  if (!shared.canRunSwiftShader()) throw noAdapter();
  await fetchSwiftShader();
  const fetched = probe();
  if (!fetched) throw noAdapter();
  report(fetched);
}

function noAdapter() {
  return new SetupError("expected a WebGPU adapter, got none", shared.installAdvice());
}

function say(line) {
  console.error(`setup: ${line}`);
}

function report(adapter) {
  say(
    `adapter ${adapter.name}${adapter.software ? " (software)" : ""}${adapter.cached ? `, from ${shared.cacheFolder()}` : ""}`,
  );
  if (adapter.software && existsSync("/dev/nvidiactl")) {
    say("there is an NVIDIA GPU, but not its Vulkan driver (in a container: NVIDIA_DRIVER_CAPABILITIES=all)");
  }
}

// ---- asking Dawn ----

/** Asks in a child process, because a driver that is installed later shows only to a process started later. */
function probe() {
  const child = spawnSync(process.execPath, [SELF, "--probe"], { encoding: "utf8", timeout: 120_000 });
  if (child.signal) {
    say(`asking Dawn for an adapter ended with ${child.signal}; taken as none`);
    return null;
  }
  const answer = child.stdout.split("\n").find((line) => line.startsWith("{"));
  if (child.status !== 0 || answer === undefined) {
    const reason = child.stderr.split("\n").find((line) => /Error/.test(line)) ?? `exit status ${child.status}`;
    const missing = reason.includes("Cannot find package");
    const help = missing
      ? "run npm ci first"
      : "Dawn needs Linux with glibc 2.34 and GCC 12 libraries or newer, macOS or Windows, on x64 or arm64";
    throw new SetupError(`expected the package webgpu to load, got ${reason.trim()}`, help);
  }
  return JSON.parse(answer).adapter;
}

async function printAdapter() {
  const { create } = await import("webgpu");
  // Dawn's instances must outlive their adapters, and this process does not live long: never let go of one.
  const instances = [];
  const ask = async () => {
    const instance = create([]);
    instances.push(instance);
    const first = await instance.requestAdapter({ powerPreference: "high-performance" });
    if (!first?.info.isFallbackAdapter) return first;
    // Where a software adapter is listed first, the other power class may still hold a real one.
    const second = await instance.requestAdapter({ powerPreference: "low-power" });
    return second?.info.isFallbackAdapter === false ? second : first;
  };
  let adapter = await ask();
  const cached = !adapter && shared.enableCachedSwiftShader();
  if (cached) adapter = await ask();
  const info = adapter?.info;
  const found = info && {
    name: info.description || info.device || info.vendor,
    software: info.isFallbackAdapter === true,
    cached,
  };
  console.log(JSON.stringify({ adapter: found ?? null }));
  process.exit(0); // without waiting for the driver's threads; also keeps `instances` alive until here
}

// ---- Mesa, by apt-get ----

function canInstallPackages() {
  if (process.getuid?.() !== 0) return false;
  return spawnSync("apt-get", ["--version"]).status === 0;
}

/** Runs apt-get with its output on stderr; true if it succeeded. */
function aptGet(...args) {
  return (
    spawnSync("apt-get", ["-q", "-o", "DPkg::Lock::Timeout=120", ...args], { env: APT, stdio: ["ignore", 2, 2] })
      .status === 0
  );
}

function installMesa() {
  const backports = shared.describeSystem().debianCodename === "bookworm" ? "bookworm-backports" : undefined;
  say(
    "installing the package mesa-vulkan-drivers (Mesa's software driver lavapipe, and the Vulkan loader) with apt-get.",
  );
  if (!aptGet("update")) say("apt-get update failed; trying with the package lists that are here.");
  const install = ["install", "-y", "--no-install-recommends"];
  if (backports === undefined) {
    const version = candidateVersion();
    // 22.0.1 and 22.3.6 were refused, 23.2.1 and later accepted.
    if (/^([0-9]|1[0-9]|2[0-2])\./.test(version)) say(`Mesa ${version}, all that apt has here, is too old for Dawn.`);
    else aptGet(...install, "mesa-vulkan-drivers");
    return;
  }
  say("Debian 12's own Mesa 22.3 is too old for Dawn: taking it from bookworm-backports.");
  install.push("-t", backports, "mesa-vulkan-drivers");
  if (listTargets().some((target) => target.codename === backports)) {
    aptGet(...install);
    return;
  }
  const parts = sourcesWith(backports);
  try {
    say("the apt sources lack it: adding it for this installation only (the files in /etc/apt stay as they are).");
    const option = ["-o", `Dir::Etc::SourceParts=${parts}`];
    if (aptGet(...option, "update")) aptGet(...option, ...install);
  } finally {
    rmSync(parts, { recursive: true, force: true });
  }
}

/** The version of Mesa's drivers that apt would install, without its epoch; empty if it has none. */
function candidateVersion() {
  const child = spawnSync("apt-cache", ["policy", "mesa-vulkan-drivers"], {
    encoding: "utf8",
    env: { ...APT, LC_ALL: "C" },
  });
  return /Candidate: (?:\d+:)?(\S+)/.exec(child.stdout)?.[1] ?? "";
}

/** Debian's package lists that apt knows, as it parsed its own sources. */
function listTargets() {
  const format = "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(SIGNED_BY)";
  const child = spawnSync("apt-get", ["indextargets", "--format", format, "Created-By: Packages"], {
    encoding: "utf8",
  });
  return child.stdout
    .split("\n")
    .map((line) => line.split("|"))
    .filter(([origin]) => origin === "Debian")
    .map(([, codename, uri, signedBy]) => ({ codename, uri, signedBy }));
}

/** A copy of apt's folder of sources, plus one for `release` on the mirror (and with the key) that this machine uses. */
function sourcesWith(release) {
  const folder = mkdtempSync(join(tmpdir(), "pconv-apt-"));
  const own = "/etc/apt/sources.list.d";
  for (const name of existsSync(own) ? readdirSync(own) : []) copyFileSync(join(own, name), join(folder, name));
  const target = listTargets().find(({ codename }) => codename === "bookworm");
  // A file name or a fingerprint; a whole key written into a source is left out, and apt uses its trusted keys.
  const signedBy = /^[\w./,-]+$/.test(target?.signedBy ?? "") ? `[signed-by=${target.signedBy}] ` : "";
  const uri = target?.uri ?? "http://deb.debian.org/debian";
  writeFileSync(join(folder, "pconv-webgpu-backports.list"), `deb ${signedBy}${uri} ${release} main\n`);
  return folder;
}

// ---- SwiftShader, from npm ----

async function fetchSwiftShader() {
  const { spec, tarballMegabytes, integrity, archive, files } = shared.SWIFTSHADER;
  const folder = shared.swiftShaderFolder();
  say(`fetching SwiftShader, a software driver, from the npm package ${spec} (${tarballMegabytes} MB)`);
  say(`into ${folder}; nothing else on this system changes, and deleting that folder undoes it.`);
  let staging;
  try {
    mkdirSync(shared.cacheFolder(), { recursive: true });
    staging = mkdtempSync(join(shared.cacheFolder(), "partial-"));
  } catch (error) {
    throw new SetupError(
      `expected a cache folder that can be written, got ${error.message}`,
      `set XDG_CACHE_HOME to one, or ${shared.installAdvice()}`,
    );
  }
  try {
    const tarball = await download(spec, staging);
    const digest = `sha512-${createHash("sha512").update(tarball).digest("base64")}`;
    if (digest !== integrity) {
      throw new SetupError(
        `${spec}: expected ${integrity}, got ${digest}`,
        "the download is damaged or forged: try again, or ask your registry's keeper",
      );
    }
    const [driver] = unpack(gunzipSync(tarball), [archive]);
    const ready = join(staging, "ready");
    mkdirSync(ready);
    unpack(brotliDecompressSync(driver), files).forEach((bytes, i) => writeFileSync(join(ready, files[i]), bytes));
    // An earlier one that was there and whole would have been found: what is in the way is broken.
    if (!shared.isSwiftShaderCached()) rmSync(folder, { recursive: true, force: true });
    if (!existsSync(folder)) renameSync(ready, folder);
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

/** The package's tarball, by npm itself, so that its registry, proxy and certificate settings hold. */
async function download(spec, folder) {
  const cache = join(folder, "npm"); // its own, to count what has arrived and to leave no second copy
  const args = ["pack", spec, "--pack-destination", folder, "--cache", cache, "--loglevel", "error", "--no-progress"];
  const npm = process.env.npm_execpath;
  // npm_execpath may be another package manager's when that runs this script.
  const [command, ...before] = npm && /npm-cli\.c?js$/.test(npm) ? [process.execPath, npm] : ["npm"];
  const child = spawn(command, [...before, ...args], { stdio: ["ignore", "ignore", "pipe"] });
  let complaint = "";
  child.stderr.on("data", (text) => (complaint += text));
  const started = Date.now();
  const timer = setInterval(() => {
    const seconds = Math.round((Date.now() - started) / 1000);
    // npm writes a second copy at the end, which is not more to come.
    const megabytes = Math.min(folderBytes(folder) / 1e6, shared.SWIFTSHADER.tarballMegabytes);
    say(`  ${megabytes.toFixed(0)} of ${shared.SWIFTSHADER.tarballMegabytes} MB, ${seconds} s`);
  }, 2000);
  const status = await new Promise((resolve) => {
    child.on("error", (error) => ((complaint += error.message), resolve(1)));
    child.on("close", resolve);
  });
  clearInterval(timer);
  const name = readdirSync(folder).find((name) => name.endsWith(".tgz"));
  if (status !== 0 || name === undefined) {
    const reason = complaint.trim().split("\n")[0] || `exit status ${status}`;
    throw new SetupError(
      `expected npm to download ${spec}, got: ${reason}`,
      `check the network, or ${shared.installAdvice()}`,
    );
  }
  return readFileSync(join(folder, name));
}

function folderBytes(folder) {
  try {
    const entries = readdirSync(folder, { withFileTypes: true, recursive: true }).filter((entry) => entry.isFile());
    return entries.reduce((sum, entry) => sum + statSync(join(entry.parentPath ?? entry.path, entry.name)).size, 0);
  } catch {
    return 0; // npm moved a file while we looked; the next line counts it
  }
}

/** The contents of the named files of a tar archive (POSIX ustar), in the order of `names`. */
function unpack(tar, names) {
  const text = (from, length) => tar.toString("latin1", from, from + length).replace(/[\0 ][^]*$/, "");
  const found = new Map();
  for (let at = 0; at + 512 <= tar.length && tar[at] !== 0;) {
    const size = Number.parseInt(text(at + 124, 12), 8);
    const name = text(at, 100).replace(/^\.\//, "");
    if (names.includes(name)) found.set(name, tar.subarray(at + 512, at + 512 + size));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return names.map((name) => {
    const bytes = found.get(name);
    if (bytes === undefined) throw new Error(`${name} is not in the archive`);
    return bytes;
  });
}
