import { describe, expect, it } from "vitest";
import { l1Percent, psnr } from "../../src/pconv/metrics.js";
import type { Picture } from "../../src/pconv/picture.js";
import { Rng } from "../../src/pconv/rng.js";
import { ssim } from "../../src/pconv/ssim.js";

/** 8-bit levels by a formula, so that OpenCV can be given the same picture. */
function formula(width: number, height: number, k: number, change: (level: number) => number = (v) => v): Picture {
  const pixels = Float32Array.from({ length: width * height * 3 }, (_, i) => {
    const [x, y, c] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width), i % 3];
    return change((x * 7 + y * 13 + c * 29 + k * x * y) % 256) / 255;
  });
  return { width, height, pixels };
}

function noise(width: number, height: number, seed: number): Picture {
  const rng = Rng.of(seed);
  return { width, height, pixels: Float32Array.from({ length: width * height * 3 }, () => rng.uniform()) };
}

/** The definition, window by window with a two-dimensional Gaussian and central moments. */
function slowSsim(a: Picture, b: Picture): number {
  const { width, height } = a;
  const gauss = (i: number, j: number): number => Math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5 ** 2));
  let norm = 0;
  for (let i = 0; i < 11; i++) for (let j = 0; j < 11; j++) norm += gauss(i, j);
  let [total, windows] = [0, 0];
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y + 11 <= height; y++) {
      for (let x = 0; x + 11 <= width; x++) {
        const over = (f: (p: number, q: number) => number): number => {
          let sum = 0;
          for (let i = 0; i < 11; i++) {
            for (let j = 0; j < 11; j++) {
              const at = ((y + i) * width + x + j) * 3 + c;
              sum += (gauss(i, j) / norm) * f(a.pixels[at], b.pixels[at]);
            }
          }
          return sum;
        };
        const [ma, mb] = [over((p) => p), over((_, q) => q)];
        const va = over((p) => (p - ma) ** 2);
        const vb = over((_, q) => (q - mb) ** 2);
        const cov = over((p, q) => (p - ma) * (q - mb));
        total += ((2 * ma * mb + 1e-4) * (2 * cov + 9e-4)) / ((ma * ma + mb * mb + 1e-4) * (va + vb + 9e-4));
        windows++;
      }
    }
  }
  return total / windows;
}

describe("ssim", () => {
  it("is what OpenCV's Gaussian blur gives over the windows inside the picture", () => {
    // cv2.GaussianBlur(x, (11, 11), 1.5) in float64, the outer 5 pixels cut off; OpenCV 4.6.
    expect(ssim(formula(24, 17, 0), formula(24, 17, 1))).toBeCloseTo(-0.16711993103322237, 6);
    const dimmed = formula(24, 17, 1, (v) => Math.floor(v / 2) + 40);
    expect(ssim(formula(24, 17, 1), dimmed)).toBeCloseTo(0.7846697854731771, 6);
    const negative = formula(24, 17, 2, (v) => 255 - v);
    expect(ssim(formula(24, 17, 2), negative)).toBeCloseTo(-0.9464532424935257, 6);
  });

  it.each([
    [11, 11],
    [12, 19],
    [31, 13],
  ])("is the definition's value at %dx%d", (width, height) => {
    const [a, b] = [noise(width, height, 1), noise(width, height, 2)];
    const mixed = { ...b, pixels: b.pixels.map((v, i) => 0.7 * a.pixels[i] + 0.3 * v) };
    for (const other of [b, mixed]) expect(ssim(a, other)).toBeCloseTo(slowSsim(a, other), 10);
    expect(ssim(a, mixed)).toBeCloseTo(ssim(mixed, a), 12);
    expect(ssim(a, a)).toBeCloseTo(1, 12);
    expect(ssim(a, mixed)).toBeGreaterThan(ssim(a, b) + 0.3);
  });

  it("refuses pictures that have no window or differ in size", () => {
    expect(() => ssim(noise(10, 40, 1), noise(10, 40, 2))).toThrow(/at least 11x11, got 10x40/);
    expect(() => ssim(noise(12, 12, 1), noise(12, 13, 2))).toThrow(/one size, got 12x12 and 12x13/);
  });
});

describe("l1Percent and psnr", () => {
  it("measure a known difference", () => {
    const a = formula(9, 7, 0);
    const b = { ...a, pixels: a.pixels.map((v, i) => (i % 4 === 0 ? v + 0.1 : v)) };
    const share = Math.ceil(a.pixels.length / 4) / a.pixels.length;
    expect(l1Percent(a, b)).toBeCloseTo(10 * share, 5);
    expect(psnr(a, b)).toBeCloseTo(20 - 10 * Math.log10(share), 5);
    expect(psnr(a, a)).toBe(Infinity);
    expect(() => l1Percent(a, formula(7, 9, 0))).toThrow(/one size/);
  });
});
