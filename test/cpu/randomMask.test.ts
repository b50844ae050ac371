import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { cutMask, dilateHoles } from "../../src/pconv/maskAugment.js";
import { holeRatio, type MaskPicture } from "../../src/pconv/picture.js";
import { generateMask, isMixed, RandomMaskSource } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";
import { drawMask } from "../../tools/masks.js";

function maskOf(...rows: string[]): MaskPicture {
  const values = Uint8Array.from(rows.join(""), (c) => (c === "#" ? 0 : 1));
  return { width: rows[0].length, height: rows.length, values };
}

function draw(mask: MaskPicture): string[] {
  return Array.from({ length: mask.height }, (_, y) =>
    Array.from(mask.values.subarray(y * mask.width, (y + 1) * mask.width), (v) => (v === 0 ? "#" : ".")).join(""),
  );
}

/** Connected groups of hole pixels, diagonals included. */
function countHoles(values: Uint8Array, width: number): number {
  const seen = new Uint8Array(values.length);
  let count = 0;
  for (let start = 0; start < values.length; start++) {
    if (values[start] === 1 || seen[start] === 1) continue;
    count++;
    const open = [start];
    seen[start] = 1;
    for (let at = open.pop(); at !== undefined; at = open.pop()) {
      for (const dy of [-width, 0, width]) {
        for (const dx of [-1, 0, 1]) {
          const next = at + dy + dx;
          const column = (at % width) + dx;
          if (column < 0 || column >= width || next < 0 || next >= values.length) continue;
          if (values[next] === 1 || seen[next] === 1) continue;
          seen[next] = 1;
          open.push(next);
        }
      }
    }
  }
  return count;
}

describe("generateMask", () => {
  it("has the hole-ratio statistics of the original generator at 512x512", { timeout: 60_000 }, () => {
    // Measured on 500 masks of PConv-Keras' MaskGenerator with OpenCV 4.6.
    const original = { n: 500, mean: 0.2678, std: 0.0934 };
    const quantiles: [share: number, ratio: number][] = [
      [0.05, 0.1148],
      [0.1, 0.1432],
      [0.25, 0.1959],
      [0.5, 0.2672],
      [0.75, 0.3375],
      [0.9, 0.3915],
      [0.95, 0.4156],
    ];
    const bins = [0.034, 0.234, 0.358, 0.294, 0.078, 0.002]; // (0, .1], (.1, .2] ... (.5, .6]
    const n = 1000;
    const ratios = Array.from({ length: n }, (_, i) => holeRatio(generateMask(512, 512, Rng.of(1, i))));
    ratios.sort((a, b) => a - b);
    const mean = ratios.reduce((a, b) => a + b) / n;
    const std = Math.sqrt(ratios.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1));
    // Three standard errors of the difference of two samples.
    const both = 3 * Math.sqrt(1 / original.n + 1 / n);
    expect(Math.abs(mean - original.mean)).toBeLessThan(both * original.std);
    expect(Math.abs(std - original.std)).toBeLessThan((both * original.std) / Math.SQRT2);
    for (const [share, ratio] of quantiles) {
      // A quantile's standard error is sqrt(p (1 - p) / n) / density; the density is about normal here.
      const z = (ratio - original.mean) / original.std;
      const density = Math.exp((-z * z) / 2) / (original.std * Math.sqrt(2 * Math.PI));
      const tolerance = (both * Math.sqrt(share * (1 - share))) / density;
      expect(Math.abs(ratios[Math.floor(share * n)] - ratio), `quantile ${share}`).toBeLessThan(tolerance);
    }
    bins.forEach((share, k) => {
      const got = ratios.filter((r) => r > k / 10 && r <= (k + 1) / 10).length / n;
      expect(Math.abs(got - share), `bin ${k}`).toBeLessThan(both * Math.sqrt(share * (1 - share)) + 0.01);
    });
  });

  it("has as many separate holes, and edges as long, as the original generator", { timeout: 60_000 }, () => {
    // Measured on the same 500 masks; the spread of the number of holes is ours, for none was noted.
    const original = { n: 500, holes: 7.93, perimeter: 8244, perimeterStd: 2262 };
    const n = 300;
    const [counts, lengths]: [number[], number[]] = [[], []];
    for (let i = 0; i < n; i++) {
      const { values, width } = generateMask(512, 512, Rng.of(1, i));
      counts.push(countHoles(values, width));
      let edges = 0;
      for (let k = 0; k < values.length; k++) {
        if (k % width < width - 1 && values[k] !== values[k + 1]) edges++;
        if (k + width < values.length && values[k] !== values[k + width]) edges++;
      }
      lengths.push(edges);
    }
    const mean = (of: number[]) => of.reduce((a, b) => a + b) / n;
    const spread = Math.sqrt(mean(counts.map((v) => (v - mean(counts)) ** 2)));
    const both = 3 * Math.sqrt(1 / original.n + 1 / n);
    expect(Math.abs(mean(counts) - original.holes)).toBeLessThan(both * spread);
    expect(Math.abs(mean(lengths) - original.perimeter)).toBeLessThan(both * original.perimeterStd);
  });

  it("covers what OpenCV covers when it is given the same numbers", () => {
    // Mean of the mask that cv2.line, cv2.circle and cv2.ellipse draw from the numbers of Rng.of(seed), seeds 0 to 9.
    const byOpenCv = [0.2536, 0.3747, 0.1903, 0.3462, 0.2877, 0.4656, 0.3652, 0.3673, 0.2578, 0.1054];
    byOpenCv.forEach((ratio, seed) => {
      const ours = holeRatio(generateMask(512, 512, Rng.of(seed)));
      expect(Math.abs(ours - ratio) / ratio, `seed ${seed}`).toBeLessThan(0.015);
    });
  });

  it("gives the same mask for the same seed, on every machine", () => {
    const mask = generateMask(200, 120, Rng.of(7, 3));
    expect([mask.width, mask.height]).toEqual([200, 120]);
    expect(createHash("sha256").update(mask.values).digest("hex").slice(0, 16)).toBe("2664796dc2559fa7");
    expect(generateMask(200, 120, Rng.of(7, 4)).values).not.toEqual(mask.values);
  });

  it("draws lines as wide as OpenCV does, with round caps", () => {
    const none = [0, 0] as const;
    for (const [thickness, width] of [
      [1, 1],
      [2, 3],
      [3, 5],
      [4, 5],
      [9, 11],
    ]) {
      const options = { lines: [1, 1], circles: none, ellipses: none, thickness: [thickness, thickness] } as const;
      const mask = generateMask(60, 60, Rng.of(5), options);
      const area = mask.values.filter((v) => v === 0).length;
      const rng = Rng.of(5);
      rng.integer(1, 1);
      const [x1, x2, y1, y2] = [rng.integer(1, 60), rng.integer(1, 60), rng.integer(1, 60), rng.integer(1, 60)];
      const expected = width * Math.hypot(x2 - x1, y2 - y1) + (Math.PI / 4) * width ** 2;
      expect(Math.abs(area - expected) / expected, `thickness ${thickness}`).toBeLessThan(thickness === 1 ? 0.3 : 0.08);
    }
  });

  it("draws discs of the given radius and arcs, and nothing when told so", () => {
    const none = [0, 0] as const;
    const disc = generateMask(99, 99, Rng.of(4), { lines: none, circles: [1, 1], ellipses: none, thickness: [6, 6] });
    expect(disc.values.filter((v) => v === 0).length).toBe(113); // lattice points within 6 of the centre
    const arcs = generateMask(99, 99, Rng.of(4), { lines: none, circles: none, ellipses: [20, 20] });
    expect(isMixed(arcs)).toBe(true);
    const blank = generateMask(9, 9, Rng.of(4), { lines: none, circles: none, ellipses: none });
    expect(holeRatio(blank)).toBe(0);
  });

  it("works for every size from 1x1 up, and only for sizes", () => {
    for (const [w, h] of [
      [1, 1],
      [1, 9],
      [2, 2],
      [3, 70],
      [33, 17],
    ]) {
      const { values } = generateMask(w, h, Rng.of(w, h));
      expect(values.length).toBe(w * h);
      expect(values.every((v) => v === 0 || v === 1)).toBe(true);
    }
    for (const size of [0, -1, 1.5, NaN]) expect(() => generateMask(size, 8, Rng.of(1))).toThrow(/width and height/);
    expect(() => generateMask(8, 8, Rng.of(1), { lines: [3, 1] })).toThrow(/option lines.*\n?.*\[3, 1\]/);
    expect(() => generateMask(8, 8, Rng.of(1), { thickness: [0, 1] })).toThrow(/option thickness/);
  });
});

describe("pconv masks", () => {
  it("has the hole ratio of large masks at small sizes too, in every shape", () => {
    const mean = (ratio: (i: number) => number) => Array.from({ length: 100 }, (_, i) => ratio(i)).reduce((a, b) => a + b) / 100; // prettier-ignore
    for (const [width, height] of [
      [64, 64],
      [96, 32],
    ]) {
      const small = mean((i) => holeRatio(drawMask({ width, height }, 3, i)));
      const large = mean((i) => holeRatio(generateMask(8 * width, 8 * height, Rng.of(7, i))));
      expect(Math.abs(small - large)).toBeLessThan(0.05);
    }
  });
});

describe("RandomMaskSource", () => {
  it("has the hole ratio of 512x512 masks at 64x64 too", async () => {
    const source = new RandomMaskSource();
    let sum = 0;
    const count = 400;
    for (let i = 0; i < count; i++) sum += holeRatio(await source.sample(11, i, 64)) / count;
    expect(Math.abs(sum - 0.2678)).toBeLessThan((3 * 0.0934) / Math.sqrt(count)); // three standard errors
  });

  it("never gives an all-hole or all-valid mask, even where nearly every drawing is one", async () => {
    const source = new RandomMaskSource();
    for (const size of [2, 3, 4, 8, 64]) {
      for (let i = 0; i < 40; i++) expect(isMixed(await source.sample(1, i, size)), `${size} #${i}`).toBe(true);
    }
    const none = [0, 0] as const;
    const blank = new RandomMaskSource({ lines: none, circles: none, ellipses: none });
    expect((await blank.sample(1, 0, 8)).values.filter((v) => v === 0).length).toBe(1);
    await expect(source.sample(1, 0, 1)).rejects.toThrow(/size of 2 pixels or more, got 1/);
  });

  it("depends on seed and index only", async () => {
    const later = (await new RandomMaskSource().sample(3, 5, 64)).values;
    const source = new RandomMaskSource();
    for (let i = 0; i < 5; i++) expect((await source.sample(3, i, 64)).values).not.toEqual(later);
    expect((await source.sample(3, 5, 64)).values).toEqual(later);
    expect((await source.sample(4, 5, 64)).values).not.toEqual(later);
  });
});

describe("dilateHoles", () => {
  it("grows holes by a square", () => {
    const mask = maskOf("......", "......", "..#...", "......", "......", ".....#");
    expect(draw(dilateHoles(mask, 1))).toEqual(["......", ".###..", ".###..", ".###..", "....##", "....##"]);
    expect(draw(dilateHoles(mask, 0))).toEqual(draw(mask));
    expect(draw(dilateHoles(maskOf("...", "..."), 2))).toEqual(["...", "..."]);
  });
});

describe("cutMask", () => {
  const mask = maskOf("#...", "#...", "##..", "....");
  const whole = { centreX: 2, centreY: 2, side: 4, angle: 0, flip: false };
  it("copies, mirrors, turns, crops and continues by reflection", () => {
    expect(draw(cutMask(mask, whole, 4))).toEqual(draw(mask));
    expect(draw(cutMask(mask, { ...whole, flip: true }, 4))).toEqual(["...#", "...#", "..##", "...."]);
    expect(draw(cutMask(mask, { ...whole, angle: Math.PI }, 4))).toEqual(["....", "..##", "...#", "...#"]);
    expect(draw(cutMask(mask, { ...whole, centreX: 1, centreY: 1, side: 2 }, 2))).toEqual(["#.", "#."]);
    expect(draw(cutMask(mask, { ...whole, centreX: 0 }, 4))).toEqual([".##.", ".##.", "####", "...."]);
    expect(draw(cutMask(mask, whole, 8))[5]).toBe("####....");
  });
});
