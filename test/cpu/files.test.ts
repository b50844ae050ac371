import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { checkPlace, writeWhole } from "../../src/io/files.js";

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "pconv-files-"));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

describe("checkPlace", () => {
  it("agrees with writeWhole where it can be written, and makes nothing", async () => {
    for (const path of ["a.png", join("new", "deep", "a.png")]) await checkPlace(join(dir, path));
    expect(await readdir(dir)).toEqual([]);
    await writeWhole(join(dir, "new", "deep", "a.png"), Uint8Array.of(1));
    await checkPlace(join(dir, "new", "deep", "a.png"));
  });

  it.each([["file/a.png"], ["file/deep/a.png"]])("refuses %s, as writeWhole does", async (name) => {
    await writeFile(join(dir, "file"), "mine");
    const path = join(dir, name);
    for (const write of [checkPlace(path), writeWhole(path, Uint8Array.of(1))])
      await expect(write).rejects.toThrow(
        /expected a place that can be written to, got E(NOTDIR|EXIST).*\nhelp: .*a file/,
      );
    expect(await readdir(dir)).toEqual(["file"]);
  });

  it.skipIf(process.platform === "win32" || process.getuid?.() === 0)(
    "refuses a folder without permission",
    async () => {
      await mkdir(join(dir, "closed"));
      await chmod(join(dir, "closed"), 0o500);
      await expect(checkPlace(join(dir, "closed", "new", "a.png"))).rejects.toThrow(
        /got EACCES.*\nhelp: check the permissions/,
      );
    },
  );
});
