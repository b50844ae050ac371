/** What goes wrong for visitors, and how they get on. */
import { PNG } from "pngjs";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launch, open, WITHOUT_CHROMIUM } from "./browser.js";
import { fill, finished, openPng, paint, ready, saved, setBrush, status } from "./editor.js";
import { serve, type Site, WORKER } from "./serve.js";

/** Keeps the worker's devices where a test can end them, or have as many end as it says, each when results are read back from it. */
const KEEP_DEVICES = `{
  const { requestDevice } = GPUAdapter.prototype;
  globalThis.devices = [];
  GPUAdapter.prototype.requestDevice = async function (...request) {
    const device = await requestDevice.apply(this, request);
    globalThis.devices.push(device);
    return device;
  };
  const { mapAsync } = GPUBuffer.prototype;
  globalThis.losses = 0;
  GPUBuffer.prototype.mapAsync = function (...range) {
    if (globalThis.losses-- > 0) globalThis.devices.at(-1).destroy();
    return mapAsync.apply(this, range);
  };
}\n`;
const LOSABLE = "/losable/";
const DESKTOP = { viewport: { width: 1280, height: 900 } };
/** Wider than a tile. */
const WIDE = { width: 700, height: 24 };
const SMALL = { width: 96, height: 64 };

const trouble = (page: Page) => page.locator("#trouble").textContent();

/** Stripes with noise. */
const stripes = ({ width, height }: { readonly width: number; readonly height: number }): Uint8Array =>
  Uint8Array.from({ length: width * height * 4 }, (_, i) => (i % 4 === 3 ? 255 : ((i >> 4) * 37 + i * i) % 256));

describe.skipIf(WITHOUT_CHROMIUM)("the page in trouble", () => {
  let site: Site;
  let browser: Browser;

  beforeAll(async () => {
    const folder = "web/dist";
    site = await serve([
      { path: "/", folder },
      { path: LOSABLE, folder, prelude: { name: WORKER, code: KEEP_DEVICES } },
    ]);
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    await site?.close();
  });

  it("cancels at once, and fills afterwards", async () => {
    const { context, page } = await open(browser, site.url("/"), DESKTOP);
    await openPng(page, "small.png", SMALL, stripes(SMALL));
    await ready(page);
    await paint(page, SMALL, [40, 30], [50, 30]);
    await page.locator("#fill").click();
    expect(await page.evaluate(() => document.activeElement!.id)).toBe("cancel");
    await page.keyboard.press("Enter");
    await page.locator("#editor[data-phase=edit]").waitFor();
    expect(await page.evaluate(() => document.activeElement!.id)).toBe("canvas");
    expect(await page.locator("#editor").getAttribute("data-phase")).toBe("edit");
    expect(await status(page)).toMatch(/Cancelled/);
    await fill(page);
    await context.close();
  });

  it("fills as if nothing had been cancelled between two tiles", async () => {
    const { context, page, complaints } = await open(browser, site.url("/"), DESKTOP);
    await openPng(page, "wide.png", WIDE, stripes(WIDE));
    await ready(page);
    await setBrush(page, 8);
    await paint(page, WIDE, [60, 12], [640, 12]);
    await fill(page);
    const { png: undisturbed } = await saved(page, "#download");
    expect(await status(page)).toMatch(/^Saved/);
    await page.locator("#back").click();

    await page.locator("#fill").click();
    await expect.poll(() => status(page), { interval: 5, timeout: 60_000 }).toMatch(/^Filling: pass 2 of/);
    await page.locator("#cancel").click();
    expect(await status(page)).toMatch(/^Cancelled/);
    await page.locator("#fill").click(); // the tile that was in work still is
    await finished(page);
    expect((await saved(page, "#download")).png.data.equals(undisturbed.data)).toBe(true);
    expect(complaints).toEqual([]);
    await context.close();
  });

  it("opens the GPU again when it is lost, before a fill and in the middle of one", async () => {
    const { context, page, complaints } = await open(browser, site.url(LOSABLE), DESKTOP);
    await openPng(page, "small.png", SMALL, stripes(SMALL));
    await ready(page);
    await paint(page, SMALL, [40, 30], [50, 30]);
    type Losable = { devices: GPUDevice[]; losses: number };
    const lose = (inAFill: number) =>
      page.workers()[0].evaluate((losses) => {
        const worker = globalThis as unknown as Losable;
        worker.losses = losses;
        if (losses === 0) worker.devices.at(-1)!.destroy();
        return worker.devices.length;
      }, inAFill);
    const told = () => page.locator("#trouble").textContent();

    await fill(page);
    const { png: whole } = await saved(page, "#download");
    const fillAsBefore = async (notice: RegExp) => {
      await fill(page);
      expect(await told()).toMatch(notice);
      expect((await saved(page, "#download")).png.data.equals(whole.data)).toBe(true);
      await page.locator("#back").click();
    };
    await page.locator("#back").click();

    expect(await lose(0)).toBe(1);
    await fillAsBefore(/GPU was lost. It is open again/);

    expect(await lose(1)).toBe(2);
    await fillAsBefore(/GPU was lost. It is open again/);
    expect(complaints).toEqual([]);

    // Lost again while the work starts over: that is told, and the next fill opens another.
    expect(await lose(2)).toBe(3);
    await page.locator("#fill").click();
    await expect.poll(told, { timeout: 120_000 }).toMatch(/it was lost again. try once more/);
    await page.locator("#editor[data-phase=edit]").waitFor();
    await fillAsBefore(/^$/);
    expect(await lose(-1)).toBe(5);
    await context.close();
  });

  it("tries again when the weights could not be had", async () => {
    const { context, page } = await open(browser, site.url("/"), DESKTOP);
    const weights = /\.safetensors$/;
    await context.route(weights, (route) => route.abort());
    await openPng(page, "small.png", SMALL, stripes(SMALL));
    await expect.poll(() => trouble(page)).toMatch(/weights: expected a file, got no answer/);
    expect(await status(page)).toMatch(/^96 × 64: paint over/);
    await paint(page, SMALL, [40, 30], [50, 30]);
    await page.locator("#fill").click();
    await expect.poll(() => trouble(page)).toMatch(/got no answer/);
    await context.unroute(weights);
    await fill(page);
    expect(await page.locator("#trouble").isVisible()).toBe(false);
    await context.close();
  });

  it("refuses holes that leave nothing, drops that are no files, and pictures while it fills", async () => {
    const { context, page, complaints } = await open(browser, site.url("/"), DESKTOP);
    await openPng(page, "small.png", SMALL, stripes(SMALL));
    await ready(page);
    await page.locator("#invert").click();
    expect(await status(page)).toMatch(/the hole is all of it; leave something/);
    expect(await page.locator("#fill").isDisabled()).toBe(true);
    await page.keyboard.press("Control+z");
    await page.keyboard.press("Control+z"); // there is nothing more to undo
    expect(await status(page)).toMatch(/paint over/);

    const drop = (file: readonly number[] | null) =>
      page.evaluate((bytes) => {
        const dataTransfer = new DataTransfer();
        if (bytes) dataTransfer.items.add(new File([Uint8Array.from(bytes)], "other.png", { type: "image/png" }));
        else dataTransfer.setData("text/plain", "https://example.com/photo.jpg");
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
      }, file);
    await drop(null);
    await expect.poll(() => trouble(page)).toMatch(/no file/);

    const other = [...PNG.sync.write(new PNG({ width: 3, height: 5 }))];
    await paint(page, SMALL, [40, 30], [50, 30]);
    await page.locator("#fill").click();
    await drop(other);
    await expect.poll(() => trouble(page)).toMatch(/Cancel that before/);
    await finished(page);
    await drop(other);
    await expect.poll(() => status(page)).toMatch(/^3 × 5/);
    expect(complaints).toEqual([]);
    await context.close();
  });

  it("shows the chosen tool where colours are the visitor's", async () => {
    const { context, page } = await open(browser, site.url("/"), { ...DESKTOP, forcedColors: "active" });
    await page.locator("#sample").click();
    const background = (id: string) => page.locator(id).evaluate((e) => getComputedStyle(e).backgroundColor);
    expect(await background("#tool-brush")).not.toBe(await background("#tool-erase"));
    await context.close();
  });
});
