/**
 * Convolutions of 3x3 and stride 1 by Winograd's F(2x2, 3x3): transform, 16 products of matrices in the engine's own gather and
 * weight passes, transform back (see `winogradTransforms.ts`).
 *
 * Why: 4 multiplications per pixel and channel pair instead of 9, on top of whichever backend multiplies. What it costs is
 * memory traffic, 16/4 vec4s written and read again per pixel and channel vec4 on both sides, so it pays where C K / (C + K)
 * is large: from 40 on by measurement on lavapipe (A 64->64 even, B 192->64 1.35 times as fast, D 512->512 1.5 times), and by
 * calculation for a GPU with 60 TFLOP/s and 4.8 TB/s (32 (C + K) bytes against 10 C K operations a pixel). Runs of tile rows are dealt with one after the other, so that what lies between stays small (and on software
 * adapters in the cache).
 *
 * Error: about twice that of the direct form in float32 (Lavin & Gray 2016, sec. 5.3; bounds in the tests).
 */
import type { Gpu } from "../../gpu/gpu.js";
import type { Storage } from "../../gpu/pool.js";
import { convOutputSize, type ConvShape, squareWindow, vec4s } from "../shape.js";
import { sumOfParts } from "../weightedSum.js";
import type { WeightPassBuffers } from "./backend.js";
import { type Direction, type GatherBuffers, gatherFlags, type GatherOptions } from "./gather.js";
import {
  type TileRows,
  winogradGradient,
  winogradInput,
  winogradLive,
  winogradOutput,
  winogradWeight,
  winogradWeightBackward,
} from "./winogradTransforms.js";

/** Multiply-adds of the direct form for each in the products: a tile has 4 outputs of 9 taps, and 16 products. */
export const WINOGRAD_SAVES = 36 / 16;
/** Bytes of transformed tiles at a time. */
const RUN_BYTES = 32 * 2 ** 20;
/** C K / (C + K) from which on the multiplications saved outweigh the traffic. */
const LEAST_INTENSITY = 40;
/** Fewer tiles than this leave the products' own tiles empty. */
const LEAST_TILES = 64;

/** The direct passes that the products run in. */
type GatherProducts = (s: ConvShape, b: GatherBuffers, o: GatherOptions) => void;
interface WeightProducts {
  record(s: ConvShape, b: WeightPassBuffers): void;
  /** Whether what stands at pixels that are not live is never read. */
  skipsEachPixel(s: ConvShape): boolean;
}

const tilesOf = (h: number, w: number) => [Math.ceil(h / 2), Math.ceil(w / 2)] as const;

/** Whether Winograd's form exists for this convolution. */
export const winogradApplies = (s: ConvShape): boolean =>
  s.kernel.every((v) => v === 3) && s.stride.every((v) => v === 1) && s.dilation.every((v) => v === 1);

/** Whether it is worth it. */
export function winogradPays(s: ConvShape): boolean {
  if (!winogradApplies(s) || (s.c * s.k) / (s.c + s.k) < LEAST_INTENSITY) return false;
  const [p, q] = convOutputSize("pconvForward", s);
  const [ty, tx] = tilesOf(p, q);
  return s.n * ty * tx >= LEAST_TILES;
}

/** A product of matrices per transformed coefficient: 16 "images" of tiles, 1x1. */
const productShape = (t: TileRows, c: number, k: number): ConvShape => ({
  n: 16,
  h: t.rows,
  w: t.tilesX,
  c,
  k,
  ...squareWindow(1),
});

/** Tiles of a row in the weight's products: where they are few, the turn from row to row takes its time, and the last step is short. */
const PRODUCT_ROW = 128;

/**
 * The product of the weight's gradient where its backend goes row by row: rows of tiles are put together, as far as they go up in longer
 * ones. The others cut their chunks between rows, and fill a GPU with those.
 */
function longRows(t: TileRows, c: number, k: number): ConvShape {
  let together = Math.max(1, Math.min(t.rows, Math.floor(PRODUCT_ROW / t.tilesX)));
  while (t.rows % together !== 0) together--;
  return productShape({ ...t, rows: t.rows / together, tilesX: together * t.tilesX }, c, k);
}

/** Runs of tile rows over an output of n x h x w, each with at most RUN_BYTES of transformed tiles of `channels4` vec4s. */
function* runs(gpu: Gpu, n: number, h: number, w: number, channels4: number): Generator<Omit<TileRows, "c4">> {
  const [tilesY, tilesX] = tilesOf(h, w);
  const rowBytes = 16 * tilesX * channels4 * 16;
  const most = Math.max(1, Math.floor(Math.min(RUN_BYTES, gpu.limits.maxStorageBufferBindingSize) / rowBytes));
  const count = Math.ceil((n * tilesY) / most);
  const rows = Math.ceil((n * tilesY) / count);
  for (let row0 = 0; row0 < n * tilesY; row0 += rows) {
    yield { n, h, w, tilesY, tilesX, row0, rows: Math.min(rows, n * tilesY - row0) };
  }
}

/** Records a gather pass in Winograd's form; `weight` is the one that the direct form reads. */
export function winogradGather(
  gpu: Gpu,
  products: GatherProducts,
  s: ConvShape,
  direction: Direction,
  b: GatherBuffers,
  o: GatherOptions,
): void {
  const size = convOutputSize("winograd", s);
  const forward = direction === "forward";
  const [source, output] = forward ? [[s.h, s.w], size] : [size, [s.h, s.w]];
  const [c, k] = forward ? [s.c, s.k] : [s.k, s.c];
  const [c4, k4] = [vec4s(c), vec4s(k)];
  const padding = forward ? s.padding : ([2 - s.padding[0], 2 - s.padding[1]] as const);
  const flags = gatherFlags(b, o);
  const inRun = (run: Omit<TileRows, "c4">, u: Storage) => {
    const tiles = run.rows * run.tilesX;
    const v = gpu.alloc(16 * tiles * c4 * 16, "winograd input");
    const m = gpu.alloc(16 * tiles * k4 * 16, "winograd products");
    const live = b.live && gpu.alloc(tiles * 4, "winograd live tiles");
    if (b.live && live) winogradLive(gpu, { ...run, c4: 1 }, b.live.n, { live: b.live.mask, liveTile: live });
    const from = { ...run, h: source[0], w: source[1], c4 };
    winogradInput(gpu, from, padding, { x: b.src, v, live }, "left");
    const buffers = { src: v, weight: u, dst: m, live: live && { mask: live, n: 1 } };
    products(productShape(from, c, k), buffers, {
      weightPerImage: true,
      unwritten: true,
      ...(o.half ? { half: true } : {}),
    });
    winogradOutput(
      gpu,
      { ...run, c4: k4 },
      {
        m,
        dst: b.dst,
        live,
        flags,
        scalePixels: (b.scale?.n ?? 1) * output[0] * output[1],
        slope: o.slope ?? 0,
        bias: b.bias ?? m,
        scale: b.scale?.scale ?? m,
        biasScale: b.scale?.biasScale ?? m,
        base: b.base ?? m,
      },
    );
    for (const storage of [v, m, ...(live ? [live] : [])]) gpu.free(storage);
  };
  const form = { rows: 4 * c4, k4, turned: !forward };
  const transformed = {
    what: `Winograd weight ${form.rows}x${k4} ${form.turned}`,
    from: [b.weight],
    bytes: 16 * form.rows * k4 * 16,
    make: (u: Storage) => winogradWeight(gpu, form, { w: b.weight, u }),
  };
  gpu.derived(transformed, b.constantWeight ?? false, (u) => {
    for (const run of runs(gpu, s.n, output[0], output[1], c4 + k4)) inRun(run, u);
  });
}

/** Records a weight pass in Winograd's form. */
export function winogradWeightPass(gpu: Gpu, products: WeightProducts, s: ConvShape, b: WeightPassBuffers): void {
  const [p, q] = convOutputSize("winograd", s);
  const [c4, k4] = [vec4s(s.c), vec4s(s.k)];
  const entries = 16 * c4 * 4 * k4;
  const list = [...runs(gpu, s.n, p, q, c4 + k4)];
  const ofRun = (run: Omit<TileRows, "c4">, to: Storage) => {
    const tiles = run.rows * run.tilesX;
    const v = gpu.alloc(16 * tiles * c4 * 16, "winograd input");
    const g = gpu.alloc(16 * tiles * k4 * 16, "winograd gradient");
    const from = { ...run, h: s.h, w: s.w, c4 };
    const live = b.live && gpu.alloc(tiles * 4, "winograd live tiles");
    if (b.live && live) winogradLive(gpu, { ...run, c4: 1 }, b.live.n, { live: b.live.mask, liveTile: live });
    const rowByRow = products.skipsEachPixel(productShape(from, s.c, s.k));
    const shape = (rowByRow ? longRows : productShape)(from, s.c, s.k);
    const dead = rowByRow ? "left" : "zero";
    winogradInput(gpu, from, s.padding, { x: b.x, v, live }, dead);
    winogradGradient(gpu, { ...run, c4: k4 }, { dy: b.dy, v: g, live }, dead);
    products.record(shape, { x: v, dy: g, dw: to, live: live && { mask: live, n: 1 } });
    for (const storage of [v, g, ...(live ? [live] : [])]) gpu.free(storage);
  };
  const du = gpu.alloc(entries * 16, "winograd dU");
  sumOfParts(gpu, entries, list.length, (i, to) => ofRun(list[i], to), du);
  winogradWeightBackward(gpu, { rows: 4 * c4, k4 }, { du, dw: b.dw });
  gpu.free(du);
}
