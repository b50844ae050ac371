/** Which pictures `pconv inpaint` takes of a folder. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
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
