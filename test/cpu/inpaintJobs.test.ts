/** Which pictures `pconv inpaint` takes of a folder. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { afterAll, expect, it } from "vitest";
import { checkNotInput, inputsOf, listJobs } from "../../tools/inpaint/jobs.js";

const folder = mkdtempSync(join(tmpdir(), "pconv-jobs-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
for (const path of ["a.png", "sub/b.jpg", "masks/a.png", "masks/sub/b.png", "out/a.png", "outside/c.png"]) {
  mkdirSync(join(folder, path, ".."), { recursive: true });
  writeFileSync(join(folder, path), "");
}
const at = (path: string) => join(folder, path);
const images = async (masks: string, out?: string) =>
  (await listJobs([folder], at(masks), out && at(out))).map(({ image }) =>
    relative(folder, image).replaceAll("\\", "/"),
  );

it("leaves out masks and results that lie inside", async () => {
  expect(await images("masks", "out")).toEqual(["a.png", "outside/c.png", "sub/b.jpg"]);
  expect(await images("masks")).toContain("out/a.png");
});

it("takes pictures and masks of one folder", async () => {
  writeFileSync(at("outside/c_mask.png"), "");
  const jobs = await listJobs([at("outside")], at("outside"), undefined);
  expect(jobs.map(({ image, mask }) => [relative(folder, image), relative(folder, mask as string)])).toEqual([
    [join("outside", "c.png"), join("outside", "c_mask.png")],
  ]);
});

it("refuses a result in the place of a picture or mask", async () => {
  const taken = inputsOf(await listJobs([at("a.png")], at("masks/a.png"), undefined));
  expect(() => checkNotInput(at("a.png"), taken)).toThrow(/expected a new file/);
  expect(() => checkNotInput(at("masks/a.png"), taken)).toThrow(/expected a new file/);
  expect(() => checkNotInput(at("out/a.png"), taken)).not.toThrow();
});

// Windows asks for a privilege before it makes links.
it.skipIf(process.platform === "win32")("refuses it by another way to the same folder too", async () => {
  symlinkSync(at("sub"), at("elsewhere"));
  symlinkSync(at("a.png"), at("alias.png"));
  const taken = inputsOf(await listJobs([at("sub/b.jpg"), at("alias.png")], at("masks/a.png"), undefined));
  expect(() => checkNotInput(at("elsewhere/b.jpg"), taken)).toThrow(/expected a new file/);
  expect(() => checkNotInput(at("a.png"), taken)).toThrow(/expected a new file/);
  expect(() => checkNotInput(at("elsewhere/c.png"), taken)).not.toThrow();
  for (const name of ["elsewhere", "alias.png"]) rmSync(at(name));
});

it("refuses pictures whose results would replace each other", async () => {
  for (const path of ["x/b.png", "y/b.png", "z/a.jpg", "z/a.png", "z/a.jpg.png"]) {
    mkdirSync(join(folder, path, ".."), { recursive: true });
    writeFileSync(at(path), "");
  }
  const of = (inputs: string[]) => listJobs(inputs.map(at), at("masks/a.png"), at("results"));
  await expect(of(["x/b.png", "y/b.png"])).rejects.toThrow(/different names, got .*b\.png and .*b\.png, which both/);
  await expect(of(["x", "y"])).rejects.toThrow(/different names/);
  await expect(of(["z"])).rejects.toThrow(/different names/);
  expect((await of(["z/a.jpg", "z/a.png"])).map(({ out }) => relative(at("results"), out))).toEqual(["a.jpg", "a.png"]);
  // Without --out each lies beside its picture.
  expect(await listJobs([at("x/b.png"), at("y/b.png")], at("masks/a.png"), undefined)).toHaveLength(2);
});

it("takes the name of a picture that cannot be written for no folder", async () => {
  const of = (out: string) => listJobs([at("a.png")], at("masks/a.png"), at(out));
  await expect(of("filled.BMP")).rejects.toThrow(/expected a folder, or a \.png, .* got .*filled\.BMP/);
  expect((await of("filled.v2"))[0].out).toBe(at("filled.v2/a"));
});
