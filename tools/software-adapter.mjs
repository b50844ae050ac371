/**
 * Facts about software adapters that both the library (before it is installed anywhere, from TypeScript) and
 * `setup-adapter.mjs` (before anything is built) need: which system this is, what to install on it, and how to use the
 * SwiftShader that setup put into the cache folder. Plain JavaScript for that reason; types in `software-adapter.d.mts`.
 */
import { existsSync, readFileSync } from "node:fs";
import { constants, homedir } from "node:os";
import { join, relative } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { isMainThread } from "node:worker_threads";

/** The npm package that SwiftShader is taken from; its tarball must have this digest. */
export const SWIFTSHADER = Object.freeze({
  spec: "@sparticuz/chromium@143.0.4",
  version: "143.0.4",
  tarballMegabytes: 67,
  integrity: "sha512-/6I7uQTRhRDD2/gGPQ1Gkf+Dqk0RYDACPJDZfSzz0OWk4JmUTonNHPXbrn6UIklOHlnDLf8xAAzkOZKB/cJpLA==",
  archive: "package/bin/swiftshader.tar.br",
  files: Object.freeze(["libvk_swiftshader.so", "libvulkan.so.1", "vk_swiftshader_icd.json"]),
});

/** glibc's dlopen flag that keeps a library loaded after dlclose; Node has no constant for it. */
const RTLD_NODELETE = 0x1000;

/** The Vulkan loader's settings that replace its search for drivers, and the one that adds to it. */
const REPLACES_DRIVERS = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];
const ADDS_DRIVERS = "VK_ADD_DRIVER_FILES";

export function cacheFolder() {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "pconv-webgpu");
}

export function swiftShaderFolder() {
  return join(cacheFolder(), `swiftshader-${SWIFTSHADER.version}`);
}

export function isSwiftShaderCached() {
  return SWIFTSHADER.files.every((name) => existsSync(join(swiftShaderFolder(), name)));
}

/** Whether the cached SwiftShader's binaries run here: they are built for Linux with glibc on x86-64. */
export function canRunSwiftShader() {
  return process.platform === "linux" && process.arch === "x64" && !existsSync("/etc/alpine-release");
}

/** The user's own choice of Vulkan drivers as `NAME=value`, or undefined; our own setting does not count. */
export function chosenDrivers() {
  const ours = join(swiftShaderFolder(), "vk_swiftshader_icd.json");
  const name = REPLACES_DRIVERS.find((name) => process.env[name] && process.env[name] !== ours);
  return name && `${name}=${process.env[name]}`;
}

export function hasVulkanLoader() {
  return process.platform !== "linux" || keepLoaded("libvulkan.so.1");
}

export function enableCachedSwiftShader() {
  if (!canRunSwiftShader() || !isSwiftShaderCached() || chosenDrivers() !== undefined) return false;
  const folder = swiftShaderFolder();
  const driver = join(folder, "vk_swiftshader_icd.json");
  let settings = REPLACES_DRIVERS;
  if (!hasVulkanLoader()) {
    // Dawn opens the loader by name; glibc then finds the one that is in memory under that name.
    if (!keepLoaded(join(folder, SWIFTSHADER.files[1]))) return false;
    // Nobody has seen this machine's drivers yet: add ours to them, so that a real one still shows.
    settings = [ADDS_DRIVERS];
  }
  // A worker's process.env is a copy that drivers never see; it works there when the main thread did this before.
  if (!isMainThread) return settings.every((name) => process.env[name] === driver);
  for (const name of settings) process.env[name] = driver;
  return true;
}

/** The command that sets up a software adapter, from the current folder. */
export function setupCommand() {
  return `node ${relative(".", fileURLToPath(new URL("./setup-adapter.mjs", import.meta.url)))}`;
}

/** Loads a shared library for good; false if there is none. */
function keepLoaded(library) {
  try {
    process.dlopen({ exports: {} }, library, constants.dlopen.RTLD_NOW | constants.dlopen.RTLD_GLOBAL | RTLD_NODELETE);
    return true;
  } catch (error) {
    // It was loaded, and Node complains only that it is no addon; every other message is of the dynamic linker.
    return error instanceof Error && error.message.startsWith("Module did not self-register");
  }
}

/**
 * What kind of system this is.
 * @param {string} [osRelease] text of an os-release file (default: this machine's)
 */
export function describeSystem(osRelease = readOsRelease()) {
  const fields = new Map();
  for (const line of osRelease.split("\n")) {
    const match = /^(\w+)=(?:"([^"]*)"|'([^']*)'|(.*))$/.exec(line.trim());
    if (match) fields.set(match[1], match[2] ?? match[3] ?? match[4]);
  }
  const families = [fields.get("ID") ?? "", ...(fields.get("ID_LIKE") ?? "").split(" ")];
  const known = ["alpine", "debian", "ubuntu", "fedora", "rhel", "arch", "suse"];
  const family = known.find((name) => families.some((word) => word === name || word.startsWith(`${name}-`)));
  return {
    name: fields.get("PRETTY_NAME") ?? process.platform,
    family: family === "ubuntu" ? "debian" : family === "rhel" ? "fedora" : (family ?? "other"),
    // Debian itself only: a derivative's code name says nothing of Debian's archive.
    debianCodename: fields.get("ID") === "debian" ? fields.get("VERSION_CODENAME") : undefined,
  };
}

function readOsRelease() {
  try {
    return readFileSync("/etc/os-release", "utf8");
  } catch {
    return ""; // not Linux, or a Linux that does not say what it is
  }
}

/**
 * What to install so that Dawn finds an adapter, in one line.
 * @param {{ platform?: NodeJS.Platform, system?: ReturnType<typeof describeSystem>, chosen?: string }} [about] default: here
 */
export function installAdvice({
  platform = process.platform,
  system = describeSystem(),
  chosen = chosenDrivers(),
} = {}) {
  if (chosen !== undefined)
    return `unset ${chosen.split("=")[0]}, or set it to the JSON file of a Vulkan driver that works`;
  if (platform === "darwin") return "nothing is to be installed on macOS; run on a machine with a Metal GPU";
  if (platform === "win32") return "nothing is to be installed on Windows; update the driver of the graphics card";
  const real = "for a real GPU install its maker's Vulkan driver";
  const apt = "apt-get install -y --no-install-recommends";
  if (system.debianCodename === "bookworm") {
    return (
      "as root: add Debian's bookworm-backports to the apt sources, apt-get update && " +
      `${apt} -t bookworm-backports mesa-vulkan-drivers (the Mesa 22.3 of Debian 12 itself is too old); ${real}`
    );
  }
  switch (system.family) {
    case "debian":
      return `as root: apt-get update && ${apt} mesa-vulkan-drivers; ${real}`;
    case "fedora":
      return `as root: dnf install -y mesa-vulkan-drivers vulkan-loader; ${real}`;
    case "arch":
      return `as root: pacman -S vulkan-swrast vulkan-icd-loader; ${real}`;
    case "suse":
      return `as root: zypper install -y libvulkan1 libvulkan_lvp; ${real}`;
    case "alpine":
      return "use a Linux with glibc (a Debian container, say): Dawn is not built for Alpine's musl";
    default:
      return `install the Vulkan loader (libvulkan.so.1) and Mesa's software driver (lavapipe); ${real}`;
  }
}
