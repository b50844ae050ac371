/** Chromium for the page's tests. */
import { existsSync } from "node:fs";
import { chromium, type Browser, type BrowserContext, type BrowserContextOptions, type Page } from "playwright-core";

/** Which Chromium: PCONV_CHROMIUM, or where Debian and Ubuntu put it. */
export const CHROMIUM = process.env["PCONV_CHROMIUM"] ?? "/usr/bin/chromium";

/** Why the tests cannot run; null where they can. With CI=1 they run, and fail. */
export const WITHOUT_CHROMIUM =
  existsSync(CHROMIUM) || process.env["CI"]
    ? null
    : `no Chromium at ${CHROMIUM}: install it (apt-get install chromium) or set PCONV_CHROMIUM; the page's tests are skipped`;

const QUIET = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]; // prettier-ignore

/** @param webgpu whether it finds an adapter: headless Chromium takes SwiftShader only when asked */
export function launch(webgpu = true): Promise<Browser> {
  const gpu = webgpu ? ["--enable-unsafe-webgpu"] : [];
  return chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", ...QUIET, ...gpu] });
}

/** A page that notes what it asks the network for and what it complains about. */
export interface Watched {
  readonly context: BrowserContext;
  readonly page: Page;
  /** Every address that it asked for. */
  readonly requests: string[];
  /** Errors, among them what the Content-Security-Policy refused. */
  readonly complaints: string[];
}

/** @param script run in the page before its own */
export async function open(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
  script = "",
): Promise<Watched> {
  const context = await browser.newContext(options);
  await context.addInitScript(script);
  const page = await context.newPage();
  const requests: string[] = [];
  const complaints: string[] = [];
  context.on("request", (request) => requests.push(request.url()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(message.text());
  });
  await page.goto(url);
  return { context, page, requests, complaints };
}
