/** Which card each rank of a host takes, on made-up hosts. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { cards, takeOwnCard } from "../../tools/rankAdapter.js";

const roots: string[] = [];
afterEach(async () => {
  for (const root of roots.splice(0)) await rm(root, { recursive: true });
});

/** A host with devices `address class vendor`, of which NVIDIA's driver has some. */
async function host(devices: readonly string[], nvidia: readonly string[] = []): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), "pconv-cards-"));
  roots.push(root);
  for (const device of devices) {
    const [address, kind, vendor] = device.split(" ");
    const dir = join(root, "sys/bus/pci/devices", address);
    await mkdir(dir, { recursive: true });
    await writeFile(join(dir, "class"), `${kind}\n`);
    await writeFile(join(dir, "vendor"), `${vendor}\n`);
  }
  for (const address of nvidia) await mkdir(join(root, "proc/driver/nvidia/gpus", address), { recursive: true });
  return root;
}

const launch = (localRank: number | null) => ({ by: "Open MPI" as const, rank: 0, size: 4, localRank, localSize: 4 });
// File names cannot hold colons on every system.
const onLinux = test.runIf(process.platform === "linux");

onLinux("ranks take one card each, in turns", async () => {
  const console = "0000:02:00.0 0x030000 0x1a03";
  const network = "0000:03:00.0 0x020000 0x10de";
  const gpus = ["0000:17:00.0", "0000:65:00.0"];
  const root = await host([console, network, ...gpus.map((address) => `${address} 0x030200 0x10de`)], gpus);
  expect(cards(root)).toEqual(["pci-0000_17_00_0", "pci-0000_65_00_0"]);
  const chosen = [0, 1, 2].map((localRank) => {
    const env: NodeJS.ProcessEnv = { NODEVICE_SELECT: "1" };
    takeOwnCard(launch(localRank), env, root);
    expect(env["NODEVICE_SELECT"]).toBeUndefined();
    return env["DRI_PRIME"];
  });
  expect(chosen).toEqual(["pci-0000_17_00_0!", "pci-0000_65_00_0!", "pci-0000_17_00_0!"]);
});

onLinux("nothing is chosen where there is no choice, or the user has chosen", async () => {
  const two = ["0000:17:00.0 0x030000 0x1002", "0000:65:00.0 0x030000 0x1002"];
  const root = await host(two);
  const after = (env: NodeJS.ProcessEnv, localRank: number | null = 1, at = root) => {
    takeOwnCard(launch(localRank), env, at);
    return env;
  };
  expect(after({})["DRI_PRIME"]).toBe("pci-0000_65_00_0!");
  expect(after({ VK_DRIVER_FILES: "a.json" })).toEqual({ VK_DRIVER_FILES: "a.json" });
  expect(after({ DRI_PRIME: "0" })).toEqual({ DRI_PRIME: "0" });
  expect(after({}, null)).toEqual({});
  expect(after({}, 1, await host([two[0], "0000:00:02.0 0x030000 0x8086"]))).toEqual({});
  // A container with one of two cards.
  const nvidia = ["0000:17:00.0 0x030200 0x10de", "0000:65:00.0 0x030200 0x10de"];
  expect(after({}, 1, await host(nvidia, ["0000:65:00.0"]))).toEqual({});
  expect(after({}, 1, join(root, "nowhere"))).toEqual({});
});
