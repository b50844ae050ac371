/** The guides' scripts as `npm run guide` starts them, with few steps: each makes the pictures that its page shows. */
import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { PNG } from "pngjs";
import { afterAll, expect, it } from "vitest";

const PROGRAM = fileURLToPath(new URL("../../dist/guides/guide.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "pconv-guides-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const runGuide = (...args: string[]) => promisify(execFile)(process.execPath, [PROGRAM, ...args]);

/** What each must print: the facts that its page states, where they do not depend on how long it trains. */
const STATED: Readonly<Record<string, RegExp>> = {
  "1-masks": /^lines, circles, ellipses: 40 masks, hole share 0\.2\d\d/m,
  "2-partial-convolution": /^outputs over zeros and over NaN are equal: true$/m,
  "3-unet": /^32859732 parameters in all$/m,
  "4-training": /^original, after the second stage: PSNR \d+\.\d\d dB$/m,
  "5-any-size": /^one large hole: 15 runs of the network; pixels outside the hole unchanged: true$/m,
};

it.each(Object.keys(STATED))("%s", async (name) => {
  const out = join(folder, name);
  const { stdout } = await runGuide(name, "--quick", "--out", out);
  expect(stdout).toMatch(STATED[name]);
  const page = readFileSync(join("docs", `${name}.md`), "utf8");
  // What `photos` is in the name of comes from photographs, which are not in this repository.
  const all = [...page.matchAll(/\(images\/([^)]+)\)/g)].map((match) => match[1]);
  const shown = all.filter((picture) => !picture.includes("-photos-"));
  expect(readdirSync(out).sort()).toEqual(shown.sort());
  for (const picture of shown) {
    const size = (path: string) => {
      const { width, height } = PNG.sync.read(readFileSync(path));
      return [width, height];
    };
    expect(size(join(out, picture)), picture).toEqual(size(join("docs/images", picture)));
  }
});

it("refuses a guide that there is not, naming those that there are", async () => {
  const refused = runGuide("6-more").catch((error: { code: number; stderr: string }) => error);
  expect(await refused).toMatchObject({ code: 2, stderr: expect.stringContaining("5-any-size") as string });
});
