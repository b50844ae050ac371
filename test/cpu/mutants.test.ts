/** The list of deliberate mistakes fits the sources: else `npm run mutants` would end at the first that does not. */
import { existsSync, readFileSync } from "node:fs";
import { expect, it } from "vitest";
// @ts-expect-error: a program's own list, without types
import { MUTANTS } from "../../tools/mutants.list.mjs";

interface Mutant {
  readonly name: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
  readonly tests: readonly string[];
}

const root = new URL("../../", import.meta.url);

it("every mutant changes one place of its file", () => {
  const mutants = MUTANTS as readonly Mutant[];
  expect(mutants.length).toBeGreaterThan(100);
  const occurrences = mutants.map(({ name, file, find }) => {
    const times = readFileSync(new URL(file, root), "utf8").split(find).length - 1;
    return `${name}: ${times}`;
  });
  expect(occurrences).toEqual(mutants.map(({ name }) => `${name}: 1`));
  expect(mutants.filter(({ find, replace }) => find === replace)).toEqual([]);
});

it("every mutant names tests that there are", () => {
  const named = (MUTANTS as readonly Mutant[]).flatMap(({ tests }) => tests);
  const files = named.map((name) => `test/${name.includes("/") ? name : `gpu/${name}`}.test.ts`);
  expect(files.filter((file) => !existsSync(new URL(file, root)))).toEqual([]);
});
