/** What the page looks like, on phones and desktops, light and dark; and whether everybody can use it. */
import { mkdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import type { AxeResults } from "axe-core";
import type { Browser, Page } from "playwright-core";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launch, open, WITHOUT_CHROMIUM } from "./browser.js";
import { fill, paint, ready, setBrush } from "./editor.js";
import { serve, type Site } from "./serve.js";

/** Git ignores `runs`; PCONV_SCREENSHOTS=web/screenshots renews those of the repository. */
const SCREENSHOTS = process.env["PCONV_SCREENSHOTS"] ?? "runs/screenshots";
/** Width of the screenshots that are kept, in pixels. */
const LARGEST = 800;
const SAMPLE = { width: 512, height: 384 };
const SIZES = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 900 } };
const SCHEMES = ["light", "dark"] as const;

/** Where the balloon of the sample is. */
const BALLOON = [[348, 62], [348, 105], [348, 140]] as const; // prettier-ignore

describe.skipIf(WITHOUT_CHROMIUM)("looks", () => {
  let site: Site;
  let browser: Browser;
  let axe: string;

  beforeAll(async () => {
    site = await serve([{ path: "/", folder: "web/dist" }]);
    browser = await launch();
    axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
    await mkdir(SCREENSHOTS, { recursive: true });
  });
  afterAll(async () => {
    await browser?.close();
    await site?.close();
  });

  /** Everything that axe knows: WCAG 2.2 and good practice. */
  async function checkAccess(page: Page, when: string): Promise<void> {
    await page.evaluate(axe); // not as a script of the page, which its policy would refuse
    const { violations, passes } = await page.evaluate<AxeResults>("axe.run()");
    const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
    expect(found, when).toEqual([]);
    expect(passes.length).toBeGreaterThan(20);
  }

  /** No part of the page may be wider than the screen. */
  const checkWidth = async (page: Page): Promise<void> =>
    expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0);

  async function shoot(page: Page, name: string, fullPage = false): Promise<void> {
    const png = await page.screenshot({ fullPage });
    const resized = sharp(png).resize({ width: LARGEST, withoutEnlargement: true });
    await resized.png({ palette: true, colours: 128, effort: 8 }).toFile(`${SCREENSHOTS}/${name}.png`);
  }

  for (const [device, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of SCHEMES) {
      it(`${device}, ${colorScheme}`, async () => {
        const options = { viewport, colorScheme, hasTouch: device === "phone" };
        const { context, page, complaints } = await open(browser, site.url("/"), options);
        const name = `${device}-${colorScheme}`;
        await page.locator("#levels li").nth(7).waitFor();
        await checkAccess(page, "empty");
        await checkWidth(page);
        await shoot(page, `${name}-1-empty`);

        await page.locator("#sample").click();
        await ready(page);
        await setBrush(page, 92);
        await paint(page, SAMPLE, ...BALLOON);
        await expect.poll(() => page.locator("#levels-note").textContent()).toMatch(/^Your mask/);
        await checkAccess(page, "painted");
        await shoot(page, `${name}-2-painted`);

        await fill(page);
        await page.mouse.move(1, 1);
        await checkAccess(page, "filled");
        await checkWidth(page);
        await shoot(page, `${name}-3-filled`);

        if (colorScheme === "light" || device === "desktop") {
          await page.locator("#train").click();
          await expect
            .poll(() => page.locator("#train-status").textContent(), { timeout: 120_000 })
            .toMatch(/^Step 1[1-9]/);
          await page.locator("#train").click();
          await checkAccess(page, "trained");
        }
        await shoot(page, `${name}-4-whole`, true);
        expect(complaints).toEqual([]);
        await context.close();
      });
    }
  }

  it("guidance", async () => {
    const { context, page } = await open(
      browser,
      site.url("/"),
      { viewport: SIZES.phone },
      "delete Navigator.prototype.gpu",
    );
    await page.locator("#guidance").waitFor();
    await checkAccess(page, "guidance");
    await checkWidth(page);
    await shoot(page, "phone-light-5-guidance");
    await context.close();
  });
});
