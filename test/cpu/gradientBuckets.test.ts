/** Cutting parameters into buckets and samples into shares. */
import { describe, expect, it } from "vitest";
import { bucketsOf } from "../../src/optim/gradientBuckets.js";
import { shardedIndex } from "../../src/pconv/dataParallel.js";

const parameters = (...sizes: number[]) => sizes.map((bytes, i) => ({ name: i, storage: { bytes } }));
const names = (list: ReturnType<typeof parameters>[]) => list.map((bucket) => bucket.map(({ name }) => name));

describe("bucketsOf", () => {
  it("goes from the last parameter to the first and closes a bucket once it is full", () => {
    expect(names(bucketsOf(parameters(40, 30, 30, 100, 10, 90), 100))).toEqual([[5, 4], [3], [2, 1, 0]]);
    expect(names(bucketsOf(parameters(1, 500, 1), 100))).toEqual([[2, 1], [0]]);
    expect(names(bucketsOf(parameters(1, 2, 3), 1))).toEqual([[2], [1], [0]]);
    expect(names(bucketsOf(parameters(1, 2, 3), Infinity))).toEqual([[2, 1, 0]]);
  });
});

describe("shardedIndex", () => {
  it.each([
    [1, 1],
    [1, 5],
    [2, 3],
    [4, 1],
    [3, 2],
  ])("gives %d ranks with batches of %d every sample once, steps in order", (size, batch) => {
    const steps = 4;
    for (let step = 0; step < steps; step++) {
      const used = Array.from({ length: size }, (_, rank) =>
        Array.from({ length: batch }, (_, i) => shardedIndex({ rank, size }, batch, step * batch + i)),
      ).flat();
      const first = step * size * batch;
      expect(used).toEqual(Array.from({ length: size * batch }, (_, i) => first + i));
    }
  });
});
