/** How much a page downloads of the library, and that its example works. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import sharp from "sharp";
import { build, type Rolldown } from "vite";
import { describe, expect, it } from "vitest";
import { launch, open, WITHOUT_CHROMIUM } from "./browser.js";
import { serve } from "./serve.js";

const ENTRY = "virtual:entry";

const gzipped = (code: readonly string[]): number => code.reduce((sum, text) => sum + gzipSync(text).length, 0);

/** Code that a page loads at once that imports `names` from the built package with a bundler, as it is installed. */
async function bundled(names: string): Promise<string[]> {
  const browser = resolve("dist/src/browser.js");
  const result = (await build({
    configFile: false,
    logLevel: "error",
    plugins: [
      {
        name: "entry",
        resolveId: (id) => (id === ENTRY ? id : null),
        load: (id) => (id === ENTRY ? `export ${names} from ${JSON.stringify(browser)};` : null),
      },
    ],
    build: {
      write: false,
      target: "es2022",
      modulePreload: false,
      assetsInlineLimit: 0,
      rolldownOptions: { input: ENTRY, preserveEntrySignatures: "strict" },
    },
  })) as Rolldown.RolldownOutput;
  const chunks = result.output.filter((file) => file.type === "chunk");
  const byName = new Map(chunks.map((chunk) => [chunk.fileName, chunk]));
  const loaded = new Set<string>();
  const load = (name: string): void => {
    if (loaded.has(name)) return;
    loaded.add(name);
    byName.get(name)!.imports.forEach(load);
  };
  load(chunks.find((chunk) => chunk.isEntry)!.fileName);
  return [...loaded].map((name) => byName.get(name)!.code);
}

/** Code that a page loads at once that imports a file of dist/browser, with what that imports. */
async function ready(file: string, loaded = new Map<string, string>()): Promise<string[]> {
  if (loaded.has(file)) return [];
  const text = await readFile(file, "utf8");
  loaded.set(file, text);
  for (const [, from] of text.matchAll(/\bfrom\s*["'](\.[^"']+)["']/g)) await ready(join(dirname(file), from), loaded);
  return [...loaded.values()];
}

/** Limits in bytes, gzipped. */
const SIZES: readonly (readonly [what: string, limit: number, code: () => Promise<string[]>])[] = [
  ["to fill holes, bundled", 60_000, () => bundled("{ openGpu, PConvUNet, inpaint }")],
  ["to fill holes, dist/browser/inpaint.js", 60_000, () => ready("dist/browser/inpaint.js")],
  [
    "to train too, bundled",
    72_000,
    () => bundled("{ openGpu, PConvUNet, inpaint, Trainer, InpaintingLoss, RandomMaskSource }"),
  ],
  ["everything, bundled", 90_000, () => bundled("*")],
  ["everything, dist/browser/pconv-webgpu.js", 90_000, () => ready("dist/browser/pconv-webgpu.js")],
];

describe("what a page loads of the library", () => {
  it.each(SIZES)("%s: less than %i bytes gzipped, and nothing of Node", async (what, limit, load) => {
    const code = await load();
    console.log(`${what}: ${(gzipped(code) / 1000).toFixed(1)} kB gzipped`);
    expect(gzipped(code)).toBeLessThan(limit);
    for (const text of code) expect(text).not.toMatch(/from\s*["'`]node:|node:fs|require\(/);
    // Comments of WGSL are in templates, where minifiers leave them.
    for (const text of code) expect(text).not.toMatch(/^\s*\/\/ /m);
  });
});

describe.skipIf(WITHOUT_CHROMIUM)("the example in docs/6-browser.md", () => {
  it("fills a hole without a bundler", async () => {
    const text = await readFile("docs/6-browser.md", "utf8");
    const html = /```html\n(.*?)```/s.exec(text)![1];
    const script = /<script type="module">\n(.*?)<\/script>/s.exec(html)![1];
    expect(script.trimEnd().split("\n").length).toBeLessThanOrEqual(15);
    const folder = await mkdtemp(join(tmpdir(), "pconv-example-"));
    await writeFile(join(folder, "index.html"), html);
    // The hole of the example is red, and the rest is blue: what fills it must not be.
    const red = { create: { width: 20, height: 64, channels: 3, background: "#e01010" } } as const;
    const blue = { create: { width: 96, height: 64, channels: 3, background: "#3c78b4" } } as const;
    const left = await sharp(red).png().toBuffer();
    await sharp(blue)
      .composite([{ input: left, left: 0, top: 0 }])
      .png()
      .toFile(join(folder, "photo.jpg"));
    const site = await serve([
      { path: "/", folder },
      { path: "/node_modules/pconv-webgpu/", folder: resolve(".") },
    ]);
    const browser = await launch();
    try {
      const { page, complaints, requests } = await open(browser, site.url("/"));
      const pixel = (x: number) =>
        page.evaluate(
          (at) => Array.from(document.querySelector("canvas")!.getContext("2d")!.getImageData(at, 32, 1, 1).data),
          x,
        );
      await expect.poll(() => pixel(80)).toEqual([0x3c, 0x78, 0xb4, 255]);
      expect((await pixel(4))[0]).toBeGreaterThan(200);
      await expect.poll(async () => (await pixel(4))[0], { timeout: 120_000, interval: 500 }).toBeLessThan(130);
      expect(await pixel(80)).toEqual([0x3c, 0x78, 0xb4, 255]);
      expect(complaints.filter((text) => !/favicon|404/.test(text))).toEqual([]);
      expect(requests.filter((url) => url.endsWith(".safetensors"))).toEqual([
        site.url("/node_modules/pconv-webgpu/dist/models/default.safetensors"),
      ]);
      expect(requests.filter((url) => url.endsWith(".js")).length).toBeLessThanOrEqual(2);
    } finally {
      await browser.close();
      await site.close();
      await rm(folder, { recursive: true });
    }
  });
});
