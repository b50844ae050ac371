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

/** The slab's part of a mask [maskN,H,W] of one number per pixel, and the batch that it has there. */
export function slabMask(
  gpu: Gpu,
  mask: { readonly mask: Storage; readonly n: number },
  s: Images,
  slab: Slab,
): { readonly mask: Storage; readonly n: number } {
  // A mask of its own for every image, or one image: as any tensor. One mask for several: its rows.
  const own = mask.n === s.n ? slab : { ...slab, n0: 0, n: 1 };
  return { mask: slabPart(gpu, mask.mask, { ...s, n: mask.n }, own, 4), n: own.n };
}
