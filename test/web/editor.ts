/** What a visitor does in the editor, for the tests. */
import type { Download, Page } from "playwright-core";
import { PNG } from "pngjs";

/** Where a pixel of a picture is on the page, while the whole picture is in view. */
async function place(page: Page, size: Size, x: number, y: number): Promise<{ x: number; y: number }> {
  const box = (await page.locator("#canvas").boundingBox())!;
  const margin = 32;
  const scale = Math.min(4, (box.width - margin) / size.width, (box.height - margin) / size.height);
  const [left, top] = [(box.width - size.width * scale) / 2, (box.height - size.height * scale) / 2];
  return { x: box.x + left + x * scale, y: box.y + top + y * scale };
}

export interface Size {
  readonly width: number;
  readonly height: number;
}

/** Until the GPU is open and the network on it. */
export async function ready(page: Page): Promise<void> {
  await page.waitForFunction(() => !/not opened/.test(document.querySelector("#adapter")!.textContent));
}

/** Paints along points of the picture, given in its pixels. */
export async function paint(page: Page, size: Size, ...points: readonly (readonly [number, number])[]): Promise<void> {
  for (const [i, [px, py]] of points.entries()) {
    const { x, y } = await place(page, size, px, py);
    await page.mouse.move(x, y, { steps: i === 0 ? 1 : 6 });
    if (i === 0) await page.mouse.down();
  }
  await page.mouse.up();
}

export const setBrush = (page: Page, diameter: number): Promise<void> =>
  page.locator("#brush-size").evaluate((input: HTMLInputElement, value) => {
    input.value = String(value);
    input.dispatchEvent(new Event("input"));
  }, diameter);

/** Fills and waits for the result. */
export async function fill(page: Page): Promise<void> {
  await page.locator("#fill:enabled").click();
  await finished(page);
}

export const finished = (page: Page): Promise<void> => page.locator("#back").waitFor({ timeout: 240_000 });

async function pngOf(download: Download): Promise<PNG> {
  const parts: Buffer[] = [];
  for await (const part of await download.createReadStream()) parts.push(part as Buffer);
  return PNG.sync.read(Buffer.concat(parts));
}

/** Presses a button that saves a PNG, and reads it. */
export async function saved(page: Page, button: string): Promise<{ name: string; png: PNG }> {
  const [download] = await Promise.all([page.waitForEvent("download"), page.locator(button).click()]);
  return { name: download.suggestedFilename(), png: await pngOf(download) };
}

export const status = async (page: Page): Promise<string> => (await page.locator("#status").textContent())!;

/** Opens a picture as a PNG file. */
export async function openPng(page: Page, name: string, { width, height }: Size, rgba: Uint8Array): Promise<void> {
  const png = new PNG({ width, height });
  png.data = Buffer.from(rgba);
  await page.setInputFiles("#photo-file", { name, mimeType: "image/png", buffer: PNG.sync.write(png) });
  await page.locator("#editor[data-phase=edit]").waitFor();
}
