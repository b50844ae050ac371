import { describe, expect, it } from "vitest";
import { diffusionFill, meanFill } from "../../src/pconv/baselines.js";
import {
  averageByBin,
  evaluate,
  type EvaluatedPair,
  type FillMethod,
  filledComposite,
  holeBin,
  MaskBins,
  rankedPairs,
} from "../../src/pconv/evaluate.js";
import { evaluationMask, evaluationPicture } from "../../src/pconv/evaluationSize.js";
import type { MaskPicture, Picture } from "../../src/pconv/picture.js";
import { generateMask } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";

/** The same levels in all channels, so that OpenCV can be given the same picture: x * 7 + y * 13 (+ x y), modulo 256. */
function ramp(width: number, height: number): Picture {
  const pixels = Float32Array.from({ length: width * height * 3 }, (_, i) => {
    const [x, y] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width)];
    return ((x * 7 + y * 13) % 256) / 255;
  });
  return { width, height, pixels };
}

const levels = ({ width, pixels }: Picture, row: number): number[] =>
  Array.from({ length: width }, (_, x) => Math.round(pixels[(row * width + x) * 3] * 255));

/** A mask whose first `holes` pixels are holes. */
function maskOf(size: number, holes: number): MaskPicture {
  const values = new Uint8Array(size * size).fill(1);
  return { width: size, height: size, values: values.fill(0, 0, holes) };
}

function flat(size: number, ...colour: number[]): Picture {
  return { width: size, height: size, pixels: Float32Array.from({ length: size * size * 3 }, (_, i) => colour[i % 3]) };
}

describe("evaluationPicture", () => {
  it("shrinks as OpenCV's area filter does, and cuts the middle out", () => {
    // cv2.resize of 37x29 to 13x10, INTER_AREA, then the columns 1 to 10; OpenCV 4.6.
    const small = evaluationPicture(ramp(37, 29), 10);
    expect([small.width, small.height]).toEqual([10, 10]);
    const opencv = [
      [39, 59, 79, 99, 118, 139, 159, 178, 198, 218],
      [114, 134, 154, 174, 194, 214, 217, 142, 44, 38],
      [122, 142, 162, 182, 201, 221, 218, 75, 25, 45],
    ];
    [0, 2, 9].forEach((row, k) => {
      levels(small, row).forEach((level, x) => expect(Math.abs(level - opencv[k][x])).toBeLessThanOrEqual(1));
    });
  });

  it("enlarges as OpenCV's area filter does", () => {
    // 10x7 to 23x16, the columns 3 to 18.
    const large = evaluationPicture(ramp(10, 7), 16);
    const opencv = [
      [7, 10, 14, 15, 21, 21, 27, 28, 32, 35, 36, 42, 42, 48, 49, 53],
      [59, 62, 66, 67, 73, 73, 79, 80, 84, 87, 88, 94, 94, 100, 101, 105],
      [85, 88, 92, 93, 99, 99, 105, 106, 110, 113, 114, 120, 120, 126, 127, 131],
    ];
    [1, 10, 15].forEach((row, k) => {
      levels(large, row).forEach((level, x) => expect(Math.abs(level - opencv[k][x])).toBeLessThanOrEqual(1));
    });
  });

  it("leaves pictures of the right size alone, and keeps a flat colour at any size", () => {
    const picture = ramp(20, 13);
    expect(levels(evaluationPicture(picture, 13), 5)).toEqual(levels(picture, 5).slice(3, 16));
    for (const size of [3, 8, 11, 17, 40]) {
      const { pixels } = evaluationPicture(flat(11, 0.2, 0.4, 0.8), size);
      expect(pixels.every((v, i) => Math.abs(v - [0.2, 0.4, 0.8][i % 3]) < 1e-6)).toBe(true);
    }
    expect(() => evaluationPicture(picture, 0)).toThrow(/1 pixel or more, got 0/);
  });
});

it("evaluationMask takes the pixels that OpenCV's nearest neighbour takes", () => {
  const values = Uint8Array.from({ length: 13 * 9 }, (_, i) => Number(i % 13 === 2 || i % 13 === 5 || i > 13 * 7));
  const small = evaluationMask({ width: 13, height: 9, values }, 5);
  // Columns 0 2 5 7 10, rows 0 1 3 5 7.
  expect([...small.values.subarray(0, 5)]).toEqual([0, 1, 1, 0, 0]);
  expect([...small.values.subarray(20)]).toEqual([0, 1, 1, 1, 1]);
});

describe("baselines", () => {
  const picture = (() => {
    const rng = Rng.of(3);
    return { width: 41, height: 30, pixels: Float32Array.from({ length: 41 * 30 * 3 }, () => rng.uniform()) };
  })();
  const mask = generateMask(41, 30, Rng.of(5), { thickness: [2, 6] });
  const spoilt: Picture = {
    ...picture,
    pixels: picture.pixels.map((v, i) => (mask.values[Math.floor(i / 3)] ? v : NaN)),
  };

  it.each([
    ["mean", meanFill],
    ["diffusion", diffusionFill],
  ])("%s keeps valid pixels, never looks into the hole, and fills with something of the picture's range", (_, fill) => {
    const filled = fill(spoilt, mask);
    expect(filled).toEqual(fill(picture, mask));
    expect(mask.values).toContain(0);
    filled.pixels.forEach((v, i) => {
      if (mask.values[Math.floor(i / 3)] === 1) expect(v).toBe(picture.pixels[i]);
      else expect(v > 0 && v < 1).toBe(true);
    });
    expect(() => fill(picture, maskOf(8, 3))).toThrow(/mask of 41x30, got 8x8/);
    expect(fill(flat(8, 0.1, 0.2, 0.3), maskOf(8, 64)).pixels).toEqual(flat(8, 0.5, 0.5, 0.5).pixels);
  });

  it("diffusion finds the harmonic fill: each hole pixel is its neighbours' mean", () => {
    const { pixels, width, height } = diffusionFill(picture, mask);
    let largest = 0;
    for (let i = 0; i < mask.values.length; i++) {
      if (mask.values[i] === 1) continue;
      const [x, y] = [i % width, Math.floor(i / width)];
      const around = [x > 0 && i - 1, x < width - 1 && i + 1, y > 0 && i - width, y < height - 1 && i + width];
      const neighbours = around.filter((at) => at !== false);
      for (let c = 0; c < 3; c++) {
        const mean = neighbours.reduce((sum, at) => sum + pixels[3 * at + c], 0) / neighbours.length;
        largest = Math.max(largest, Math.abs(pixels[3 * i + c] - mean));
      }
    }
    expect(largest).toBeLessThan(2e-4);
  });

  it("diffusion continues a linear ramp exactly, even across a wide hole", () => {
    const size = 97;
    const slope = Float32Array.from({ length: size * size * 3 }, (_, i) => {
      const at = Math.floor(i / 3);
      return (0.6 * (at % size) + 0.4 * Math.floor(at / size)) / size;
    });
    const values = new Uint8Array(size * size).fill(1);
    for (let y = 9; y < 90; y++) values.fill(0, y * size + 8, y * size + 91);
    const { pixels } = diffusionFill(
      { width: size, height: size, pixels: slope },
      { width: size, height: size, values },
    );
    expect(Math.max(...pixels.map((v, i) => Math.abs(v - slope[i])))).toBeLessThan(0.002);
  });
});

describe("bins", () => {
  it("are open below and closed above", () => {
    expect([0, 0.01, 0.0101, 0.1, 0.1001, 0.35, 0.6, 0.601, 1].map(holeBin)).toEqual([-1, -1, 0, 0, 1, 3, 5, -1, -1]);
  });

  it("give picture i mask i mod n, however many are kept", () => {
    const bins = new MaskBins(3);
    for (const [name, holes] of [
      ["a", 5],
      ["full", 100],
      ["b", 15],
      ["c", 6],
      ["d", 7],
      ["e", 8],
      ["f", 16],
    ] as const) {
      bins.add(maskOf(10, holes), name);
    }
    expect([bins.total, bins.outside, bins.count(0), bins.count(1), bins.count(2)]).toEqual([7, 1, 4, 2, 0]);
    expect([0, 1, 2].map((i) => bins.maskFor(0, i)!.name)).toEqual(["a", "c", "d"]);
    expect([0, 1, 2].map((i) => bins.maskFor(1, i)!.name)).toEqual(["b", "f", "b"]);
    expect(bins.maskFor(2, 0)).toBeUndefined();
  });
});

describe("evaluate", () => {
  const size = 20;
  const truths = [flat(size, 0.2, 0.2, 0.2), flat(size, 0.6, 0.6, 0.6), flat(size, 1, 1, 1)];
  const constant: FillMethod = { name: "constant", fill: () => flat(size, 1, 1, 1) };
  const run = (methods: FillMethod[]) => {
    const masks = new MaskBins(truths.length);
    for (const holes of [20, 40, 100]) masks.add(maskOf(size, holes), `m${holes}`);
    return evaluate({ pictures: truths.length, picture: (i) => Promise.resolve(truths[i]), masks, methods });
  };

  it("pairs, measures the composite, and averages by bin", async () => {
    const seen: Picture[] = [];
    const spy: FillMethod = { name: "mean", fill: (p, m) => (seen.push(p), meanFill(p, m)) };
    const pairs = await run([constant, spy]);
    expect(pairs.map(({ bin, image, mask }) => `${bin} ${image} ${mask}`)).toEqual([
      "0 0 m20",
      "2 0 m100",
      "0 1 m40",
      "2 1 m100",
      "0 2 m20",
      "2 2 m100",
    ]);
    // Flat pictures are filled with their mean without any error: 100 dB.
    const [small, , quarter] = averageByBin(pairs, 1);
    expect([small.count, small.l1, small.psnr, small.ssim]).toEqual([3, 0, 100, 1]);
    expect(quarter).toMatchObject({ bin: "0.2-0.3", count: 3, l1: 0 });
    const [first, empty, third] = averageByBin(pairs, 0);
    expect(empty).toEqual({ bin: "0.1-0.2", count: 0, l1: null, psnr: null, ssim: null });
    expect(third.l1).toBeCloseTo((100 * 0.25 * (0.8 + 0.4 + 0)) / 3, 4);
    const db = (error: number, share: number) => -10 * Math.log10(error * error * share);
    expect(third.psnr).toBeCloseTo((db(0.8, 0.25) + db(0.4, 0.25) + 100) / 3, 4);
    expect(first.psnr).toBeCloseTo((db(0.8, 0.05) + db(0.4, 0.1) + 100) / 3, 4);
    // No method is shown what it has to find.
    expect(seen.every(({ pixels }) => pixels.subarray(0, 60).every((v) => v === 0.5))).toBe(true);
  });

  it("measures what an 8-bit file would hold, and refuses fills of another size", async () => {
    const fine: FillMethod = { name: "fine", fill: () => flat(size, 0.5004, 1.7, -3) };
    const { pixels } = await filledComposite(fine, truths[0], maskOf(size, 1));
    expect([...pixels.subarray(0, 3)]).toEqual([Math.fround(128 / 255), 1, 0]);
    expect(pixels[3]).toBe(truths[0].pixels[3]);
    await expect(run([{ name: "odd", fill: () => flat(8, 1, 1, 1) }])).rejects.toThrow(/method odd.*one size/);
  });

  it("finds the best, median, low and worst of a bin", async () => {
    const pairs = await run([constant]);
    const ranks = (list: typeof pairs) => rankedPairs(list, 2, 0).map(({ rank, pair }) => `${rank} ${pair.image}`);
    expect(ranks(pairs)).toEqual(["best 2", "median 1", "worst 0"]);
    expect(ranks(pairs.slice(0, 4))).toEqual(["best 1", "worst 0"]);
    expect(ranks(pairs.slice(0, 2))).toEqual(["best 0"]);
    expect(rankedPairs(pairs, 1, 0)).toEqual([]);
    const many = (count: number) =>
      Array.from({ length: count }, (_, image): EvaluatedPair => ({ ...pairs[0], bin: 2, image, quality: [{ l1: 0, ssim: 1, psnr: image }] })); // prettier-ignore
    expect(ranks(many(4))).toEqual(["best 3", "median 2", "low 1", "worst 0"]);
    expect(ranks(many(40))).toEqual(["best 39", "median 20", "low 10", "worst 0"]);
  });
});
