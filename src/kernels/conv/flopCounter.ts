/**
 * Counts the floating-point operations of everything that the convolution engine runs on a GPU, two for each multiply-add.
 *
 * How many tiles of a pass are computed depends on masks that only the device knows: a small kernel looks at the same tiles as the
 * pass does, and adds up what they hold. Sums of integers, so that equal passes give equal counts.
 */
import type { Gpu } from "../../gpu/gpu.js";
import { defineKernel } from "../../gpu/kernel.js";
import { linearGrid, linearMain } from "../../gpu/linear.js";
import type { Storage } from "../../gpu/pool.js";
import { convOutputSize, type ConvShape } from "../shape.js";
import { type Direction, GATHER_NUMBERING, GATHER_ORDER, GATHER_PARAMS, type gatherParams } from "./gather.js";
import type { PixelMask } from "../slabs.js";

/** Floating-point operations of convolutions, a multiply-add as two. */
export interface Flops {
  /** Of the plain layers, as everybody counts them: every tap of every output, in holes and beyond the border too. */
  readonly textbook: number;
  /** Of direct convolutions over the tiles that were computed, summed taps counted once; taps beyond the border included. */
  readonly needed: number;
  /** Really multiplied and added: less than `needed` where Winograd's form ran. Its transforms are not counted. */
  readonly executed: number;
}

/** Passes that one buffer of counts holds. */
const SLOTS = 4096;

const attached = new WeakMap<Gpu, FlopCounter>();

/** A rehearsal counts nothing. */
const counterOf = (gpu: Gpu): FlopCounter | undefined => (gpu.rehearsing ? undefined : attached.get(gpu));

/** What the device still counts: `flops` for each unit in a slot. */
interface Pending {
  readonly kernel: string;
  readonly flops: number;
  readonly directShare: number;
}

/**
 * While it exists, counts every pass on its GPU.
 * @example
 * const counter = new FlopCounter(gpu);
 * await trainer.trainStep();
 * for (const [kernel, { textbook, needed }] of await counter.totals()) console.log(kernel, needed / textbook);
 * counter.detach();
 */
export class FlopCounter {
  private readonly sums = new Map<string, { -readonly [K in keyof Flops]: number }>();
  private readonly pages: Storage[] = [];
  private pending: Pending[] = [];
  private scope: { readonly kernel: string; readonly directShare: number } | null = null;

  /** @throws {Error} when the GPU has a counter already */
  constructor(private readonly gpu: Gpu) {
    if (attached.has(gpu)) throw new Error("FlopCounter: this GPU has a counter already");
    attached.set(gpu, this);
    this.addPage();
  }

  private addPage(): void {
    const page = this.gpu.alloc(SLOTS * 4, "counts of operations");
    this.gpu.write(page, new Uint32Array(SLOTS));
    this.pages.push(page);
  }

  private add(kernel: string, flops: Partial<Flops>): void {
    const sum = this.sums.get(kernel) ?? { textbook: 0, needed: 0, executed: 0 };
    for (const key of Object.keys(flops) as (keyof Flops)[]) sum[key] += flops[key] ?? 0;
    this.sums.set(kernel, sum);
  }

  /** See `counted`. */
  within(kernel: string, textbook: number, directShare: number, run: () => void): void {
    const outer = this.scope;
    if (!outer) this.add(kernel, { textbook });
    this.scope = { kernel: outer?.kernel ?? kernel, directShare: (outer?.directShare ?? 1) * directShare };
    try {
      run();
    } finally {
      this.scope = outer;
    }
  }

  /** Adds a pass of which `units` are computed. */
  addKnown(kernel: string, flops: number, units: number): void {
    const at = this.scope ?? { kernel, directShare: 1 };
    this.add(at.kernel, { needed: flops * units * at.directShare, executed: flops * units });
  }

  /** A pass whose units the device counts: the buffer and the slot for their sum. */
  addUnknown(kernel: string, flops: number): { readonly counts: Storage; readonly slot: number } {
    const at = this.scope ?? { kernel, directShare: 1 };
    const index = this.pending.length;
    this.pending.push({ ...at, flops });
    if (index === this.pages.length * SLOTS) this.addPage();
    return { counts: this.pages[Math.floor(index / SLOTS)], slot: index % SLOTS };
  }

  get inScope(): boolean {
    return this.scope !== null;
  }

  /** Sums since the counter was made, by the kernel that the passes belong to. */
  async totals(): Promise<ReadonlyMap<string, Flops>> {
    const pages = await this.gpu.read(...this.pages);
    this.pending.forEach(({ kernel, flops, directShare }, i) => {
      const page = pages[Math.floor(i / SLOTS)];
      const units = new Uint32Array(page.buffer, page.byteOffset, SLOTS)[i % SLOTS];
      this.add(kernel, { needed: flops * units * directShare, executed: flops * units });
    });
    this.pending = [];
    for (const page of this.pages) this.gpu.write(page, new Uint32Array(SLOTS));
    return new Map([...this.sums].map(([kernel, sum]) => [kernel, { ...sum }]));
  }

  /** Stops counting and frees the counts. */
  detach(): void {
    attached.delete(this.gpu);
    for (const page of this.pages) this.gpu.free(page);
  }
}

/** Operations of a plain convolution, the same for all three passes. */
export function plainFlops(s: ConvShape): number {
  const [p, q] = convOutputSize("plainFlops", s);
  return 2 * s.n * p * q * s.k * s.c * s.kernel[0] * s.kernel[1];
}

/**
 * Runs the passes of one layer, which counts as `kernel` and has `textbook` operations; within another one it is part of that.
 * @param directShare operations of the direct form for each that the passes execute
 */
export function counted(gpu: Gpu, kernel: string, textbook: number, run: () => void, directShare = 1): void {
  const counter = counterOf(gpu);
  if (counter) counter.within(kernel, textbook, directShare, run);
  else run();
}

/** Units are pairs of a pixel and a tap. */
export const gatherCountKernel = defineKernel({
  name: "gatherCount",
  params: { ...GATHER_PARAMS, tilePixels: "u32", slot: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> order: array<u32>;                    // [orderGroups,pixels]
@group(0) @binding(2) var<storage, read_write> counts: array<atomic<u32>>;
${GATHER_NUMBERING}${GATHER_ORDER}
${linearMain(
  "p.items / p.tilesK",
  `  let tile = tile_of(id * p.tilesK);
  var inside = 0u;
  var any = false;
  for (var m = 0u; m < p.tilePixels; m++) {
    let pixel = pixel_of(tile, tile.first * p.tilePixels + m);
    if (pixel.out == NOWHERE) { continue; }
    inside++;
    any = any || pixel.live;
  }
  if (!any) { return; }
  var rows = 0u;
  for (var i = 0u; i < p.kh; i++) { if (row_offset(tile, i) % p.divH == 0) { rows++; } }
  var columns = 0u;
  for (var j = 0u; j < p.kw; j++) { if (column_offset(tile, j) % p.divW == 0) { columns++; } }
  atomicAdd(&counts[p.slot], inside * rows * columns);`,
)}
`,
});

/** Pairs of a pixel and a tap that applies to it, when every tile is computed. */
function allUnits(s: ConvShape, p: ReturnType<typeof gatherParams>): number {
  const axis = (out: number, div: number, off: number, step: number, taps: number) => {
    let sum = 0;
    for (let cls = 0; cls < div; cls++)
      for (let i = 0; i < taps; i++) if ((cls + off + i * step) % div === 0) sum += Math.ceil((out - cls) / div);
    return sum;
  };
  return s.n * axis(p.outH, p.divH, p.offH, p.stepH, p.kh) * axis(p.outW, p.divW, p.offW, p.stepW, p.kw);
}

/**
 * Counts a gather pass, if anybody wants to know. Where not everything is computed, `count` records what adds the pairs of a pixel and a
 * tap up that are, into a slot.
 */
export function countGather(
  gpu: Gpu,
  s: ConvShape,
  direction: Direction,
  params: ReturnType<typeof gatherParams>,
  count: ((counts: Storage, slot: number) => void) | undefined,
): void {
  const counter = counterOf(gpu);
  if (!counter) return;
  const kernel = direction === "forward" ? "pconvForward" : "pconvBackwardInput";
  if (!counter.inScope) counter.within(kernel, plainFlops(s), 1, () => undefined);
  const flops = 2 * s.c * s.k;
  if (!count) return counter.addKnown(kernel, flops, allUnits(s, params));
  const { counts, slot } = counter.addUnknown(kernel, flops);
  count(counts, slot);
}

/** For {@link countGather}: `tilePixels` of the `order` are computed or skipped together. */
export function countTiles(gpu: Gpu, params: ReturnType<typeof gatherParams>, tilePixels: number, order: Storage) {
  return (counts: Storage, slot: number): void => {
    const grid = linearGrid(params.items / params.tilesK);
    const each = { ...params, inTurn: 1, tilePixels, slot }; // an invocation counts one tile
    gpu.dispatch(gatherCountKernel, undefined, each, [order, counts], grid);
  };
}

/** Units are pixels. */
export const weightCountKernel = defineKernel({
  name: "weightCount",
  params: {
    groups: "u32",
    chunks: "u32",
    steps: "u32",
    groupPixels: "u32",
    chunkPixels: "u32",
    stepPixels: "u32",
    packed: "u32",
    livePixels: "u32",
    slot: "u32",
  },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> live_mask: array<f32>;                // [N|1,P,Q]
@group(0) @binding(2) var<storage, read_write> counts: array<atomic<u32>>;
${linearMain(
  "p.groups * p.chunks * p.steps",
  `  let chunk = id / p.steps % p.chunks;
  let together = select(p.stepPixels, p.chunkPixels, p.packed != 0u);
  let first = chunk * p.chunkPixels + id % p.steps * together;
  let end = min(min(first + together, (chunk + 1u) * p.chunkPixels), p.groupPixels);
  let origin = id / (p.steps * p.chunks) * p.groupPixels;
  var live = 0u;
  for (var i = first; i < end; i++) { live += select(0u, 1u, live_mask[(origin + i) % p.livePixels] != 0.0); }
  if (live == 0u) { return; }
  let whole_steps = (live + p.stepPixels - 1u) / p.stepPixels * p.stepPixels;
  atomicAdd(&counts[p.slot], select(end - first, min(end - first, whole_steps), p.packed != 0u));`,
)}
`,
});

/** How a weight pass goes through its pixels: in steps of some within a row, or within a chunk of rows. */
export interface WeightSteps {
  readonly stepPixels: number;
  readonly within: "row" | "chunk";
  /** Steps are of live pixels alone, see `liveRows.ts`; else the pixels of a step are computed or skipped together. */
  readonly packed?: true;
}

/** Counts a weight pass, if anybody wants to know. */
export function countWeight(
  gpu: Gpu,
  s: ConvShape,
  imagePerTap: boolean,
  { stepPixels, within, packed }: WeightSteps,
  chunkRows: number,
  live: PixelMask | undefined,
): void {
  const counter = counterOf(gpu);
  if (!counter) return;
  const kernel = "pconvBackwardWeight";
  if (!counter.inScope) counter.within(kernel, imagePerTap ? plainFlops({ ...s, kernel: [1, 1] }) : plainFlops(s), 1, () => undefined); // prettier-ignore
  const [p, q] = convOutputSize(kernel, s);
  const flops = 2 * s.c * s.k * (imagePerTap ? 1 : s.kernel[0] * s.kernel[1]);
  if (!live) return counter.addKnown(kernel, flops, s.n * p * q);
  const rows = imagePerTap ? p : s.n * p;
  const rowsTogether = within === "row" ? 1 : chunkRows;
  const { counts, slot } = counter.addUnknown(kernel, flops);
  const params = {
    groups: imagePerTap ? s.n : 1,
    chunks: Math.ceil(rows / rowsTogether),
    steps: packed ? 1 : Math.ceil((rowsTogether * q) / stepPixels),
    groupPixels: rows * q,
    chunkPixels: rowsTogether * q,
    stepPixels,
    packed: Number(packed ?? false),
    livePixels: live.n * p * q,
    slot,
  };
  const grid = linearGrid(params.groups * params.chunks * params.steps);
  gpu.dispatch(weightCountKernel, undefined, params, [live.mask, counts], grid);
}
