import { describe, expect, it } from "vitest";
import { DeadLeavesSource, deadLeaves } from "../../src/pconv/deadLeaves.js";
import type { Picture } from "../../src/pconv/picture.js";
import { Rng } from "../../src/pconv/rng.js";

/** Differences of horizontally neighbouring green values. */
function steps({ width, height, pixels }: Picture): number[] {
  const found: number[] = [];
  for (let y = 0; y < height; y++) {
    for (let x = 1; x < width; x++) found.push(pixels[3 * (y * width + x) + 1] - pixels[3 * (y * width + x) - 2]);
  }
  return found;
}

describe("dead leaves", () => {
  it("fills every pixel with values in 0..1, at any size", () => {
    for (const [w, h] of [
      [1, 1],
      [2, 5],
      [37, 53],
      [64, 64],
      [200, 8],
    ]) {
      const { pixels } = deadLeaves(w, h, Rng.of(w, h));
      expect(pixels.length).toBe(w * h * 3);
      expect(pixels.every((v) => v >= 0 && v <= 1)).toBe(true);
    }
    for (const size of [0, -3, 2.5, NaN]) expect(() => deadLeaves(size, 8, Rng.of(1))).toThrow(/width and height/);
  });

  it("covers the picture: no black gaps where light was left", () => {
    // Sums of partial covers must reach 1 everywhere; a pixel left open would be black, which natural colours hardly are.
    for (let i = 0; i < 10; i++) {
      const { pixels } = deadLeaves(64, 64, Rng.of(11, i));
      let black = 0;
      for (let p = 0; p < pixels.length; p += 3) if (pixels[p] + pixels[p + 1] + pixels[p + 2] === 0) black++;
      expect(black / 4096, `picture ${i}`).toBeLessThan(0.1);
    }
  });

  it("has the statistics of photographs: mostly smooth, some strong edges, varied brightness", () => {
    let [square, fourth, flat, strong, count] = [0, 0, 0, 0, 0];
    const means: number[] = [];
    for (let i = 0; i < 24; i++) {
      const picture = deadLeaves(96, 96, Rng.of(2, i));
      means.push(picture.pixels.reduce((a, b) => a + b) / picture.pixels.length);
      for (const d of steps(picture)) {
        square += d * d;
        fourth += d ** 4;
        if (Math.abs(d) < 0.02) flat++;
        if (Math.abs(d) > 0.15) strong++;
        count++;
      }
    }
    expect(flat / count).toBeGreaterThan(0.4);
    expect(strong / count).toBeGreaterThan(0.02);
    expect(strong / count).toBeLessThan(0.2);
    // Kurtosis: 3 for noise, well above for pictures made of objects.
    expect((fourth / count) * (count / square) ** 2).toBeGreaterThan(6);
    expect(Math.max(...means) - Math.min(...means)).toBeGreaterThan(0.15);
  });

  it("depends on seed, index and size only", async () => {
    const source = new DeadLeavesSource();
    const a = await source.sample(1, 2, 32);
    await source.sample(1, 3, 32);
    expect((await new DeadLeavesSource().sample(1, 2, 32)).pixels).toEqual(a.pixels);
    expect((await source.sample(1, 3, 32)).pixels).not.toEqual(a.pixels);
    expect((await source.sample(2, 2, 32)).pixels).not.toEqual(a.pixels);
    await expect(source.sample(1, 0, 0)).rejects.toThrow(/expected a width and height/);
  });
});
