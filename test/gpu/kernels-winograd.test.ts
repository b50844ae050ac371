/** Winograd's forms, whole passes against the convolution's references, over phases too, and where they are chosen. */
import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.js";
import { skipsEachPixel, weightPass, type WeightPassBuffers } from "../../src/kernels/conv/backend.js";
import { convolve, convolveWeight } from "../../src/kernels/conv/engine.js";
import { polyphasePays, polyphaseShape } from "../../src/kernels/conv/polyphase.js";
import { winogradTile, winogradWeightPass } from "../../src/kernels/conv/winograd.js";
import type { WinogradTile } from "../../src/kernels/conv/winogradForms.js";
import { pconvBackwardInputRef } from "../../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeightRef } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { convOutputSize, type ConvShape, squareWindow } from "../../src/kernels/shape.js";
import { transposeWeight } from "../../src/kernels/transposeWeight.js";
import { abs, expectClose, expectExact, rounding, tileRounding } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";
import { withBindingLimit } from "../support/limits.js";

const gpu = useGpu();
/** Products and their transforms: a few roundings more than the direct form's. */
const ULPS = 64;
const TILES: readonly WinogradTile[] = [2, 4];

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
