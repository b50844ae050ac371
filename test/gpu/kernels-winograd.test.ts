/** Winograd's form: each transform against its matrices in float64, and whole passes against the convolution's references. */
import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.js";
import { skipsEachPixel, weightPass, type WeightPassBuffers } from "../../src/kernels/conv/backend.js";
import { convolve, convolveWeight } from "../../src/kernels/conv/engine.js";
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
import { polyphasePays, polyphaseShape } from "../../src/kernels/conv/polyphase.js";
import { winogradWeight, winogradWeightBackward } from "../../src/kernels/conv/winogradWeights.js";
import { winogradTile, winogradWeightPass } from "../../src/kernels/conv/winograd.js";
import { pconvBackwardInputRef } from "../../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeightRef } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { QUOTIENT } from "../../src/kernels/quotient.js";
import { convOutputSize, type ConvShape, squareWindow } from "../../src/kernels/shape.js";
import { transposeWeight } from "../../src/kernels/transposeWeight.js";
import { defineKernel } from "../../src/gpu/kernel.js";
import { linearGrid, linearMain } from "../../src/gpu/linear.js";
import { abs, expectClose, expectExact, rounding, tileRounding } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";
import { withBindingLimit } from "../support/limits.js";

const gpu = useGpu();
/** Products and their transforms: a few roundings more than the direct form's. */
const ULPS = 64;
const TILES: readonly WinogradTile[] = [2, 4];
/** Of transforms: the smaller form adds and halves, the larger multiplies by up to 3/2 to the third. */
const TRANSFORM_ERROR = { 2: 2e-6, 4: 1e-5 } as const;

const shape = (over: Partial<ConvShape>): ConvShape => ({
  n: 1,
  h: 8,
  w: 8,
  c: 4,
  k: 4,
  kernel: [3, 3],
  stride: [1, 1],
  padding: [1, 1],
  dilation: [1, 1],
  ...over,
});

describe("quotient", () => {
  it("is the integer quotient, up to the largest numbers", async () => {
    const draw = new Draw(0x71756f74);
    const pairs: [number, number][] = [
      [0, 1],
      [1, 1],
      [0xffffffff, 1],
      [0xffffffff, 3],
      [0xffffffff, 0x7fffffff],
      [0xfffffffe, 0xffff],
      [16777217, 1],
      [16777217, 16777216],
    ];
    for (let i = 0; i < 2000; i++) {
      const b = Math.max(1, Math.floor(2 ** draw.doubles(1, 0, 31)[0]));
      const q = Math.floor(2 ** draw.doubles(1, 0, 32)[0] / b);
      for (const a of [q * b - 1, q * b, q * b + 1, q * b + b - 1]) if (a >= 0 && a < 2 ** 32) pairs.push([a, b]);
    }
    const kernel = defineKernel({
      name: "quotientTest",
      params: { items: "u32" },
      bindings: ["read", "read_write"],
      wgsl: () => `
@group(0) @binding(1) var<storage, read> pairs: array<vec2u>;
@group(0) @binding(2) var<storage, read_write> result: array<u32>;
${QUOTIENT}
${linearMain("p.items", "result[id] = quotient(pairs[id].x, pairs[id].y);")}`,
    });
    const from = gpu().alloc(pairs.length * 8, "pairs");
    const to = gpu().alloc(pairs.length * 4, "result");
    gpu().write(from, Uint32Array.from(pairs.flat()));
    gpu().dispatch(kernel, undefined, { items: pairs.length }, [from, to], linearGrid(pairs.length));
    const [bits] = await gpu().read(to);
    expectExact("quotient", new Uint32Array(bits.buffer, bits.byteOffset, pairs.length), pairs.map(([a, b]) => Math.floor(a / b)), draw.seed); // prettier-ignore
    for (const storage of [from, to]) gpu().free(storage);
  });
});

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

describe.each(TILES)("passes in Winograd's form of tiles of side %i", (tile) => {
  const algorithm = tile === 2 ? "winograd2x2" : "winograd4x4";
  /** The smaller form's error has the size of an entry's own terms, but over phases, whose windows have zeros in them. */
  const allowedOf = (s: ConvShape) => (tile === 2 && s.stride[0] === 1 ? rounding : tileRounding);

  const SHAPES = [
    shape({ n: 2, h: 9, w: 11, c: 18, k: 20 }),
    shape({ h: 6, w: 20, c: 40, k: 5 }),
    shape({ n: 3, h: 2, w: 2, c: 4, k: 33 }),
    shape({ h: 7, w: 6, c: 5, k: 9, padding: [0, 2] }),
    shape({ h: 1, w: 3, c: 8, k: 8 }),
    // Several runs of tile rows, the last one shorter.
    shape({ n: 1, h: 110, w: 64, c: 72, k: 68 }),
    // Stride 2, over phases.
    shape({ n: 2, h: 18, w: 22, c: 18, k: 20, ...squareWindow(5, 2, 2) }),
    shape({ n: 2, h: 17, w: 9, c: 5, k: 9, ...squareWindow(5, 2, 2) }),
    shape({ h: 1, w: 2, c: 8, k: 4, ...squareWindow(5, 2, 2) }),
    shape({ n: 3, h: 20, w: 14, c: 6, k: 33, ...squareWindow(4, 2, 1) }),
    shape({ h: 120, w: 84, c: 20, k: 68, ...squareWindow(4, 2, 1) }),
  ];

  it.each(SHAPES)("$n x $h x $w, $c -> $k, $kernel, padding $padding", async (s) => {
    const draw = new Draw(0x77706173, s.h * 100 + s.c);
    const taps = s.kernel[0] * s.kernel[1];
    const allowed = allowedOf(s);
    const [p, q] = convOutputSize("test", s);
    const x = draw.floats(s.n * s.h * s.w * s.c);
    const weight = draw.floats(taps * s.c * s.k);
    const bias = draw.floats(s.k);
    const valid = draw.mask(p * q, 0.6);
    // A hole larger than any tile.
    for (let y = 0; y < p; y++) for (let i = 0; i < q / 2; i++) valid[y * q + i] = 0;
    const scale = draw.floats(p * q, 1, 9).map((v, i) => v * valid[i]);
    const before = draw.floats(s.n * p * q * s.k);
    const dy = draw.floats(s.n * p * q * s.k).map((v, i) => v * valid[Math.floor(i / s.k) % (p * q)]);
    // Over phases, tiles with no pixel that is wanted but in one of them.
    const validX = draw.mask(s.h * s.w, s.stride[0] === 2 ? 0.95 : 0.6);
    await withScratch(gpu(), async (t) => {
      const buffers = {
        src: t.activation(x, s.c),
        weight: t.weight(weight, taps, s.c, s.k),
        bias: t.activation(bias, s.k),
      };
      const ratio = { scale: t.floats(scale), biasScale: t.floats(valid), n: 1 };
      const y = t.outActivation("y", s.n * p * q, s.k);
      const live = { mask: ratio.scale, n: 1 };
      convolve(gpu(), s, "forward", { ...buffers, dst: y.storage, scale: ratio, live }, { slope: 0.2 }, algorithm);
      const added = t.outActivation("added", s.n * p * q, s.k);
      gpu().copy(t.activation(before, s.k), added.storage, s.n * p * q * Math.ceil(s.k / 4) * 16);
      convolve(gpu(), s, "forward", { src: buffers.src, weight: buffers.weight, dst: added.storage }, { accumulate: true }, algorithm); // prettier-ignore
      const kept = t.outActivation("kept", s.n * p * q, s.k);
      const none = t.floats(new Float32Array(p * q));
      const base = t.activation(before, s.k);
      convolve(gpu(), s, "forward", { src: buffers.src, weight: buffers.weight, dst: kept.storage, live: { mask: none, n: 1 }, base }, {}, algorithm); // prettier-ignore

      const weightT = gpu().alloc(buffers.weight.bytes * 2, "weightT");
      transposeWeight(gpu(), s, buffers.weight, weightT);
      const dx = t.outActivation("dx", s.n * s.h * s.w, s.c);
      const liveX = { mask: t.floats(validX), n: 1 };
      const dyBuffer = t.activation(dy, s.k);
      convolve(
        gpu(),
        s,
        "backwardInput",
        { src: dyBuffer, weight: weightT, dst: dx.storage, live: liveX },
        {},
        algorithm,
      );
      const dw = t.outWeight("dw", taps, s.c, s.k);
      convolveWeight(gpu(), s, { x: buffers.src, dy: dyBuffer, dw: dw.storage, live }, algorithm);
      const [yGot, addedGot, keptGot, dxGot, dwGot] = await t.read(y, added, kept, dx, dw);
      gpu().free(weightT);

      const large = s.h > 100;
      const only = large ? (i: number) => i % 997 === 0 : undefined;
      const ratioRef = { scale, biasScale: valid, n: 1 };
      const want = pconvForwardRef(s, x, weight, bias, ratioRef, only).map((v) => (v > 0 ? v : 0.2 * v));
      const sizes = pconvForwardRef(s, abs(x), abs(weight), abs(bias), ratioRef, only);
      const plain = pconvForwardRef(s, x, weight, undefined, undefined, only);
      const plainSize = pconvForwardRef(s, abs(x), abs(weight), undefined, undefined, only);
      const chosen = (got: Float32Array, c: number) =>
        only ? got.map((v, i) => (only(Math.floor(i / c)) ? v : 0)) : got;
      expectClose("y", chosen(yGot, s.k), want, rounding(sizes, ULPS), draw.seed);
      const sum = Float64Array.from(plain, (v, i) => (only && !only(Math.floor(i / s.k)) ? 0 : v + before[i]));
      const sumSize = Float64Array.from(plainSize, (v, i) => v + Math.abs(before[i]));
      expectClose("accumulated", chosen(addedGot, s.k), sum, allowed(sumSize, ULPS), draw.seed);
      expectExact("base", keptGot, before, draw.seed);

      const onlyX = large ? (i: number) => i % 997 === 0 : undefined;
      const dxRef = pconvBackwardInputRef(s, dy, weight, onlyX);
      const dxSize = pconvBackwardInputRef(s, abs(dy), abs(weight), onlyX);
      const visible = (values: ArrayLike<number>) =>
        Float64Array.from(values, (v, i) => {
          const pixel = Math.floor(i / s.c);
          return validX[pixel % (s.h * s.w)] === 0 || (onlyX && !onlyX(pixel)) ? 0 : v;
        });
      expectClose("dx", visible(dxGot), visible(dxRef), allowed(dxSize, ULPS), draw.seed);
      expect(dxGot.every((v) => Number.isFinite(v))).toBe(true);
      const onlyW = large ? (tap: number, c: number) => (tap * s.c + c) % 97 === 0 : undefined;
      const dwRef = pconvBackwardWeightRef(s, x, dy, onlyW);
      const dwSize = pconvBackwardWeightRef(s, abs(x), abs(dy), onlyW);
      const rows = dwGot.map((v, i) =>
        onlyW && !onlyW(Math.floor(i / (s.c * s.k)), Math.floor(i / s.k) % s.c) ? 0 : v,
      );
      // An entry's error has the size of the tile's other entries, not its own.
      const largest = dwSize.reduce((a, v) => Math.max(a, v), 0);
      expectClose("dw", rows, dwRef, rounding(dwSize.fill(largest), ULPS / 4), draw.seed);
    });
  });

  it("the weight's gradient in products that look at dead tiles, and in those that do not", async () => {
    const s = shape({ n: 2, h: 11, w: 14, c: 8, k: 12 });
    const draw = new Draw(0x64656164);
    const valid = draw.mask(s.h * s.w, 0.7);
    const x = draw.floats(s.n * s.h * s.w * s.c);
    const dy = draw.floats(s.n * s.h * s.w * s.k).map((v, i) => v * valid[Math.floor(i / s.k) % valid.length]);
    const want = pconvBackwardWeightRef(s, x, dy);
    const size = pconvBackwardWeightRef(s, abs(x), abs(dy)).reduce((a, v) => Math.max(a, v), 0);
    const tiled = {
      backend: "workgroup",
      spec: { rows4: 4, columns4: 2, depth: 4, threadRows4: 2, threadColumns4: 1 },
    } as const;
    await withScratch(gpu(), async (t) => {
      const buffers = { x: t.activation(x, s.c), dy: t.activation(dy, s.k), live: { mask: t.floats(valid), n: 1 } };
      for (const backend of [tiled, "register", "simple"] as const) {
        const own = { imagePerTap: true };
        const products = {
          record: (of: ConvShape, b: WeightPassBuffers) => weightPass(gpu(), of, b, own, backend),
          skipsEachPixel: (of: ConvShape) => skipsEachPixel(gpu(), of, own, backend),
        };
        expect(products.skipsEachPixel(s)).toBe(backend !== tiled);
        // What the transforms are given is not what new memory is: zeros.
        const [side, tiles] = [tile + 2, 2 * Math.ceil(s.h / tile) * Math.ceil(s.w / tile)];
        const bytes = [s.c, s.k].map((channels) => side ** 2 * tiles * channels * 4);
        const dirty = bytes.map((size) => gpu().alloc(size, "dirty"));
        for (const storage of dirty) gpu().write(storage, new Float32Array(storage.bytes / 4).fill(NaN));
        for (const storage of dirty) gpu().free(storage);
        const dw = t.outWeight("dw", 9, s.c, s.k);
        winogradWeightPass(gpu(), { tile }, products, s, { ...buffers, dw: dw.storage });
        expectClose("dw", (await t.read(dw))[0], want, rounding(want.map(() => size), ULPS / 4), draw.seed); // prettier-ignore
      }
    });
  });
});

describe("the choice", () => {
  const BINDABLE = 128 * 2 ** 20;

  it("refuses what has no such form", () => {
    const s = shape({ stride: [2, 2], c: 256, k: 256, h: 64, w: 64 });
    // Over phases there are no two outputs to add to, and sizes must be halves.
    const phased = shape({ ...squareWindow(5, 2, 2), c: 256, k: 256, h: 64, w: 64 });
    const odd = shape({ ...squareWindow(4, 2, 1), h: 65 });
    const storage = gpu().alloc(256, "any");
    const buffers = { src: storage, weight: storage, dst: storage };
    for (const algorithm of ["winograd2x2", "winograd4x4"] as const) {
      expect(() => convolve(gpu(), s, "forward", buffers, {}, algorithm)).toThrow(ShapeError);
      expect(() => convolve(gpu(), odd, "forward", buffers, {}, algorithm)).toThrow(ShapeError);
      for (const [more, options] of [
        [{}, { accumulate: true }],
        [{}, { slope: 0 }],
        [{ bias: storage }, {}],
      ] as const)
        expect(() => convolve(gpu(), phased, "backwardInput", { ...buffers, ...more }, options, algorithm)).toThrow(ShapeError); // prettier-ignore
    }
    gpu().free(storage);
    expect(winogradTile(s, false, BINDABLE)).toBe(null);
  });

  it("takes the larger tile where there are enough of it, and neither for few channels or pixels", () => {
    const s = shape({ c: 256, k: 256, h: 64, w: 64 });
    expect(winogradTile(s, false, BINDABLE)).toBe(4);
    expect(winogradTile({ ...s, h: 16, w: 16 }, false, BINDABLE)).toBe(2);
    expect(winogradTile({ ...s, n: 4, h: 16, w: 16 }, false, BINDABLE)).toBe(4);
    expect(winogradTile({ ...s, h: 8, w: 8 }, false, BINDABLE)).toBe(null);
    expect(winogradTile({ ...s, c: 64, k: 64 }, false, BINDABLE)).toBe(4);
    expect(winogradTile({ ...s, c: 64, k: 64, h: 16, w: 16 }, false, BINDABLE)).toBe(null);
    expect(winogradTile({ ...s, c: 32, k: 32 }, false, BINDABLE)).toBe(null);
  });

  it("goes over phases where stride 2 has enough channels, pixels and memory for it", () => {
    const pays = (over: Partial<ConvShape>, bindable = BINDABLE) => {
      const s = shape({ h: 64, w: 64, c: 128, k: 256, ...squareWindow(5, 2, 2), ...over });
      return polyphasePays(s, polyphaseShape(s)!, bindable);
    };
    expect(pays({})).toBe(true);
    expect(pays({ h: 32, w: 32 })).toBe(false);
    expect(pays({ n: 4, h: 32, w: 32 })).toBe(true);
    expect(pays({ c: 64, k: 128 })).toBe(true);
    expect(pays({ c: 32, k: 64 })).toBe(false);
    expect(pays({ ...squareWindow(4, 2, 1) })).toBe(true);
    expect(pays({ ...squareWindow(4, 2, 1), c: 64, k: 128 })).toBe(false);
    // The transformed weight, then the phases of odd sizes, which are more than the input.
    expect(pays({}, 36 * 512 * 256 * 4)).toBe(true);
    expect(pays({}, 36 * 512 * 256 * 4 - 1)).toBe(false);
    const wide = { h: 1023, w: 1023, c: 64, k: 128 };
    expect(pays(wide, 1024 * 1024 * 64 * 4)).toBe(true);
    expect(pays(wide, 1024 * 1024 * 64 * 4 - 1)).toBe(false);
    expect(polyphaseShape(shape({ stride: [2, 2] }))).toBe(null);
    expect(polyphaseShape(shape({ ...squareWindow(5, 2, 2), padding: [2, 1] }))).toBe(null);
  });

  it("keeps transformed weights, and rows of tiles, to what may be bound at once", async () => {
    const s = shape({ c: 1024, k: 1024, h: 32, w: 32 });
    expect(winogradTile(s, false, 2 ** 30)).toBe(4);
    expect(winogradTile(s, false, BINDABLE)).toBe(2);
    expect(winogradTile({ ...s, c: 2048, k: 2048 }, false, BINDABLE)).toBe(null);
    const wide = shape({ c: 256, k: 256, h: 32, w: 16384 });
    expect(winogradTile({ ...wide, w: 8192 }, false, BINDABLE)).toBe(4);
    expect(winogradTile(wide, false, BINDABLE)).toBe(2);
    expect(winogradTile({ ...wide, w: 16386 }, false, BINDABLE)).toBe(null);
    const small = shape({ c: 64, k: 64, h: 32, w: 32 });
    const draw = new Draw(0x62696e64);
    const [x, weight] = [draw.floats(32 * 32 * 64), draw.floats(9 * 64 * 64)];
    await withScratch(gpu(), async (t) => {
      const y = t.outActivation("y", 32 * 32, 64);
      const buffers = { src: t.activation(x, 64), weight: t.weight(weight, 9, 64, 64), dst: y.storage };
      await withBindingLimit(gpu(), 36 * 64 * 64 * 4 - 16, async () => {
        convolve(gpu(), small, "forward", buffers);
        await gpu().sync();
      });
      const size = pconvForwardRef(small, abs(x), abs(weight), undefined);
      expectClose("y", (await t.read(y))[0], pconvForwardRef(small, x, weight, undefined), rounding(size), draw.seed);
    });
  });

  it("leaves phases where an output that is too large to be bound is made in runs of rows", async () => {
    const s = shape({ h: 144, w: 144, c: 32, k: 256, ...squareWindow(5, 2, 2) });
    const pixels = 72 * 72;
    const limit = pixels * s.k * 4 - 256;
    expect(polyphasePays(s, polyphaseShape(s)!, limit)).toBe(true);
    const draw = new Draw(0x70686173);
    const x = draw.floats(s.h * s.w * s.c);
    const weight = draw.floats(25 * s.c * s.k);
    const dy = draw.floats(pixels * s.k);
    const some = (i: number) => i % 397 === 0;
    const at = (values: ArrayLike<number>, channels: number, chosen = some) =>
      Float64Array.from(values, (v, i) => (chosen(Math.floor(i / channels)) ? v : 0));
    const row = (tap: number, c: number) => some(tap * s.c + c);
    await withScratch(gpu(), async (t) => {
      const [src, dyBuffer] = [t.activation(x, s.c), t.activation(dy, s.k)];
      const from = t.weight(weight, 25, s.c, s.k);
      const weightT = gpu().alloc(from.bytes, "weightT");
      const y = t.outActivation("y", pixels, s.k);
      const dx = t.outActivation("dx", s.h * s.w, s.c);
      const dw = t.outWeight("dw", 25, s.c, s.k);
      await withBindingLimit(gpu(), limit, async () => {
        transposeWeight(gpu(), s, from, weightT);
        convolve(gpu(), s, "forward", { src, weight: from, dst: y.storage });
        convolve(gpu(), s, "backwardInput", { src: dyBuffer, weight: weightT, dst: dx.storage });
        convolveWeight(gpu(), s, { x: src, dy: dyBuffer, dw: dw.storage });
        await gpu().sync();
      });
      const [yGot, dxGot, dwGot] = await t.read(y, dx, dw);
      gpu().free(weightT);
      const forward = pconvForwardRef(s, x, weight, undefined, undefined, some);
      const forwardSize = pconvForwardRef(s, abs(x), abs(weight), undefined, undefined, some);
      expectClose("y", at(yGot, s.k), forward, rounding(forwardSize), draw.seed);
      const backward = pconvBackwardInputRef(s, dy, weight, some);
      const backwardSize = pconvBackwardInputRef(s, abs(dy), abs(weight), some);
      expectClose("dx", at(dxGot, s.c), backward, rounding(backwardSize), draw.seed);
      const ofWeight = pconvBackwardWeightRef(s, x, dy, row);
      const ofWeightSize = pconvBackwardWeightRef(s, abs(x), abs(dy), row);
      expectClose("dw", at(dwGot, s.k), ofWeight, rounding(ofWeightSize), draw.seed);
    });
  });

  it("leaves factors of half precision to the form that only adds", () => {
    const s = shape({ c: 256, k: 256, h: 64, w: 64 });
    expect(winogradTile(s, true, BINDABLE)).toBe(2);
    expect(winogradTile({ ...s, c: 64, k: 64 }, true, BINDABLE)).toBe(null);
  });
});
