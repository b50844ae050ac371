/** PCONV_TUNE: convolutions are measured before the first step, kept, and left alone where nobody asks for it. */
import { mkdir, readdir, readFile, symlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, it } from "vitest";
import { cacheFolder } from "#software-adapter";
import { at, checkpoints, finish, start, stepName, useTrainFolder } from "../support/trainProgram.js";

useTrainFolder();

/** A cache folder of its own, with everything of the user's in it (the software adapter may be there) but the measurements. */
async function ownCache(): Promise<string> {
  await mkdir(at("cache", "pconv-webgpu"), { recursive: true });
  for (const name of await readdir(cacheFolder()).catch(() => [])) {
    if (name !== "tuning") await symlink(join(cacheFolder(), name), at("cache", "pconv-webgpu", name), "junction");
  }
  return at("cache");
}

// As few and as narrow convolutions as a network has: software adapters compile every candidate for a while.
const RUN = ["--no-vgg", "--image-size", "8", "--width", "0.05", "--depth", "1", "--steps", "1"];

it("measures when forced, keeps that, and trains", async () => {
  // Mesa would compile everything anew in another cache folder.
  const env = { XDG_CACHE_HOME: await ownCache(), MESA_SHADER_CACHE_DIR: dirname(cacheFolder()), PCONV_TUNE: "force" };
  const { code, stderr } = await finish(start([...RUN, "--out", "forced"], env));
  expect(code).toBe(0);
  const [, count, file] = /^tuning: measured (\d+) kinds of convolution, knew 0; kept in (.*)$/m.exec(stderr) ?? [];
  expect(await checkpoints("forced")).toEqual([stepName(1)]);
  const { choices } = JSON.parse(await readFile(file, "utf8")) as { choices: Record<string, unknown> };
  expect(Object.keys(choices)).toHaveLength(Number(count));

  const off = await finish(start([...RUN, "--out", "off"], { ...env, PCONV_TUNE: "off" }));
  expect(off.code).toBe(0);
  expect(off.stderr).not.toContain("tuning");
}, 300_000);

it("refuses other words before it makes a folder", async () => {
  const { code, stderr } = await finish(start([...RUN, "--out", "wrong"], { PCONV_TUNE: "yes" }));
  expect(code).toBe(2);
  expect(stderr).toMatch(/^PCONV_TUNE: expected off or force, got yes\nhelp: .*\n$/);
  await expect(readdir(at("wrong"))).rejects.toThrow("ENOENT");
});
