/** Samples from two supplies at random. */
import { expect, it } from "vitest";
import { MixedSource } from "../../src/pconv/mixedSource.js";

const source = (name: string, length: number) => ({
  description: name,
  length,
  sample: async (seed: number, index: number, size: number) => `${name} ${seed} ${index} ${size}`,
});

it("takes about the share from the second, each as it would be alone, and the same again", async () => {
  const mixed = new MixedSource(source("folder", 5), source("drawn", Infinity), 0.3);
  const draw = () => Promise.all(Array.from({ length: 2000 }, (_, i) => mixed.sample(7, i, 64)));
  const samples = await draw();
  expect(await draw()).toEqual(samples);
  samples.forEach((sample, i) => expect(sample).toMatch(new RegExp(`^(folder|drawn) 7 ${i} 64$`)));
  const drawn = samples.filter((sample) => sample.startsWith("drawn")).length;
  expect(Math.abs(drawn - 600)).toBeLessThan(4 * Math.sqrt(2000 * 0.3 * 0.7));
  expect(await mixed.sample(8, 0, 64)).toMatch(/ 8 0 64$/);
  expect(mixed.length).toBe(Infinity);
  expect(mixed.description).toBe("70 % folder, 30 % drawn");
});

it.each([0, 1])("takes all from one with a share of %i", async (share) => {
  const mixed = new MixedSource(source("folder", 5), source("drawn", 5), share);
  for (let i = 0; i < 50; i++) expect(await mixed.sample(1, i, 8)).toMatch(share === 0 ? /^folder/ : /^drawn/);
});
