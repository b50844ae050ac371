/** The guides' pages against their scripts: no snippet that the script does not have, no picture that is not there. */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

/** Those with a script; the example in 6-browser.md is a page, and test/web runs it. */
const pages = readdirSync("docs").filter((name) => /^[1-5]-.*\.md$/.test(name));
/** Lines without their indentation and without empty ones: a snippet stands further left than in the script. */
const lines = (text: string) => text.split(/\r?\n/).map((line) => line.trim()).filter(Boolean); // prettier-ignore
const found = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].map((match) => match[1]);

describe.each(pages)("docs/%s", (page) => {
  const text = readFileSync(join("docs", page), "utf8");

  it("shows lines of its script", () => {
    const script = `\n${lines(readFileSync(join("guides", page.replace(".md", ".ts")), "utf8")).join("\n")}\n`;
    const snippets = found(text, /^```ts\r?\n(.*?)^```/gms);
    expect(snippets.length).toBeGreaterThan(0);
    for (const snippet of snippets) expect(script).toContain(`\n${lines(snippet).join("\n")}\n`);
  });

  it("shows pictures that exist and are small", () => {
    const pictures = found(text, /!\[[^\]]+\]\(([^)]+)\)/g);
    expect(pictures.length).toBeGreaterThan(0);
    for (const picture of pictures) expect(statSync(join("docs", picture)).size).toBeLessThan(64 * 1024);
  });

  it("links to files that exist, and is in the README's list", () => {
    for (const link of found(text, /(?<!!)\[[^\]]+\]\((\.\.?\/[^)#]+)\)/g)) expect(existsSync(join("docs", link)), link).toBe(true); // prettier-ignore
    expect(readFileSync("README.md", "utf8")).toContain(`(docs/${page})`);
  });
});

it("has the five guides, and no picture that no page shows", () => {
  expect(pages.map((name) => name[0])).toEqual(["1", "2", "3", "4", "5"]);
  const texts = readdirSync("docs").filter((name) => name.endsWith(".md")).map((name) => join("docs", name)); // prettier-ignore
  const all = [...texts, "models/README.md"].map((path) => readFileSync(path, "utf8")).join("\n");
  for (const picture of readdirSync("docs/images")) expect(all).toContain(`images/${picture})`);
});
