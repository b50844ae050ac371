import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { tuningFile } from "../../src/gpu/tuningFile.js";

const adapter = {
  ...{ name: "Some GPU 9 (vendor)", vendor: "vendor", description: "driver 1.2" },
  ...{ software: false, subgroupSize: 32 },
};

let cache: string;
beforeEach(async () => {
  cache = await mkdtemp(join(tmpdir(), "pconv-tuning-"));
  vi.stubEnv("XDG_CACHE_HOME", cache);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(cache, { recursive: true });
});

test("a tuning file lies in the cache folder and holds what was written last, one per adapter and driver", async () => {
  const file = tuningFile(adapter);
  const folder = join(cache, "pconv-webgpu", "tuning");
  expect(file.name.startsWith(join(folder, "Some-GPU-9-vendor-"))).toBe(true);
  expect(await file.read()).toBeNull();
  await file.write("one");
  await file.write("two");
  expect(await tuningFile(adapter).read()).toBe("two");
  expect(await tuningFile({ ...adapter, description: "driver 1.3" }).read()).toBeNull();
  expect(await readdir(folder)).toHaveLength(1); // nothing unfinished is left behind
});

test("a file that is there but cannot be read is an error, which tuning reports", async () => {
  const file = tuningFile(adapter);
  await file.write("one");
  vi.stubEnv("XDG_CACHE_HOME", file.name); // a file where a folder should be
  await expect(tuningFile(adapter).read()).rejects.toThrow("ENOTDIR");
});
