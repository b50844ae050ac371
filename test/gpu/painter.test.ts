/** Filling pictures while the device is lost or has no room: the same picture, or smaller tiles, said once. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu/gpu.js";
import { openGpu } from "../../src/gpu/node.js";
import { writeMaskPng, writePicturePng } from "../../src/io/png.js";
import { deadLeaves } from "../../src/pconv/deadLeaves.js";
import { generateMask } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { Painter } from "../../tools/inpaint/painter.js";

const [WIDTH, HEIGHT] = [200, 150];
let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "pconv-painter-"));
  await writePicturePng(join(dir, "picture.png"), deadLeaves(WIDTH, HEIGHT, Rng.of(1)));
  await writeMaskPng(join(dir, "mask.png"), generateMask(WIDTH, HEIGHT, Rng.of(2)));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

/** A painter that remembers its devices, and what it said. */
async function painting(tile: number, memoryLimit?: number) {
  const [devices, said]: [Gpu[], string[]] = [[], []];
  const painter = await Painter.open({
    openGpu: async () => {
      const gpu = await openGpu({ memoryLimit });
      devices.push(gpu);
      return gpu;
    },
    openNetwork: (gpu) => Promise.resolve(new PConvUNet(gpu, { width: 0.125, depth: 3 }, 1)),
    say: (text) => said.push(text),
    tile,
  });
  const fill = async (name: string) => {
    const job = {
      image: join(dir, "picture.png"),
      mask: join(dir, "mask.png"),
      out: join(dir, name),
      outFormat: undefined,
    };
    const { signal } = new AbortController();
    const filled = await painter.fill(job, {
      holes: "white",
      signal,
      onProgress: () => undefined,
      checkOut: () => undefined,
    });
    return readFile(filled.out);
  };
  return { painter, devices, said, fill };
}

describe("Painter", () => {
  it("opens a lost device again, and fills the same", async () => {
    const { painter, devices, said, fill } = await painting(256);
    const want = await fill("undisturbed");
    devices[0].device.destroy();
    expect((await fill("lost")).equals(want)).toBe(true);
    expect(said).toEqual([expect.stringMatching(/picture.png: the device was lost \(.*\); opening it again$/)]);
    expect(devices).toHaveLength(2);
    painter.close();
  });

  it("gives up on a device that is lost each time", async () => {
    const { painter, devices, said, fill } = await painting(256);
    for (const gpu of devices) gpu.device.destroy();
    const { push } = devices;
    devices.push = (gpu) => {
      gpu.device.destroy();
      return push.call(devices, gpu);
    };
    await expect(fill("never")).rejects.toThrow(/GPU/);
    expect([1, 2, 3]).toContain(said.length);
    painter.close();
  });

  it("takes smaller tiles where there is no room, says so once, and keeps to them", async () => {
    const roomy = await painting(256);
    await roomy.fill("roomy");
    const { peak } = roomy.devices[0].memory();
    roomy.painter.close();
    const small = await painting(128);
    const want = await small.fill("small");
    small.painter.close();
    const { painter, devices, said, fill } = await painting(256, 0.6 * peak);
    expect((await fill("shrunk")).equals(want)).toBe(true);
    expect((await fill("shrunk too")).equals(want)).toBe(true);
    expect(said).toEqual(["no room on the device for tiles of 256 pixels: going on with 128 (--tile 128)"]);
    expect(devices).toHaveLength(2);
    painter.close();
  });

  it("says what would help where not even the smallest tile fits", async () => {
    const open = await painting(64);
    const weights = open.devices[0].memory().allocated;
    open.painter.close();
    const { painter, said, fill } = await painting(64, weights + 20_000);
    await expect(fill("none")).rejects.toThrow(
      /^GPU memory: expected room for a tile of 32 pixels, the smallest, got none: expected buffers of at most 0.\d MiB in all, got 0.\d MiB\nhelp: end other programs/,
    );
    expect(said).toHaveLength(1);
    painter.close();
  });
});
