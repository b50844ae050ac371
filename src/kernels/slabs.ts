/**
 * Tensors larger than a kernel can bind (128 MiB on many adapters), gone over in slabs: runs of whole images, or of rows of
 * one image. A launcher of a kernel that deals with every pixel by itself runs once per slab, with the slab's sizes and
 * the parts of its tensors that belong to it.
 */
import type { Gpu } from "../gpu/gpu.js";
import { type Storage, tooLarge } from "../gpu/pool.js";

export interface Images {
  readonly n: number;
  readonly h: number;
  readonly w: number;
}

/** A number per pixel, [n,H,W]; `n` is the batch, or 1 for all of it. */
export interface PixelMask {
  readonly mask: Storage;
  readonly n: number;
}

/** Images n0 to n0 + n, of each the rows y0 to y0 + h; `h` is the whole height unless `n` is 1. */
export interface Slab {
  readonly n0: number;
  readonly n: number;
  readonly y0: number;
  readonly h: number;
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

/** Rows between two offsets that suit the adapter for everything with a multiple of 4 bytes per pixel. */
export function rowStep(gpu: Gpu, w: number): number {
  const { minStorageBufferOffsetAlignment: align } = gpu.limits;
  return align / gcd(align, 4 * w);
}

/**
 * The slabs of images whose largest tensor has `pixelBytes` bytes a pixel; one slab with everything where that can be bound.
 * @param heights multiple of rows that a slab starts at, such as 2 for pools
 * @throws {GpuError} when not even a few rows can be bound.
 */
export function slabs(gpu: Gpu, { n, h, w }: Images, pixelBytes: number, heights = 1): Slab[] {
  const limit = gpu.limits.maxStorageBufferBindingSize;
  const rowBytes = w * pixelBytes;
  if (n * h * rowBytes <= limit) return [{ n0: 0, n, y0: 0, h }];
  const step = rowStep(gpu, w);
  const list: Slab[] = [];
  // Whole images, as many as fit, if the runs of them start where a binding may.
  const alike = step / gcd(step, h);
  const images = Math.floor(Math.floor(limit / (h * rowBytes)) / alike) * alike;
  if (images > 0) {
    for (let n0 = 0; n0 < n; n0 += images) list.push({ n0, n: Math.min(images, n - n0), y0: 0, h });
    return list;
  }
  const start = (step * heights) / gcd(step, heights);
  const rows = Math.floor(Math.floor(limit / rowBytes) / start) * start;
  if (rows === 0 || (n > 1 && h % step !== 0)) throw tooLarge("rows of a tensor", start * rowBytes, limit);
  for (let n0 = 0; n0 < n; n0++) {
    for (let y0 = 0; y0 < h; y0 += rows) list.push({ n0, n: 1, y0, h: Math.min(rows, h - y0) });
  }
  return list;
}

/** The slab's part of a tensor of all images, with `pixelBytes` bytes a pixel. */
export function slabPart(gpu: Gpu, storage: Storage, s: Images, slab: Slab, pixelBytes: number): Storage {
  if (slab.n === s.n && slab.h === s.h) return storage;
  const row = s.w * pixelBytes;
  return gpu.part(storage, (slab.n0 * s.h + slab.y0) * row, slab.n * slab.h * row);
}

/** The slab's part of a mask [maskN,H,W,G], and the batch that it has there. */
export function slabMask(gpu: Gpu, mask: PixelMask, s: Images, slab: Slab, groups = 1): PixelMask {
  // A mask of its own for every image, or one image: as any tensor. One mask for several: its rows.
  const own = mask.n === s.n ? slab : { ...slab, n0: 0, n: 1 };
  return { mask: slabPart(gpu, mask.mask, { ...s, n: mask.n }, own, 4 * groups), n: own.n };
}

/** One slab as a launcher sees it: its sizes, and its parts of the tensors. */
export interface SlabView extends Images {
  readonly pixels: number;
  /** Part of a tensor; `bytes` per pixel where it is not the largest. */
  readonly part: (storage: Storage, bytes?: number) => Storage;
  /** Part of a mask of batch `n` and so many groups, and the number of pixels after which it starts again. */
  readonly mask: (storage: Storage, n: number, groups?: number) => { readonly mask: Storage; readonly pixels: number };
}

const viewOf = (gpu: Gpu, s: Images, slab: Slab, pixelBytes: number): SlabView => ({
  n: slab.n,
  h: slab.h,
  w: s.w,
  pixels: slab.n * slab.h * s.w,
  part: (storage, bytes = pixelBytes) => slabPart(gpu, storage, s, slab, bytes),
  mask: (storage, n, groups) => {
    const own = slabMask(gpu, { mask: storage, n }, s, slab, groups);
    return { mask: own.mask, pixels: own.n * slab.h * s.w };
  },
});

/** Runs a launcher once per slab of tensors with up to `pixelBytes` bytes a pixel, see {@link slabs}. */
export function forSlabs(gpu: Gpu, s: Images, pixelBytes: number, run: (slab: SlabView) => void): void {
  for (const slab of slabs(gpu, s, pixelBytes)) run(viewOf(gpu, s, slab, pixelBytes));
}

/** {@link forSlabs} for 2x2 pools: `pooled` is the part of a tensor of half the height and width, odd rests dropped. */
export function forPools(
  gpu: Gpu,
  s: Images,
  pixelBytes: number,
  run: (slab: SlabView, pooled: (storage: Storage, bytes: number) => Storage) => void,
): void {
  const half = { n: s.n, h: s.h >> 1, w: s.w >> 1 };
  // Rows of the small tensor start where a binding may as well, and on whole rows of it.
  const heights = 2 * rowStep(gpu, Math.max(1, half.w));
  for (const slab of slabs(gpu, s, pixelBytes, heights)) {
    const small = { ...slab, y0: slab.y0 >> 1, h: slab.h >> 1 };
    run(viewOf(gpu, s, slab, pixelBytes), (storage, bytes) => slabPart(gpu, storage, half, small, bytes));
  }
}

/** vec4s of a range of an elementwise kernel: a multiple of every alignment, of tensors with a bit an element too. */
const RANGE_STEP = 512;

/**
 * Runs an elementwise launcher over ranges of vec4s that can be bound, multiples of `unit` vec4s: `part` is a tensor's, with
 * `bytes` per vec4.
 */
export function forRanges(
  gpu: Gpu,
  vec4s: number,
  run: (count: number, part: (storage: Storage, bytes?: number) => Storage) => void,
  unit = 1,
): void {
  const limit = gpu.limits.maxStorageBufferBindingSize;
  if (vec4s * 16 <= limit) return run(vec4s, (storage) => storage);
  const most = Math.floor(limit / (16 * RANGE_STEP * unit)) * RANGE_STEP * unit;
  if (most === 0) throw tooLarge("a range of a tensor", 16 * RANGE_STEP * unit, limit);
  for (let first = 0; first < vec4s; first += most) {
    const count = Math.min(most, vec4s - first);
    run(count, (storage, bytes = 16) => gpu.part(storage, first * bytes, Math.ceil((count * bytes) / 4) * 4));
  }
}
