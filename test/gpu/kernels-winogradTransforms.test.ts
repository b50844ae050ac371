/** The transforms of Winograd's forms against their matrices in float64. */
import { describe, expect, it } from "vitest";
import {
  type Matrix,
  transposed,
  WINOGRAD_FORMS,
  winogradRef,
  type WinogradTile,
} from "../../src/kernels/conv/winogradForms.js";
import {
  type TileRows,
  winogradGradient,
  winogradInput,
  winogradLive,
} from "../../src/kernels/conv/winogradTransforms.js";
import { winogradWeight, winogradWeightBackward } from "../../src/kernels/conv/winogradWeights.js";
import { expectClose, expectExact } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();
const TILES: readonly WinogradTile[] = [2, 4];
/** The smaller form adds and halves, the larger multiplies by up to 3/2 to the third. */
const TRANSFORM_ERROR = { 2: 2e-6, 4: 1e-5 } as const;

describe.each(TILES)("transforms of Winograd's form of tiles of side %i", (tile) => {
  const { side, Bt, G, At } = WINOGRAD_FORMS[tile];
  const draw = new Draw(0x77696e6f, tile);
  const [n, h, w, c] = [2, 2 * tile + 1, 4 * tile - 1, 6];
  const tiles: TileRows = { tile, n, h, w, c4: 2, tilesY: 3, tilesX: 4, row0: 2, rows: 3 };
  const x = draw.floats(n * h * w * c);
  const at = (img: number, y: number, column: number, ch: number) =>
    y < 0 || y >= h || column < 0 || column >= w ? 0 : x[((img * h + y) * w + column) * c + ch];
  /** Reference of [side^2,rows,tilesX,C] from a tile's values. */
  const expected = (matrix: Matrix, offset: number) => {
    const out = new Float64Array(side * side * tiles.rows * tiles.tilesX * c);
    const size = matrix[0].length;
    for (let r = 0; r < tiles.rows; r++)
      for (let tx = 0; tx < tiles.tilesX; tx++)
        for (let ch = 0; ch < c; ch++) {
          const [img, ty] = [Math.floor((tiles.row0 + r) / tiles.tilesY), (tiles.row0 + r) % tiles.tilesY];
          const values = Array.from({ length: size }, (_, i) =>
            Array.from({ length: size }, (__, j) => at(img, tile * ty + i - offset, tile * tx + j - offset, ch)),
          );
          winogradRef(matrix, values).forEach((row, i) =>
            row.forEach((v, j) => {
              out[(((side * i + j) * tiles.rows + r) * tiles.tilesX + tx) * c + ch] = v;
            }),
          );
        }
    return out;
  };
  const outputs = side * side * tiles.rows * tiles.tilesX;

  it("of the input, border and runs of rows included", async () => {
    await withScratch(gpu(), async (t) => {
      const v = t.outActivation("v", outputs, c);
      winogradInput(gpu(), tiles, [1, 1], { x: t.activation(x, c), v: v.storage }, "left");
      expectClose("v", (await t.read(v))[0], expected(Bt, 1), TRANSFORM_ERROR[tile], draw.seed);
    });
  });

  it("of the gradient", async () => {
    await withScratch(gpu(), async (t) => {
      const v = t.outActivation("v", outputs, c);
      winogradGradient(gpu(), tiles, { dy: t.activation(x, c), v: v.storage }, "left");
      expectClose("v", (await t.read(v))[0], expected(transposed(At), 0), TRANSFORM_ERROR[tile], draw.seed);
    });
  });

  it("leave zeros in dead tiles where sums go over them, in place of whatever was there", async () => {
    const live = draw.mask(tiles.rows * tiles.tilesX, 0.5);
    const alive = (want: Float64Array) => want.map((v, i) => v * live[Math.floor(i / c) % live.length]);
    await withScratch(gpu(), async (t) => {
      const [from, mask] = [t.activation(x, c), t.floats(live)];
      // Scratch results begin as NaN.
      const [v, g] = ["v", "g"].map((name) => t.outActivation(name, outputs, c));
      winogradInput(gpu(), tiles, [1, 1], { x: from, v: v.storage, live: mask }, "zero");
      winogradGradient(gpu(), tiles, { dy: from, v: g.storage, live: mask }, "zero");
      const [gotV, gotG] = await t.read(v, g);
      expectClose("v", gotV, alive(expected(Bt, 1)), TRANSFORM_ERROR[tile], draw.seed);
      expectClose("g", gotG, alive(expected(transposed(At), 0)), TRANSFORM_ERROR[tile], draw.seed);
    });
  });

  it("of the weight, turned and back", async () => {
    const [rows, k] = [4, 8];
    const weight = draw.floats(9 * rows * k);
    const pick = (values: ArrayLike<number>, r: number, width: number) =>
      Array.from({ length: width }, (_, i) =>
        Array.from({ length: width }, (__, j) => values[(i * width + j) * rows * k + r]),
      );
    const place = (to: Float64Array, r: number, values: number[][]) =>
      values.forEach((row, i) => row.forEach((v, j) => (to[(i * values.length + j) * rows * k + r] = v)));
    const taps = side * side;
    const [u, turned, dw] = [taps, taps, 9].map((count) => new Float64Array(count * rows * k));
    const du = draw.floats(taps * rows * k);
    for (let r = 0; r < rows * k; r++) {
      const values = pick(weight, r, 3);
      place(u, r, winogradRef(G, values));
      place(turned, r, winogradRef(G, values.map((row) => [...row].reverse()).reverse()));
      place(dw, r, winogradRef(transposed(G), pick(du, r, side)));
    }
    await withScratch(gpu(), async (t) => {
      const from = t.activation(weight, k);
      const outs = [t.outActivation("u", taps * rows, k), t.outActivation("turned", taps * rows, k)];
      winogradWeight(gpu(), { tile, rows, k4: 2, turned: false }, { w: from, u: outs[0].storage });
      winogradWeight(gpu(), { tile, rows, k4: 2, turned: true }, { w: from, u: outs[1].storage });
      const back = t.outActivation("dw", 9 * rows, k);
      winogradWeightBackward(gpu(), { tile, rows, k4: 2 }, { du: t.activation(du, k), dw: back.storage });
      const got = await t.read(...outs, back);
      [u, turned, dw].forEach((want, i) =>
        expectClose(["u", "turned", "dw"][i], got[i], want, TRANSFORM_ERROR[tile], draw.seed),
      );
    });
  });

  it.each([
    { side: 5, shift: 0 },
    { side: 4, shift: 1 },
  ])("of the weight over phases of a window of side $side, turned and back", async (phased) => {
    const [rows, k] = [4, 8];
    const weight = draw.floats(phased.side ** 2 * rows * k);
    const taps = side * side;
    /** Entry of the whole window for tap (i, j) of a phase, -1 where it has none. */
    const entry = (i: number, j: number, phase: number, r: number, column: number) => {
      const [y, x] = [2 * i + (phase >> 1) - phased.shift, 2 * j + (phase & 1) - phased.shift];
      const inside = [y, x].every((v) => v >= 0 && v < phased.side);
      return inside ? ((y * phased.side + x) * rows + r) * k + column : -1;
    };
    const three = [0, 1, 2];
    const [u, turned] = [1, 2].map(() => new Float64Array(taps * 4 * rows * k));
    const du = draw.floats(taps * 4 * rows * k);
    const dw = new Float64Array(phased.side ** 2 * rows * k);
    for (let phase = 0; phase < 4; phase++)
      for (let r = 0; r < rows; r++)
        for (let column = 0; column < k; column++) {
          const values = three.map((i) => three.map((j) => weight[entry(i, j, phase, r, column)] ?? 0));
          const half = values.map((row) => [...row].reverse()).reverse();
          const ofRows = (phase * rows + r) * k + column;
          const ofColumns = (r * 4 + phase) * k + column;
          winogradRef(G, values).flat().forEach((v, t) => (u[t * 4 * rows * k + ofRows] = v)); // prettier-ignore
          winogradRef(G, half).flat().forEach((v, t) => (turned[t * 4 * rows * k + ofColumns] = v)); // prettier-ignore
          const gradient = Array.from({ length: side }, (_, i) =>
            Array.from({ length: side }, (__, j) => du[(i * side + j) * 4 * rows * k + ofRows]),
          );
          winogradRef(transposed(G), gradient).forEach((row, i) =>
            row.forEach((v, j) => {
              const at = entry(i, j, phase, r, column);
              if (at >= 0) dw[at] = v;
            }),
          );
        }
    await withScratch(gpu(), async (t) => {
      const from = t.activation(weight, k);
      const outs = [t.outActivation("u", taps * 4 * rows, k), t.outActivation("turned", taps * rows, 4 * k)];
      winogradWeight(gpu(), { tile, rows: 4 * rows, k4: 2, phased, turned: false }, { w: from, u: outs[0].storage });
      winogradWeight(gpu(), { tile, rows, k4: 8, phased, turned: true }, { w: from, u: outs[1].storage });
      const back = t.outActivation("dw", phased.side ** 2 * rows, k);
      winogradWeightBackward(gpu(), { tile, rows: 4 * rows, k4: 2, phased }, { du: t.activation(du, k), dw: back.storage }); // prettier-ignore
      const got = await t.read(...outs, back);
      [u, turned, dw].forEach((want, i) =>
        expectClose(["u", "turned", "dw"][i], got[i], want, TRANSFORM_ERROR[tile], draw.seed),
      );
    });
  });

  it("live tiles are those with a live pixel", async () => {
    const live = draw.mask(n * h * w, 0.9);
    await withScratch(gpu(), async (t) => {
      const out = t.outFloats("live", 2 * tiles.rows * tiles.tilesX);
      winogradLive(gpu(), tiles, { live: { mask: t.floats(live), n }, liveTile: out.storage });
      const inTile = Array.from({ length: tile }, (_, i) => i);
      const want = Array.from({ length: tiles.rows * tiles.tilesX }, (_, id) => {
        const row = tiles.row0 + Math.floor(id / tiles.tilesX);
        const [img, ty, tx] = [Math.floor(row / tiles.tilesY), row % tiles.tilesY, id % tiles.tilesX];
        return Number(
          inTile.some((i) =>
            inTile.some((j) => {
              const [y, column] = [tile * ty + i, tile * tx + j];
              return y < h && column < w && live[(img * h + y) * w + column] !== 0;
            }),
          ),
        );
      });
      expect(want).toContain(0);
      const ones = want.map(() => 1); // no scales are as good as 1
      expectExact("live", (await t.read(out))[0], [...want, ...ones], draw.seed);
    });
  });

  it("scales are known where they are all 1, and in dead tiles where the bias has none", async () => {
    // One mask for all images: a tile of it is live, or not, as a whole.
    const [live, scale, biasScale] = [1, 1, 1].map((v) => new Float32Array(h * w).fill(v));
    const fillTile = (values: Float32Array, ty: number, tx: number, value: number) => {
      for (let y = tile * ty; y < Math.min(h, tile * ty + tile); y++)
        values.fill(value, y * w + tile * tx, y * w + Math.min(w, tile * tx + tile));
    };
    // Each scale is spoilt in a tile of its own, and in the picture's last, cut one.
    scale[tile * w + 1] = 1.5;
    biasScale[tile * w + tile] = 0;
    scale[h * w - 1] = 0;
    // Of dead tiles, two have no bias, whatever the other scale; one has it at one pixel, one everywhere.
    for (const [ty, tx] of [[1, 2], [1, 3], [2, 0], [2, 1]] as const) fillTile(live, ty, tx, 0); // prettier-ignore
    for (const [ty, tx] of [[1, 2], [1, 3], [2, 0]] as const) fillTile(biasScale, ty, tx, 0); // prettier-ignore
    fillTile(scale, 1, 3, 0);
    biasScale[2 * tile * w + 1] = 1;
    await withScratch(gpu(), async (t) => {
      const out = t.outFloats("live", 2 * tiles.rows * tiles.tilesX);
      const of = { scale: t.floats(scale), biasScale: t.floats(biasScale), n: 1 };
      winogradLive(gpu(), tiles, { live: { mask: t.floats(live), n: 1 }, scale: of, liveTile: out.storage });
      const inRun = (picture: number[][]) =>
        Array.from({ length: tiles.rows }, (_, r) => picture[(tiles.row0 + r) % tiles.tilesY]).flat();
      const [unknown, ones, zeros] = [0, 1, 2];
      const alive = inRun([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]]); // prettier-ignore
      const known = inRun([[ones, ones, ones, ones], [unknown, unknown, zeros, zeros], [unknown, ones, ones, unknown]]); // prettier-ignore
      expectExact("live", (await t.read(out))[0], [...alive, ...known], draw.seed);
    });
  });
});
