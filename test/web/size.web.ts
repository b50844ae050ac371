/** How much a page downloads of the library, and that its example works. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import sharp from "sharp";
import { build, type Rolldown } from "vite";
import { describe, expect, it } from "vitest";
import { shrinkWgsl } from "../../web/shrinkWgsl.js";
import { launch, open, WITHOUT_CHROMIUM } from "./browser.js";
import { serve } from "./serve.js";

const ENTRY = "virtual:entry";

/** Bytes, gzipped, of what a page loads at once that imports `names` from the browser entry. */
async function bundled(names: string): Promise<number> {
  const browser = resolve("src/browser.ts");
  const result = (await build({
    configFile: false,
    logLevel: "error",
    plugins: [
      shrinkWgsl,
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
  const code = [...loaded].map((name) => byName.get(name)!.code);
  for (const text of code) expect(text).not.toMatch(/from\s*["'`]node:|node:fs|require\(/);
  return code.reduce((sum, text) => sum + gzipSync(text).length, 0);
}

describe("the library in a bundle", () => {
  it("takes less than 60 kB gzipped to fill holes", async () => {
    const [filling, all] = [await bundled("{ openGpu, PConvUNet, inpaint }"), await bundled("*")];
    console.log(
      `gzipped: ${(filling / 1000).toFixed(1)} kB to fill holes, ${(all / 1000).toFixed(1)} kB for everything`,
    );
    expect(filling).toBeLessThan(60_000);
    expect(all).toBeLessThan(85_000);
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
      expect(requests.some((url) => url.endsWith("dist/models/default.safetensors"))).toBe(true);
    } finally {
      await browser.close();
      await site.close();
      await rm(folder, { recursive: true });
    }
  });
});
