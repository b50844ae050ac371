/** The built page in a real Chromium: from a photo to a filled PNG, and what may go wrong on the way. */
import type { Browser, Page } from "playwright-core";
import sharp from "sharp";
import { PNG } from "pngjs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { inpaint, loadUNet, openGpu } from "../../src/index.js";
import { type RgbaPicture, maskFromRgba, toPicture } from "../../web/app/pictures.js";
import { drawSample } from "../../web/app/sample.js";
import { launch, open, type Watched, WITHOUT_CHROMIUM } from "./browser.js";
import { fill, openPng, paint, ready, saved, setBrush, status } from "./editor.js";
import { serve, type Site, WORKER } from "./serve.js";

/** Not the root: the page must work from any sub-path. */
const PATH = "/some/where/";
/** Workers without WebGPU. */
const PAGE_ONLY = "/page-only/";

const NO_WEBGPU_IN_WORKERS = "delete WorkerNavigator.prototype.gpu;\n";

const DESKTOP = { viewport: { width: 1280, height: 900 } };

if (WITHOUT_CHROMIUM) console.warn(WITHOUT_CHROMIUM);

const asRgba = ({ width, height, data }: PNG): RgbaPicture => ({ width, height, rgba: new Uint8ClampedArray(data) });

/** What Node makes of the same picture and mask with the same weights, in whole levels. */
async function onNode(picture: RgbaPicture, maskPng: PNG): Promise<Uint8ClampedArray> {
  const gpu = await openGpu();
  try {
    console.log(`on Node: ${gpu.adapter.name}`);
    const model = await loadUNet(gpu, "default");
    const { image } = await inpaint(model, toPicture(picture), maskFromRgba(asRgba(maskPng)));
    return Uint8ClampedArray.from(image.pixels, (v) => Math.round(255 * v));
  } finally {
    gpu.close();
  }
}

/** Whether the browser would ask the visitor before it leaves the page. */
const asksBeforeLeaving = (page: Page): Promise<boolean> =>
  page.evaluate(() => !window.dispatchEvent(new Event("beforeunload", { cancelable: true })));

/** A small picture with a gradient in each channel. */
function gradient(width: number, height: number): Uint8Array {
  const rgba = new Uint8Array(width * height * 4).fill(255);
  for (let i = 0; i < width * height; i++) {
    const [x, y] = [i % width, Math.floor(i / width)];
    rgba.set([(255 * x) / width, (255 * y) / height, 128 + 100 * Math.sin(x / 7)], 4 * i);
  }
  return rgba;
}

describe.skipIf(WITHOUT_CHROMIUM)("the page", () => {
  let site: Site;
  let browser: Browser;
  let visit: Watched;
  const sample = drawSample();

  beforeAll(async () => {
    const folder = "web/dist";
    site = await serve([
      { path: PATH, folder },
      { path: PAGE_ONLY, folder, prelude: { name: WORKER, code: NO_WEBGPU_IN_WORKERS } },
    ]);
    browser = await launch();
    visit = await open(browser, site.url(PATH), DESKTOP);
  });
  afterAll(async () => {
    await browser?.close();
    await site?.close();
  });

  it("fills a hole of the sample as Node does, and keeps every other pixel", async () => {
    const { page } = visit;
    await page.locator("#sample").click();
    await ready(page);
    expect(await page.locator("#fill").isDisabled()).toBe(true);
    expect(await asksBeforeLeaving(page)).toBe(false);
    await setBrush(page, 40);
    await paint(page, sample, [340, 60], [350, 90]);
    expect(await asksBeforeLeaving(page)).toBe(true);
    await paint(page, sample, [60, 300], [100, 300]);
    expect(await status(page)).toMatch(/the hole is 2\.\d % of it/);

    await page.locator("#undo").click();
    await page.locator("#undo").click();
    expect(await asksBeforeLeaving(page)).toBe(false);
    expect(await status(page)).toMatch(/paint over/);
    expect(await page.locator("#fill").isDisabled()).toBe(true);
    await page.locator("#redo").click();
    const { name: maskName, png: mask } = await saved(page, "#save-mask");
    expect(maskName).toBe("sample.mask.png");
    const holes = maskFromRgba(asRgba(mask)).values;
    expect(holes[75 * sample.width + 345]).toBe(0);
    expect(holes[300 * sample.width + 80]).toBe(1); // not done again

    await fill(page);
    expect(await status(page)).toMatch(/^Filled in [\d.]+ s, \d+ passe?s?\.$/);
    expect(await asksBeforeLeaving(page)).toBe(true);
    const { name, png } = await saved(page, "#download");
    expect(name).toBe("sample.filled.png");
    expect([png.width, png.height]).toEqual([sample.width, sample.height]);
    expect(await asksBeforeLeaving(page)).toBe(false);

    const node = await onNode(sample, mask);
    let [largest, sum, count, changed, untouched] = [0, 0, 0, 0, 0];
    for (let i = 0; i < holes.length; i++) {
      for (let k = 0; k < 3; k++) {
        const value = png.data[4 * i + k];
        if (holes[i] === 1) {
          if (value !== sample.rgba[4 * i + k]) untouched++;
          continue;
        }
        const difference = Math.abs(value - node[3 * i + k]);
        largest = Math.max(largest, difference);
        sum += difference;
        count++;
        if (value !== sample.rgba[4 * i + k]) changed++;
      }
    }
    console.log(`in Chromium: ${await page.locator("#adapter").textContent()}`);
    console.log(
      `in the hole, Chromium and Node differ by at most ${largest}/255 in ${count} values, ${(sum / count).toFixed(5)}/255 on average`,
    );
    expect(count).toBeGreaterThan(3000);
    expect(changed / count).toBeGreaterThan(0.5);
    expect(largest).toBeLessThanOrEqual(1);
    expect(untouched).toBe(0);
  });

  it("compares, goes back, and goes on from the result", async () => {
    const { page } = visit;
    await page.locator("#split").focus();
    const before = Number(await page.locator("#split").inputValue());
    await page.keyboard.press("ArrowRight");
    expect(Number(await page.locator("#split").inputValue())).toBe(before + 1);
    const { png: first } = await saved(page, "#download");
    await page.locator("#back").click();
    expect(await page.locator("#fill").isEnabled()).toBe(true);
    await fill(page);
    await page.locator("#continue").click();
    await page.locator("#editor[data-phase=edit]").waitFor();
    expect(await page.locator("#undo").isDisabled()).toBe(true); // a mask of its own
    const { png: kept } = await saved(page, "#download");
    expect(kept.data.equals(first.data)).toBe(true); // the same fill twice, to the bit
  });

  it("asked nobody but its own server, and the server only once for the weights", async () => {
    const { context, page, requests, complaints } = visit;
    await page.reload();
    await page.locator("#sample").click();
    await ready(page);
    for (const request of requests) expect(request).toMatch(new RegExp(`^(blob:)?${site.url(PATH)}`));
    expect(requests.filter((url) => url.endsWith(".safetensors"))).toHaveLength(1);
    expect(complaints).toEqual([]);
    const ran = await page.evaluate(() => {
      const script = document.createElement("script");
      script.textContent = "document.title = 'inline'";
      document.head.append(script);
      return document.title;
    });
    expect(ran).not.toBe("inline"); // the policy is at work
    console.log(`requests: ${requests.length}, all to ${site.url(PATH)}`);
    await context.close();
  });

  it("opens other pictures: turned, wide, by keyboard, with a mask from a file", async () => {
    const { context, page, complaints } = await open(browser, site.url(PATH), DESKTOP);
    const pixels = { create: { width: 90, height: 40, channels: 3, background: "#468" } } as const;
    const turned = await sharp(pixels).jpeg().withMetadata({ orientation: 6 }).toBuffer();
    await page.setInputFiles("#photo-file", { name: "turned.jpg", mimeType: "image/jpeg", buffer: turned });
    await page.locator("#editor[data-phase=edit]").waitFor();
    await expect.poll(() => status(page)).toMatch(/^40 × 90/);
    await ready(page);

    await page.locator("#canvas").focus();
    await page.keyboard.press("Enter");
    for (let i = 0; i < 3; i++) await page.keyboard.press("ArrowRight");
    await page.keyboard.press("Enter");
    expect(await status(page)).toMatch(/the hole is/);
    await page.keyboard.press("Control+z");
    expect(await status(page)).toMatch(/paint over/);

    // Wider than a tile, and transparent in a corner.
    const size = { width: 700, height: 40 };
    const rgba = gradient(size.width, size.height);
    rgba[3] = 0;
    await openPng(page, "wide.png", size, rgba);
    const mask = new PNG({ width: 70, height: 4 });
    for (let i = 0; i < 280; i++) mask.data.set(i % 70 === 30 ? [255, 255, 255, 255] : [0, 0, 0, 255], 4 * i);
    await page.setInputFiles("#mask-file", { name: "m.png", mimeType: "image/png", buffer: PNG.sync.write(mask) });
    await expect
      .poll(() => status(page))
      .toMatch(/the hole is 1\.4 % of it. The mask's file is 70 × 4: it was stretched/);
    await fill(page);
    const { png } = await saved(page, "#download");
    expect([png.width, png.height]).toEqual([700, 40]);
    expect(png.data[3]).toBe(0);
    for (let i = 1; i < 700 * 40; i++) {
      if (Math.floor((i % 700) / 10) === 30) continue;
      for (let k = 0; k < 4; k++) if (png.data[4 * i + k] !== rgba[4 * i + k]) throw new Error(`pixel ${i} changed`);
    }

    const text = { name: "no.png", mimeType: "image/png", buffer: Buffer.from("no picture") };
    await page.setInputFiles("#photo-file", text);
    await expect.poll(() => page.locator("#trouble").textContent()).toMatch(/not a picture/);
    expect(complaints).toEqual([]);
    await context.close();
  });

  it("zooms by wheel and keys, pans with space, and paints with a finger", async () => {
    const { context, page, complaints } = await open(browser, site.url(PATH), { ...DESKTOP, hasTouch: true });
    const size = { width: 96, height: 64 };
    await openPng(page, "small.png", size, gradient(96, 64));
    await ready(page);
    const zoom = () => page.locator("#zoom-value").textContent();
    const box = (await page.locator("#canvas").boundingBox())!;
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    expect(await zoom()).toBe("400 %");
    await page.mouse.move(x, y);
    await page.mouse.wheel(0, 40); // who has not worked on the picture yet scrolls past it
    await expect.poll(() => page.evaluate(() => scrollY)).toBe(40);
    await page.mouse.wheel(0, -40);
    await expect.poll(() => page.evaluate(() => scrollY)).toBe(0);
    expect(await zoom()).toBe("400 %");
    await page.locator("#canvas").focus();
    await page.mouse.wheel(0, -600);
    await expect.poll(zoom).toBe("1178 %");
    await page.keyboard.down(" ");
    await page.mouse.down();
    await page.mouse.move(x + 50, y, { steps: 3 });
    await page.mouse.up();
    await page.keyboard.up(" ");
    expect(await status(page)).toMatch(/paint over/);
    await page.keyboard.press("0");
    await expect.poll(zoom).toBe("400 %");
    await page.touchscreen.tap(x, y);
    await expect.poll(() => status(page)).toMatch(/the hole is/);
    await page.locator("#invert").click();
    expect(await status(page)).toMatch(/the hole is (9\d|100) % of it/);
    await page.locator("#clear").click();
    expect(await status(page)).toMatch(/paint over/);

    // Two fingers zoom and draw nothing, nor does the one that stays.
    const cdp = await context.newCDPSession(page);
    const touch = (type: "touchStart" | "touchMove" | "touchEnd", ...at: number[]) =>
      cdp.send("Input.dispatchTouchEvent", { type, touchPoints: at.map((dx, id) => ({ x: x + dx, y, id })) });
    await touch("touchStart", -30);
    await touch("touchStart", -30, 30);
    for (let apart = 30; apart <= 60; apart += 10) await touch("touchMove", -apart, apart);
    await touch("touchEnd", -60);
    await touch("touchMove", 20);
    await touch("touchEnd");
    await expect.poll(zoom).toBe("800 %");
    expect(await status(page)).toMatch(/paint over/);
    expect(await page.locator("#undo").isDisabled()).toBe(false); // of what was done before
    expect(complaints).toEqual([]);
    await context.close();
  });

  it("fills in the page itself where workers have no WebGPU", async () => {
    const { context, page } = await open(browser, site.url(PAGE_ONLY), DESKTOP);
    const size = { width: 96, height: 64 };
    await openPng(page, "small.png", size, gradient(96, 64));
    await ready(page);
    expect(page.workers()).toHaveLength(0);
    await paint(page, size, [40, 30], [50, 30]);
    await fill(page);
    await context.close();
  });

  it("trains a small network on the picture, and stops", async () => {
    const { context, page, complaints } = await open(browser, site.url(PATH), DESKTOP);
    const code = context.waitForEvent("requestfinished", (request) => /training-.*\.js$/.test(request.url()));
    await page.locator("#sample").click();
    await ready(page);
    await code; // it comes behind the network; nothing is asked of a server from then on
    await context.setOffline(true);
    await page.locator("#train").click();
    await page.locator("#strip-figure").waitFor({ timeout: 120_000 });
    await expect.poll(() => page.locator("#train-status").textContent(), { timeout: 120_000 }).toMatch(/^Step (?!1,)/);
    const chart = await page.locator("#loss-chart").getAttribute("aria-label");
    const [, first, mean] = /^Loss by step: ([\d.]+) at the first, a running mean of ([\d.]+)/
      .exec(chart!)!
      .map(Number);
    expect(mean).toBeLessThan(first);

    const hide = (hidden: boolean) =>
      page.evaluate((value) => {
        Object.defineProperty(document, "hidden", { value, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
      }, hidden);
    const steps = async () => /step (\d+)$/.exec((await page.locator("#loss-chart").getAttribute("aria-label"))!)![1];
    await hide(true);
    expect(await page.locator("#train-status").textContent()).toMatch(/^Resting/);
    await page.waitForTimeout(5000); // the step under way ends
    const rested = await steps();
    await page.waitForTimeout(3000);
    expect(await steps()).toBe(rested);
    await hide(false);
    await expect.poll(steps, { timeout: 60_000 }).not.toBe(rested);

    await page.locator("#train").click();
    await expect.poll(() => page.locator("#train-status").textContent()).toMatch(/^Stopped after \d+ steps/);
    console.log(`training demo: ${await page.locator("#train-status").textContent()} First loss ${first}.`);
    expect(complaints).toEqual([]);
    await context.close();
  });
});

describe.skipIf(WITHOUT_CHROMIUM)("the page where there is no GPU", () => {
  let site: Site;
  let browser: Browser;

  beforeAll(async () => {
    const prelude = { name: WORKER, code: NO_WEBGPU_IN_WORKERS };
    site = await serve([
      { path: PATH, folder: "web/dist" },
      { path: PAGE_ONLY, folder: "web/dist", prelude },
    ]);
    browser = await launch(false);
  });
  afterAll(async () => {
    await browser?.close();
    await site?.close();
  });

  /** Guidance is there, and what needs no GPU works. */
  async function checkGuided({ page, complaints }: Watched, title: RegExp): Promise<void> {
    await page.locator("#guidance").waitFor();
    expect(await page.locator("#guidance-title").textContent()).toMatch(title);
    expect(await page.locator("#guidance").textContent()).toMatch(/Safari.*26.*Firefox.*141/s);
    expect(await page.locator("#train").isDisabled()).toBe(true);
    await page.locator("#sample").click();
    await page.locator("#editor[data-phase=edit]").waitFor();
    await paint(page, { width: 512, height: 384 }, [340, 60], [350, 90]);
    await expect.poll(() => status(page)).toMatch(/the hole is/);
    expect(await page.locator("#fill").isDisabled()).toBe(true);
    await expect.poll(() => page.locator("#levels-note").textContent()).toMatch(/^Your mask, computed on the CPU/);
    expect(await page.locator("#levels li").count()).toBe(8);
    expect((await saved(page, "#save-mask")).png.width).toBe(512);
    expect(complaints).toEqual([]);
  }

  it("says that WebGPU finds none, and still paints masks and shows their levels", async () => {
    await checkGuided(await open(browser, site.url(PATH), DESKTOP), /no GPU for it/);
  });

  it("says which browsers have WebGPU where this one has none", async () => {
    // Nor what older Safaris lack too.
    const withoutWebGpu = "delete Navigator.prototype.gpu; delete PointerEvent.prototype.getCoalescedEvents";
    await checkGuided(await open(browser, site.url(PAGE_ONLY), DESKTOP, withoutWebGpu), /has no WebGPU/);
  });
});
