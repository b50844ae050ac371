/**
 * A graphics processor of its own for each rank of a host that has several. Linux only.
 *
 * Dawn takes the first device that Vulkan lists, or one by its name, which several cards of one kind share. What lists another one first
 * is Mesa's device-select layer, which works for every vendor's driver and is installed with Mesa's Vulkan drivers: DRI_PRIME names the
 * card by its place on the PCI bus, and the `!` behind it hides the others. Without that layer all ranks of the host get the same card.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Launch } from "../src/io/mpi/launcher.js";

/** Display controllers: VGA and 3D. Cards for computing are the second. */
const GPU_CLASS = /^0x030[02]/;
const NVIDIA = "0x10de";
const AMD = "0x1002";

/** What a user has set to choose a device wins. */
const CHOSEN_BY_USER = ["DRI_PRIME", "MESA_VK_DEVICE_SELECT", "VK_DRIVER_FILES", "VK_ICD_FILENAMES"];

/**
 * The places of the host's cards of one vendor, as DRI_PRIME names them; those of processors and of remote consoles do not count.
 * @param root where the system lists PCI devices and NVIDIA's driver its cards, of which a container may have some only
 */
export function cards(root = "/"): string[] {
  const devices = join(root, "sys/bus/pci/devices");
  const nvidia = join(root, "proc/driver/nvidia/gpus");
  const found = new Map<string, string[]>([[NVIDIA, []], [AMD, []]]); // prettier-ignore
  if (!existsSync(devices)) return [];
  for (const address of readdirSync(devices).sort()) {
    const read = (file: string) => readFileSync(join(devices, address, file), "utf8").trim();
    const vendor = read("vendor");
    if (!GPU_CLASS.test(read("class")) || (vendor === NVIDIA && !existsSync(join(nvidia, address)))) continue;
    found.get(vendor)?.push(`pci-${address.replaceAll(/[:.]/g, "_")}`);
  }
  return [...found.values()].sort((a, b) => b.length - a.length)[0];
}

/** Makes the rank's card the one that Vulkan lists, before a device is opened. */
export function takeOwnCard({ localRank }: Launch, env = process.env, root = "/"): void {
  if (localRank === null || CHOSEN_BY_USER.some((name) => env[name] !== undefined)) return;
  const all = cards(root);
  if (all.length < 2) return;
  env["DRI_PRIME"] = `${all[localRank % all.length]}!`;
  delete env["NODEVICE_SELECT"]; // which switches the layer off
}
