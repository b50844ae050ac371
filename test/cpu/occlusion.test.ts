import { describe, expect, it } from "vitest";
import { deadLeaves } from "../../src/pconv/deadLeaves.js";
import { varyMask } from "../../src/pconv/maskAugment.js";
import { occlusionMasks } from "../../src/pconv/occlusion.js";
import { opticalFlow } from "../../src/pconv/opticalFlow.js";
import { holeRatio, type MaskPicture, type Picture } from "../../src/pconv/picture.js";
import { isMixed } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";
import { generateStrokes } from "../../src/pconv/strokes.js";

const WIDTH = 160;
const HEIGHT = 120;
const background = deadLeaves(256, 160, Rng.of(1));
const object = deadLeaves(64, 64, Rng.of(2));

/** A textured square of 48x48 with its corner at (left, top) before a background that is moved by (panX, 0). */
function frame(left: number, top: number, panX = 0): Picture {
  const pixels = new Float32Array(WIDTH * HEIGHT * 3);
  for (let i = 0; i < pixels.length; i++) {
    const [x, y, c] = [Math.floor(i / 3) % WIDTH, Math.floor(i / 3 / WIDTH), i % 3];
    const [ox, oy] = [x - left, y - top];
    const inside = ox >= 0 && oy >= 0 && ox < 48 && oy < 48;
    pixels[i] = inside ? object.pixels[(oy * 64 + ox) * 3 + c] : background.pixels[(y * 256 + x + 40 + panX) * 3 + c];
  }
  return { width: WIDTH, height: HEIGHT, pixels };
}

const draw = (
  { width, values }: MaskPicture,
  keep: (x: number, y: number) => boolean,
): { holes: number; all: number } => {
  let [holes, all] = [0, 0];
  values.forEach((v, i) => {
    if (!keep(i % width, Math.floor(i / width))) return;
    all++;
    holes += 1 - v;
  });
  return { holes, all };
};

describe("opticalFlow", () => {
  it("finds the motion of the object and of the background", () => {
    const { u, v } = opticalFlow(frame(50, 40), frame(59, 36, 3));
    const off = (x0: number, y0: number, side: number, wantU: number, wantV: number): number => {
      const errors: number[] = [];
      for (let y = y0; y < y0 + side; y++) {
        for (let x = x0; x < x0 + side; x++)
          errors.push(Math.hypot(u[y * WIDTH + x] - wantU, v[y * WIDTH + x] - wantV));
      }
      return errors.sort((a, b) => a - b)[Math.floor(errors.length * 0.8)];
    };
    expect(off(60, 50, 28, 9, -4)).toBeLessThan(0.5);
    expect(off(8, 8, 28, -3, 0)).toBeLessThan(0.5);
    expect(off(118, 80, 32, -3, 0)).toBeLessThan(0.5);
  });
});

describe("occlusionMasks", () => {
  it("finds what the object hides, and what it uncovers, and little else", () => {
    // The object moves by 12 to the right: the background at its right gets hidden, that at its left is uncovered.
    const [occluded, uncovered] = occlusionMasks(frame(50, 40), frame(62, 40));
    const strip = (from: number) => (x: number, y: number) => x >= from && x < from + 12 && y >= 40 && y < 88;
    const near = (from: number) => (x: number, y: number) => x >= from - 8 && x < from + 20 && y >= 32 && y < 96;
    for (const [mask, from] of [
      [occluded, 98],
      [uncovered, 50],
    ] as const) {
      const { holes, all } = draw(mask, strip(from));
      expect(holes / all).toBeGreaterThan(0.6);
      const far = draw(mask, (x, y) => !near(from)(x, y));
      expect(far.holes / far.all).toBeLessThan(0.03);
    }
  });

  it("hides what a moving camera leaves behind", () => {
    const [gone] = occlusionMasks(frame(200, 0), frame(200, 0, 9));
    const left = draw(gone, (x) => x < 8);
    const rest = draw(gone, (x) => x > 14);
    expect(left.holes / left.all).toBeGreaterThan(0.8);
    expect(rest.holes / rest.all).toBeLessThan(0.03);
  });

  it("leaves no specks, which dilation would make blots of", () => {
    // Without the majority filter these frames give 2 and 3.
    for (const { width, values } of occlusionMasks(frame(50, 40), frame(62, 37, 3))) {
      const around = [-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1];
      const inner = [...values.keys()].filter((i) => i > width && i < values.length - width - 1 && values[i] === 0);
      expect(inner.length).toBeGreaterThan(500);
      expect(inner.filter((i) => around.filter((step) => values[i + step] === 0).length <= 1)).toEqual([]);
    }
  });

  it("refuses frames without motion, and frames of two sizes", () => {
    expect(() => occlusionMasks(frame(50, 40), frame(50, 40))).toThrow(/gets hidden or uncovered, got none such/);
    expect(() => occlusionMasks(frame(50, 40), object)).toThrow(/one size/);
  });
});

it("varyMask dilates, cuts and turns: other masks for other numbers, the same for the same", () => {
  const values = new Uint8Array(WIDTH * HEIGHT).fill(1);
  for (let y = 50; y < 60; y++) values.fill(0, y * WIDTH + 70, y * WIDTH + 80);
  const mask = { width: WIDTH, height: HEIGHT, values };
  const drawn = Array.from({ length: 40 }, (_, i) => varyMask(mask, 64, Rng.of(i)));
  expect(new Set(drawn.map((m) => m.values.join(""))).size).toBeGreaterThan(30);
  expect(varyMask(mask, 64, Rng.of(7))).toEqual(drawn[7]);
  const shares = drawn.filter(isMixed).map(holeRatio);
  expect(shares.length).toBeGreaterThan(25);
  // 10x10 grow by 1 to 5 on each side and are cut out of a square of 72 to 120.
  expect(Math.max(...shares)).toBeLessThan(1.2 * (20 / 72) ** 2);
  expect(Math.max(...shares)).toBeGreaterThan(1.2 * (10 / 72) ** 2);
});

describe("generateStrokes", () => {
  it("covers as much as the authors' program at 256x256", { timeout: 30_000 }, () => {
    // 2000 masks of brush_stroke_mask of DeepFill v2, its lines and discs drawn as capsules of exact width.
    const original = { n: 2000, mean: 0.1498, std: 0.0776 };
    const quantiles = [
      [0.05, 0.0372],
      [0.25, 0.0891],
      [0.5, 0.143],
      [0.75, 0.2027],
      [0.95, 0.2834],
    ] as const;
    const n = 1500;
    const ratios = Array.from({ length: n }, (_, i) => holeRatio(generateStrokes(256, 256, Rng.of(3, i))));
    ratios.sort((a, b) => a - b);
    const both = 3 * Math.sqrt(1 / original.n + 1 / n) * original.std;
    expect(Math.abs(ratios.reduce((a, b) => a + b) / n - original.mean)).toBeLessThan(both);
    // The outer quantiles' standard errors are about twice the mean's.
    for (const [share, ratio] of quantiles)
      expect(Math.abs(ratios[Math.floor(share * n)] - ratio)).toBeLessThan(2 * both);
  });

  it("draws any size in proportion, the same for the same seed", () => {
    const mean = (w: number, h: number) =>
      Array.from({ length: 100 }, (_, i) => holeRatio(generateStrokes(w, h, Rng.of(4, i)))).reduce((a, b) => a + b) /
      100;
    expect(Math.abs(mean(128, 128) / mean(384, 384) - 1)).toBeLessThan(0.1);
    const mask = generateStrokes(90, 60, Rng.of(8));
    expect([mask.width, mask.height, mask.values.length]).toEqual([90, 60, 5400]);
    expect(generateStrokes(90, 60, Rng.of(8))).toEqual(mask);
    expect(generateStrokes(90, 60, Rng.of(9)).values).not.toEqual(mask.values);
    for (const size of [0, 1.5, NaN]) expect(() => generateStrokes(8, size, Rng.of(1))).toThrow(/width and height/);
  });
});
