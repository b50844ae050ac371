/**
 * The kernels' own tests against their float64 references, in Chromium: the files of test/gpu as they are, but for how the device is
 * opened and for the WGSL, which is the built page's, without comments and indentation.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Browser } from "playwright-core";
import { build, type Plugin } from "vite";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { shrinkWgsl } from "../../web/shrinkWgsl.js";
import { launch, open, type Watched, WITHOUT_CHROMIUM } from "./browser.js";
import type {} from "./kernels/run.js";
import { serve, type Site } from "./serve.js";

/** Least number of cases of each file: a page that runs nothing must not pass. */
const FILES = {
  ...{ mask: 19, conv: 200, winograd: 30, winogradTransforms: 15, up: 19, liveOrder: 5, liveRows: 2, harmonic: 3 },
  ...{ norm: 12, elementwise: 19, loss: 12, adam: 2 },
};

const inBrowser: Plugin = {
  name: "in-browser",
  enforce: "pre",
  resolveId: (source) => {
    if (source === "vitest") return resolve("test/web/kernels/vitest.ts");
    return source.endsWith("/src/gpu/node.js") ? resolve("src/gpu/browser.ts") : null;
  },
};

describe.skipIf(WITHOUT_CHROMIUM)("the kernels in Chromium", () => {
  let folder: string;
  let site: Site;
  let browser: Browser;
  let visit: Watched;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "pconv-kernels-"));
    await build({
      configFile: false,
      root: "test/web/kernels",
      base: "./",
      logLevel: "warn",
      plugins: [inBrowser, shrinkWgsl],
      define: { "process.env": "({})" },
      build: {
        target: "es2022",
        outDir: folder,
        emptyOutDir: true,
        minify: false,
        modulePreload: false,
        // The package says that its modules do nothing when they are imported; tests do.
        rolldownOptions: { treeshake: false },
      },
    });
    site = await serve([{ path: "/", folder }]);
    browser = await launch();
    visit = await open(browser, site.url("/"));
    await visit.page.waitForFunction("window.kernelTests");
  });
  afterAll(async () => {
    await browser?.close();
    await site?.close();
    if (folder) await rm(folder, { recursive: true });
  });

  it("are all run", async () => {
    expect(await visit.page.evaluate("window.kernelTests.names")).toEqual(Object.keys(FILES));
  });

  it.each(Object.entries(FILES))("%s agree with the references", async (name, least) => {
    const { passed, failed, adapter } = await visit.page.evaluate((file) => window.kernelTests.run(file), name);
    console.log(`${name}: ${passed.length} cases on ${adapter}`);
    expect(failed).toEqual([]);
    expect(passed.length).toBeGreaterThanOrEqual(least);
    expect(visit.complaints).toEqual([]);
  });
});
