import { describe, expect, it } from "vitest";
import { Enlarged, reduceMasked } from "../../src/pconv/coarse.js";
import { inRim, listTiles, planTiles } from "../../src/pconv/tiles.js";

const allValid = (width: number, height: number) => ({ width, height, values: new Uint8Array(width * height).fill(1) });

describe("planTiles", () => {
  it("covers every pixel with shares that add up to 1, and none in a rim", () => {
    for (const tile of [32, 96, 128]) {
      for (const length of [tile + 1, 57, 200, 333, 1000].filter((l) => l > tile)) {
        const { columns, rim } = planTiles(length, tile, tile);
        const sums = new Float64Array(length);
        columns.starts.forEach((start, i) => {
          expect(columns.size).toBe(tile);
          columns.weights[i].forEach((w, k) => {
            sums[start + k] += w;
            if ((i > 0 && k < rim) || (i < columns.starts.length - 1 && k >= tile - rim)) expect(w).toBe(0);
          });
        });
        expect(columns.starts[0]).toBe(0);
        expect(columns.starts.at(-1)).toBe(length - tile);
        for (const sum of sums) expect(sum).toBeCloseTo(1, 5);
      }
    }
  });

  it("changes from tile to tile in small steps", () => {
    const { columns } = planTiles(400, 128, 128);
    for (const weights of columns.weights) {
      for (let k = 1; k < weights.length; k++) expect(Math.abs(weights[k] - weights[k - 1])).toBeLessThan(0.11);
    }
  });

  it("takes a picture that fits as one tile of its own size, without a rim", () => {
    const plan = planTiles(37, 53, 64);
    expect(listTiles(plan)).toEqual([{ x: 0, y: 0, column: 0, row: 0 }]);
    expect([plan.columns.size, plan.rows.size]).toEqual([37, 53]);
    expect(inRim(plan, listTiles(plan)[0], 0, 0)).toBe(false);
  });
});

describe("listTiles", () => {
  it("leaves out tiles that have no share in a hole", () => {
    const plan = planTiles(400, 400, 128);
    const mask = allValid(400, 400);
    expect(listTiles(plan, mask)).toEqual([]);
    mask.values[0] = 0;
    expect(listTiles(plan, mask)).toEqual([{ x: 0, y: 0, column: 0, row: 0 }]);
    // In the second tile's rim only the first one counts.
    const x = plan.columns.starts[1] + plan.rim - 1;
    mask.values[x] = 0;
    expect(listTiles(plan, mask)).toHaveLength(1);
    mask.values[x + 8] = 0;
    expect(listTiles(plan, mask)).toHaveLength(2);
    expect(listTiles(plan)).toHaveLength(16);
  });
});

describe("reduceMasked", () => {
  it("averages valid pixels only, and keeps holes where a block has none", () => {
    const picture = { width: 4, height: 2, pixels: new Float32Array(24) };
    const values = Uint8Array.from([1, 0, 0, 0, 1, 1, 0, 0]);
    [0.1, NaN, NaN, NaN, 0.2, 0.6, NaN, NaN].forEach((v, i) => picture.pixels.fill(v, 3 * i, 3 * i + 3));
    const { picture: small, mask } = reduceMasked(picture, { width: 4, height: 2, values }, 2, 1);
    expect([...mask.values]).toEqual([1, 0]);
    expect(small.pixels[0]).toBeCloseTo(0.3, 6);
    expect(small.pixels[3]).toBe(0);
  });
});

describe("Enlarged", () => {
  it("gives back a ramp, with pixel centres on pixel centres", () => {
    const coarse = { width: 4, height: 1, pixels: Float32Array.from({ length: 12 }, (_, i) => Math.floor(i / 3)) };
    const large = new Enlarged(coarse, 16, 4);
    const out = new Float32Array(3);
    for (let x = 2; x < 14; x++) {
      large.read(x, 3, out, 0);
      expect(out[1]).toBeCloseTo((x + 0.5) / 4 - 0.5, 6);
    }
    large.read(0, 0, out, 0);
    expect(out[0]).toBe(0);
  });
});
