/**
 * Convolutions of 3x3 and stride 1 in Winograd's forms F(2x2) and F(4x4) (`winogradForms.ts`): transform, 16 or 36 products of matrices in the
 * engine's own gather and weight passes, transform back (`winogradTransforms.ts`).
 *
 * Why: 4 or 2.25 multiplications per pixel and channel pair instead of 9, on top of whichever backend multiplies. What it costs is
 * memory traffic, 4 or 2.25 vec4s written and read again per pixel and channel vec4 on both sides, and weights that grow to 16/9 or 4
 * times their size. So it pays where C K / (C + K) is large, and F(4x4) where there are enough tiles for such weights. By measurement on
 * lavapipe, in shares of the direct form's time: F(4x4) 64->64 at 256x256 .85, 128->128 at 128x128 .6, 256->256 at 64x64 .42, 32->32 .9 to
 * 1.05; F(2x2) 1.1, .8, .6, 1.4; at 16x16, 512->512, F(2x2) .7 and F(4x4) 1. By calculation for a GPU with 60 TFLOP/s and 4.8 TB/s,
 * F(4x4) pays from C K / (C + K) = 17 on (18 (C + K) bytes against 13.5 C K operations a pixel), F(2x2) from 40. Runs of tile rows are
 * dealt with one after the other, so that what lies between stays small.
 *
 * Error: see `winogradForms.ts`; bounds in the tests. Factors of half precision have only F(2x2), whose transforms add and subtract.
 */
import type { Gpu } from "../../gpu/gpu.js";
import type { Storage } from "../../gpu/pool.js";
import { convOutputSize, type ConvShape, squareWindow, vec4s } from "../shape.js";
import { sumOfParts } from "../weightedSum.js";
import type { WeightPassBuffers } from "./backend.js";
import { type Direction, type GatherBuffers, gatherFlags, type GatherOptions } from "./gather.js";
import { WINOGRAD_FORMS, type WinogradTile } from "./winogradForms.js";
import { type TileRows, winogradGradient, winogradInput, winogradLive, winogradOutput } from "./winogradTransforms.js";
import { winogradWeight, winogradWeightBackward, type WinogradWeightSpec } from "./winogradWeights.js";

/** Bytes of transformed tiles at a time. */
const RUN_BYTES = 32 * 2 ** 20;
/** C K / (C + K) from which on the multiplications saved outweigh the traffic, by the tile's side. */
const LEAST_INTENSITY = { 2: 40, 4: 24 } as const;
/** Fewer tiles than this leave the products' own tiles empty, and the weights' transforms without use. */
const LEAST_TILES = 64;

/** The direct passes that the products run in. */
type GatherProducts = (s: ConvShape, b: GatherBuffers, o: GatherOptions) => void;
interface WeightProducts {
  record(s: ConvShape, b: WeightPassBuffers): void;
  /** Whether what stands at pixels that are not live is never read. */
  skipsEachPixel(s: ConvShape): boolean;
}

const tilesOf = (tile: WinogradTile, h: number, w: number) => [Math.ceil(h / tile), Math.ceil(w / tile)] as const;

/** Whether Winograd's forms exist for this convolution. */
export const winogradApplies = (s: ConvShape): boolean =>
  s.kernel.every((v) => v === 3) && s.stride.every((v) => v === 1) && s.dilation.every((v) => v === 1);

/**
 * Whether a form is worth it for this convolution.
 * @param leastIntensity C K / (C + K) from which on it is
 * @param bindable bytes that may be bound at once: the transformed weight is, and a row of tiles
 */
export function winogradPays(tile: WinogradTile, s: ConvShape, leastIntensity: number, bindable: number): boolean {
  const [p, q] = convOutputSize("pconvForward", s);
  const [ty, tx] = tilesOf(tile, p, q);
  const [c4, k4] = [vec4s(s.c), vec4s(s.k)];
  const rowTiles = Math.ceil(Math.max(q, s.w) / tile); // of the output, or of the input's gradient
  const largest = WINOGRAD_FORMS[tile].side ** 2 * 16 * Math.max(4 * c4 * k4, rowTiles * Math.max(c4, k4));
  return s.n * ty * tx >= LEAST_TILES && (s.c * s.k) / (s.c + s.k) >= leastIntensity && largest <= bindable;
}

/**
 * The tile's side of the form that is worth it, if any.
 * @param half the products' factors are of half precision
 */
export function winogradTile(s: ConvShape, half: boolean, bindable: number): WinogradTile | null {
  if (!winogradApplies(s)) return null;
  const pays = (tile: 2 | 4): boolean => winogradPays(tile, s, LEAST_INTENSITY[tile], bindable);
  if (!half && pays(4)) return 4;
  return pays(2) ? 2 : null;
}

/** A product of matrices per transformed coefficient: as many "images" of tiles, 1x1. */
const productShape = (t: TileRows, c: number, k: number): ConvShape => ({
  n: WINOGRAD_FORMS[t.tile].side ** 2,
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
function* runs(
  gpu: Gpu,
  tile: WinogradTile,
  { n, h, w }: { readonly n: number; readonly h: number; readonly w: number },
  channels4: number,
): Generator<Omit<TileRows, "c4">> {
  const [tilesY, tilesX] = tilesOf(tile, h, w);
  const rowBytes = WINOGRAD_FORMS[tile].side ** 2 * tilesX * channels4 * 16;
  const most = Math.max(1, Math.floor(Math.min(RUN_BYTES, gpu.limits.maxStorageBufferBindingSize) / rowBytes));
  const count = Math.ceil((n * tilesY) / most);
  const rows = Math.ceil((n * tilesY) / count);
  for (let row0 = 0; row0 < n * tilesY; row0 += rows) {
    yield { tile, n, h, w, tilesY, tilesX, row0, rows: Math.min(rows, n * tilesY - row0) };
  }
}

/** Records a gather pass in Winograd's form; `weight` is the one that the direct form reads, of `phased` windows that of all phases. */
export function winogradGather(
  gpu: Gpu,
  { tile, phased }: WinogradWeightSpec,
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
  const matrices = WINOGRAD_FORMS[tile].side ** 2;
  const inRun = (run: Omit<TileRows, "c4">, u: Storage) => {
    const tiles = run.rows * run.tilesX;
    const v = gpu.alloc(matrices * tiles * c4 * 16, "winograd input");
    const m = gpu.alloc(matrices * tiles * k4 * 16, "winograd products");
    const live = b.live && gpu.alloc(2 * tiles * 4, "winograd live tiles");
    if (b.live && live) winogradLive(gpu, { ...run, c4: 1 }, { live: b.live, scale: b.scale, liveTile: live });
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
  const form = { tile, rows: 4 * c4, k4, phased, turned: !forward };
  const transformed = {
    what: `Winograd weight ${JSON.stringify(form)}`,
    from: [b.weight],
    bytes: matrices * form.rows * k4 * 16,
    make: (u: Storage) => winogradWeight(gpu, form, { w: b.weight, u }),
  };
  gpu.derived(transformed, b.constantWeight ?? false, (u) => {
    for (const run of runs(gpu, tile, { n: s.n, h: output[0], w: output[1] }, c4 + k4)) inRun(run, u);
  });
}

/** Records a weight pass in Winograd's form. */
export function winogradWeightPass(
  gpu: Gpu,
  { tile, phased }: WinogradWeightSpec,
  products: WeightProducts,
  s: ConvShape,
  b: WeightPassBuffers,
): void {
  const [p, q] = convOutputSize("winograd", s);
  const [c4, k4] = [vec4s(s.c), vec4s(s.k)];
  const matrices = WINOGRAD_FORMS[tile].side ** 2;
  const entries = matrices * c4 * 4 * k4;
  const list = [...runs(gpu, tile, { n: s.n, h: p, w: q }, c4 + k4)];
  const ofRun = (run: Omit<TileRows, "c4">, to: Storage) => {
    const tiles = run.rows * run.tilesX;
    const v = gpu.alloc(matrices * tiles * c4 * 16, "winograd input");
    const g = gpu.alloc(matrices * tiles * k4 * 16, "winograd gradient");
    const from = { ...run, h: s.h, w: s.w, c4 };
    const live = b.live && gpu.alloc(2 * tiles * 4, "winograd live tiles");
    if (b.live && live) winogradLive(gpu, { ...run, c4: 1 }, { live: b.live, liveTile: live });
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
  winogradWeightBackward(gpu, { tile, rows: 4 * c4, k4, phased }, { du, dw: b.dw });
  gpu.free(du);
}
