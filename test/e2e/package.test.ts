/**
 * The package as npm packs it, in a project of its own: what the README shows compiles under strict TypeScript and runs on Node, and a
 * bundler takes the browser entry without anything of Node. Dependencies are linked from this checkout: nothing is downloaded.
 */
import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import sharp from "sharp";
import { build, type Rollup } from "vite";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeMaskPng } from "../../src/io/png.js";
import { generateMask } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";

const { dependencies } = JSON.parse(readFileSync("package.json", "utf8")) as { dependencies: Record<string, string> };
const folder = mkdtempSync(join(tmpdir(), "pconv-package-"));
const at = (...parts: string[]) => join(folder, ...parts);
const installed = at("node_modules", "pconv-webgpu");
const snippets = [...readFileSync("README.md", "utf8").matchAll(/^```ts\r?\n(.*?)^```/gms)].map((match) => match[1]);

const node = (...args: string[]) => promisify(execFile)(process.execPath, args, { cwd: folder });

/** What a failed program printed belongs into the message. */
async function compile(): Promise<string> {
  const result = node(resolve("node_modules/typescript/bin/tsc"), "-p", "tsconfig.json");
  return (await result.catch((error: { stdout: string }) => error)).stdout;
}

beforeAll(async () => {
  mkdirSync(installed, { recursive: true });
  // `npm test` has just built; a build from here would take dist/ away from tests that run at the same time.
  const pack = ["pack", "--ignore-scripts", "--silent", "--pack-destination", folder];
  await promisify(execFile)("npm", pack, { shell: process.platform === "win32" });
  const [archive] = readdirSync(folder).filter((name) => name.endsWith(".tgz"));
  await promisify(execFile)("tar", ["-xzf", archive, "-C", "node_modules/pconv-webgpu", "--strip-components", "1"], {
    cwd: folder,
  });
  for (const name of [...Object.keys(dependencies), "@types/node"]) {
    const link = at("node_modules", name);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(resolve("node_modules", name), link, "junction");
  }
  writeFileSync(at("package.json"), JSON.stringify({ name: "empty", type: "module" }));
  const compilerOptions = {
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    verbatimModuleSyntax: true,
    module: "NodeNext",
    target: "ES2022",
    lib: ["ES2022", "DOM"],
    outDir: "out",
    rootDir: ".",
  };
  writeFileSync(at("tsconfig.json"), JSON.stringify({ compilerOptions, include: ["*.ts"] }));
  snippets.forEach((text, i) => writeFileSync(at(`snippet${i}.ts`), text));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("the packed package", () => {
  it("holds the entries, the commands and the guides' pages, and no build information", () => {
    const { bin, exports } = JSON.parse(readFileSync(join(installed, "package.json"), "utf8")) as {
      bin: Record<string, string>;
      exports: Record<string, { types: string; default: string }>;
    };
    const entry = exports["./browser"];
    for (const path of [...Object.values(bin), entry.types, entry.default, "dist/src/index.js", "docs/1-masks.md"])
      expect(readFileSync(join(installed, path)).length).toBeGreaterThan(0);
    expect(readdirSync(join(installed, "dist")).sort()).toEqual(["bench", "browser", "models", "src", "tools"]);
    expect(readdirSync(join(installed, "dist/tools"))).not.toContain("train-default");
  });

  it("the README's snippets compile under strict TypeScript", async () => {
    expect(snippets.length).toBeGreaterThan(1);
    expect(await compile()).toBe("");
  });

  it("the README's snippets run on Node", async () => {
    const size = { width: 61, height: 47 };
    await sharp({ create: { ...size, channels: 3, background: "#4080c0" } }).jpeg().toFile(at("photo.jpg")); // prettier-ignore
    await writeMaskPng(at("mask.png"), generateMask(size.width, size.height, Rng.of(1)));
    for (let i = 0; i < snippets.length; i++) await node(at("out", `snippet${i}.js`));
    expect(await sharp(at("filled.png")).metadata()).toMatchObject(size);
  });

  it("Vite bundles the browser entry without anything of Node", async () => {
    writeFileSync(at("main.js"), 'import * as all from "pconv-webgpu";\nglobalThis.pconv = all;\n');
    writeFileSync(at("index.html"), '<script type="module" src="/main.js"></script>');
    const warnings: string[] = [];
    const warn = (message: string) => void warnings.push(message);
    const customLogger = { info() {}, warn, warnOnce: warn, error: warn, clearScreen() {}, hasErrorLogged: () => false, hasWarned: false }; // prettier-ignore
    const result = await build({
      root: folder,
      configFile: false,
      customLogger,
      build: { write: false, minify: false, chunkSizeWarningLimit: 10_000 },
    });
    const { output } = result as Rollup.RollupOutput;
    const chunks = output.filter((file) => file.type === "chunk");
    const modules = chunks.flatMap((chunk) => chunk.moduleIds);
    expect(modules.some((id) => id.includes("dist/src/pconv/unet.js"))).toBe(true);
    expect(modules.filter((id) => /browser-external|^node:|node_modules\/(sharp|pngjs|webgpu|commander)\//.test(id))).toEqual([]); // prettier-ignore
    for (const { code } of chunks) expect(code).not.toMatch(/["']node:/);
    // The weights that come with the package are a file of their own beside the code.
    expect(output.filter((file) => file.type === "asset" && file.fileName.endsWith(".safetensors"))).toHaveLength(1);
    expect(warnings).toEqual([]);
  });
});
