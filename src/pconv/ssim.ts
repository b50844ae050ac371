/** Structural similarity of two pictures. No Node here. */
import { ShapeError } from "../errors.js";
import { checkSameSize } from "./metrics.js";
import type { Picture } from "./picture.js";

const WINDOW = 11;
const SIGMA = 1.5;
/** (K1 L)^2 and (K2 L)^2 with K1 0.01, K2 0.03 and L 1, the range of the pixels. */
const C1 = 0.01 ** 2;
const C2 = 0.03 ** 2;

/** The Gaussian's weights along one axis; they add up to 1. */
const WEIGHTS = (() => {
  const raw = Array.from({ length: WINDOW }, (_, i) => Math.exp(-((i - (WINDOW - 1) / 2) ** 2) / (2 * SIGMA ** 2)));
  const sum = raw.reduce((a, b) => a + b);
  return Float64Array.from(raw, (w) => w / sum);
})();

/**
 * SSIM, mean over the three channels and over all windows:
 *
 *     (2 ma mb + C1) (2 cov + C2) / ((ma^2 + mb^2 + C1) (va + vb + C2))
 *
 * with an 11x11 Gaussian window of sigma 1.5, K 0.01 and 0.03, and moments of the population (no n / (n - 1)).
 * **Only windows that lie wholly inside the picture count**, as in the authors' program: the outer 5 pixels are no centres,
 * and nothing is invented beyond the border. In float64.
 *
 * Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004.
 * @returns 1 for equal pictures, lower for others, at least -1
 * @throws {ShapeError} when the sizes differ, or a side is below 11 pixels
 */
export function ssim(a: Picture, b: Picture): number {
  checkSameSize("ssim", a, b);
  const { width, height } = a;
  if (width < WINDOW || height < WINDOW) {
    throw new ShapeError(
      "ssim",
      `expected pictures of at least ${WINDOW}x${WINDOW}, got ${width}x${height}`,
      "the window has that size; compare larger pictures",
    );
  }
  // With s = a + b and d = a - b four blurred maps are enough: s, d, s^2, d^2. For instance cov = (vs - vd) / 4.
  const maps = [0, 1, 2, 3].map(() => new Float64Array(width * height));
  let total = 0;
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < width * height; i++) {
      const [x, y] = [a.pixels[3 * i + channel], b.pixels[3 * i + channel]];
      const [s, d] = [x + y, x - y];
      maps[0][i] = s;
      maps[1][i] = d;
      maps[2][i] = s * s;
      maps[3][i] = d * d;
    }
    const [ms, md, ss, dd] = maps.map((map) => blur(map, width, height));
    for (let i = 0; i < ms.length; i++) {
      const [s2, d2] = [ms[i] ** 2, md[i] ** 2];
      const [vs, vd] = [ss[i] - s2, dd[i] - d2];
      total += (((s2 - d2) / 2 + C1) * ((vs - vd) / 2 + C2)) / (((s2 + d2) / 2 + C1) * ((vs + vd) / 2 + C2));
    }
  }
  return total / (3 * (width - WINDOW + 1) * (height - WINDOW + 1));
}

/** Weighted means of all windows inside the map: [height - 10, width - 10]. */
function blur(map: Float64Array, width: number, height: number): Float64Array {
  const columns = width - WINDOW + 1;
  const rows = height - WINDOW + 1;
  const across = new Float64Array(columns * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < columns; x++) {
      let sum = 0;
      for (let k = 0; k < WINDOW; k++) sum += WEIGHTS[k] * map[y * width + x + k];
      across[y * columns + x] = sum;
    }
  }
  const result = new Float64Array(columns * rows);
  for (let k = 0; k < WINDOW; k++) {
    const weight = WEIGHTS[k];
    const offset = k * columns;
    for (let i = 0; i < result.length; i++) result[i] += weight * across[i + offset];
  }
  return result;
}
