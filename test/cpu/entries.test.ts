/** The two entries of the package: what they export, and that the browser's has nothing of Node in it. */
import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { describe, expect, it } from "vitest";

/** Every module that `file` imports, with all that those import; packages by name. `lazy` follows `import()` too. */
function imports(file: string, lazy: boolean, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return seen;
  seen.add(file);
  const text = readFileSync(file, "utf8");
  const names: string[] = [];
  for (const [, clause, from] of text.matchAll(/^(?:import|export)\s([^;]*?)from\s+"([^"]+)";/gms)) {
    if (!clause.trimStart().startsWith("type ")) names.push(from); // types are erased by the compiler
  }
  if (lazy) for (const [, from] of text.matchAll(/\bimport\("([^"]+)"\)/g)) names.push(from);
  for (const from of names) {
    if (from.startsWith(".")) imports(resolve(dirname(file), from.replace(/\.js$/, ".ts")), lazy, seen);
    else seen.add(from);
  }
  return seen;
}

/** Names of packages among what a file imports. */
const packages = (file: string, lazy: boolean): string[] =>
  [...imports(resolve(file), lazy)].filter((name) => !name.startsWith("/") && !/^[A-Z]:/i.test(name));

describe("the browser entry", () => {
  it("imports nothing but this library", () => {
    expect(packages("src/browser.ts", false)).toEqual([]);
  });

  it("loads what reads .pth and .h5 only for such files", () => {
    expect(packages("src/browser.ts", true).sort()).toEqual(["fflate", "h5wasm"]);
  });

  it("has no name that Node's lacks", async () => {
    const read = (file: string) => readFileSync(join("src", file), "utf8");
    expect(read("index.ts")).toContain('export * from "./exports.js"');
    const browser = await import("../../src/browser.js");
    const node = await import("../../src/index.js");
    expect(Object.keys(node)).toEqual(expect.arrayContaining(Object.keys(browser)));
  });

  it("tunes, times and counts without files", async () => {
    const browser = await import("../../src/browser.js");
    for (const name of [
      "tuneTraining",
      "tuneInference",
      "tuneConvolutions",
      "collectConvolutions",
      "profile",
      "FlopCounter",
    ])
      expect(browser).toHaveProperty(name);
    expect(browser).not.toHaveProperty("tuningFile");
  });
});

describe("the Node entry", () => {
  it("exports what the README uses", async () => {
    const node = await import("../../src/index.js");
    const text = readFileSync("README.md", "utf8");
    const names = [...text.matchAll(/import \{ ([^}]+) \} from "pconv-webgpu"/g)].flatMap(([, list]) =>
      list.split(", "),
    );
    expect(names.length).toBeGreaterThan(5);
    for (const name of names) expect(node).toHaveProperty(name);
  });
});
