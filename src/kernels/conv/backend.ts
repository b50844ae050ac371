/**
 * Launches gather and weight passes on the backend that `choice.ts` names, or that `tuning.ts` has measured to be faster.
 */
import type { Grid, Gpu } from "../../gpu/gpu.js";
import type { Kernel } from "../../gpu/kernel.js";
import { linearGrid, workgroupGrid } from "../../gpu/linear.js";
import type { Storage } from "../../gpu/pool.js";
import { convOutputSize, convParams, type ConvShape, vec4s } from "../shape.js";
import { sumPartials } from "../sumPartials.js";
import { columnSpec, launchColumns } from "./column.js";
import { countGather, countTiles, countWeight, type WeightSteps } from "./flopCounter.js";
import {
  type ConvBackend,
  defaultGather,
  defaultWeight,
  type GatherChoice,
  smallSubgroup,
  type WeightChoice,
} from "./choice.js";
import { FLAG } from "./epilogue.js";
import {
  type Direction,
  gatherBuffers,
  type GatherBuffers,
  type GatherKernel,
  type GatherLaunch,
  type GatherOptions,
  gatherParams,
  gatherSize,
  type TileSize,
} from "./gather.js";
import { gatherFinishKernel } from "./gatherTile.js";
import { liveOrder } from "./liveOrder.js";
import { livePitch, liveRows, LIVE_STEP } from "./liveRows.js";
import { gatherMatrixKernel, matrixTile } from "./matrix.js";
import { gatherRegisterKernel, registerSpec, registerTile, SIMPLE } from "./register.js";
import { gatherSubgroupKernel, subgroupTile } from "./subgroup.js";
import { tunedOf } from "./tuned.js";
import { weightMatrixKernel, weightMatrixLayout } from "./weightMatrix.js";
import type { WEIGHT_PARAMS } from "./weightPass.js";
import { weightRegisterKernel } from "./weightRegister.js";
import { SUBGROUP_ROWS4, weightSubgroupKernel } from "./weightSubgroup.js";
import { weightWorkgroupKernel, weightWorkgroupLayout } from "./weightWorkgroup.js";
import { gatherWorkgroupKernel, workgroupTile } from "./workgroup.js";
import type { PixelMask } from "../slabs.js";

export { availableBackends, CONV_BACKENDS, type ConvBackend } from "./choice.js";

/** Pixels that the lanes of a subgroup share: 8 compile faster and run slower, 32 spill. */
const SUBGROUP_PIXELS = 16;

/**
 * Up to so many tiles over the pixels, all are computed: they run side by side, and to put their pixels in order would be a dispatch
 * that the first of them waits for.
 */
const FEW_TILES = 4;

/** Buffers of a pass that asks for live pixels only where leaving out the others saves time; a base is needed in any case. */
function worthSkipping({ s, direction, buffers, options }: GatherLaunch, tile: TileSize): GatherBuffers {
  const { pixels, groups } = gatherSize(s, direction, options.weightPerImage ?? false);
  const few = groups * Math.ceil(pixels / tile.pixels) <= FEW_TILES;
  return few && !buffers.base ? { ...buffers, live: undefined } : buffers;
}

/** Records a gather pass with a kernel of the caller's choice, its reduction in `splits` parts. */
export function launchGather<Spec>(
  gpu: Gpu,
  launch: GatherLaunch,
  kernel: GatherKernel<Spec>,
  spec: Spec,
  tile: TileSize,
  splits = 1,
): void {
  const { s, direction, options } = launch;
  const buffers = worthSkipping(launch, tile);
  const params = gatherParams(s, direction, tile, buffers, options);
  const order = buffers.live && liveOrder(gpu, params, buffers.live.mask);
  countGather(gpu, s, direction, params, order && countTiles(gpu, params, tile.pixels, order));
  const part = params.outPixels * params.outC4 * 16;
  const affordable = Math.floor(gpu.limits.maxStorageBufferBindingSize / part);
  if (Math.min(splits, affordable) <= 1) {
    gpu.dispatch(kernel, spec, params, gatherBuffers(buffers, order), tile.grid(params.items / params.inTurn));
  } else {
    const parts = Math.min(splits, affordable);
    const partial = gpu.alloc(parts * part, "convolution partial sums");
    const { src, weight } = buffers;
    const raw = { ...params, splits: parts, flags: params.flags & FLAG.skipping };
    gpu.dispatch(
      kernel,
      spec,
      raw,
      gatherBuffers({ src, weight, dst: partial }, order),
      tile.grid(params.items * parts),
    );
    const [sums, , ...epilogue] = gatherBuffers({ ...buffers, src: partial }, buffers.live?.mask);
    const finished = [sums, ...epilogue];
    gpu.dispatch(gatherFinishKernel, undefined, { ...params, splits: parts }, finished, linearGrid(part / 16));
    gpu.free(partial);
  }
  if (order) gpu.free(order);
}

/** Records one gather pass; `chosen` overrides what the adapter and the shape would choose. */
export function gather(
  gpu: Gpu,
  s: ConvShape,
  direction: Direction,
  buffers: GatherBuffers,
  options: GatherOptions = {},
  chosen?: ConvBackend | GatherChoice,
): void {
  const call = { s, direction, weightPerImage: options.weightPerImage ?? false, half: options.half ?? false };
  const tuned = tunedOf(gpu);
  if (tuned.collects({ pass: "gather", ...call })) return;
  const launch = { s, direction, buffers, options };
  const choice =
    typeof chosen === "object"
      ? chosen
      : (chosen === undefined && tuned.gather(call)) || defaultGather(gpu, call, chosen);
  const out4 = vec4s(direction === "forward" ? s.k : s.c);
  switch (choice.backend) {
    case "simple":
      return launchGather(gpu, launch, gatherRegisterKernel, SIMPLE, registerTile(SIMPLE));
    case "register": {
      const columns = out4 === 1 ? columnSpec(s, direction, smallSubgroup(gpu)) : null;
      if (columns) return launchColumns(gpu, launch, columns);
      const spec = registerSpec(out4);
      return launchGather(gpu, launch, gatherRegisterKernel, spec, registerTile(spec));
    }
    case "subgroup": {
      const lanes = smallSubgroup(gpu);
      const source = direction === "forward" ? s.c : s.k;
      const lanesK = out4 > 4 ? lanes : Math.min(4, lanes);
      const spec = { lanes, lanesK, pixels: SUBGROUP_PIXELS, depth: source === 3 ? 3 : 4 } as const;
      return launchGather(gpu, launch, gatherSubgroupKernel, spec, subgroupTile(spec));
    }
    case "workgroup": {
      const { spec, splits } = choice;
      return launchGather(gpu, launch, gatherWorkgroupKernel, spec, workgroupTile(spec), splits);
    }
    case "matrix": {
      const { spec, splits } = choice;
      return launchGather(gpu, launch, gatherMatrixKernel, spec, matrixTile(spec), splits);
    }
  }
}

export interface WeightPassBuffers {
  readonly x: Storage;
  readonly dy: Storage;
  readonly dw: Storage;
  readonly live?: PixelMask | undefined;
}

export interface WeightPassOptions {
  /** Tap t reads image t alone, of x and of dy. */
  readonly imagePerTap?: boolean;
  /** As in {@link GatherOptions}. */
  readonly half?: boolean;
}

/** Invocations wanted before rows are split no further: fills small GPUs, and keeps partial sums small. */
const ENOUGH_INVOCATIONS = 16384;
/** The same for the subgroup backend, which is for software adapters: a few workgroups a core. */
const ENOUGH_INVOCATIONS_SUBGROUP = 2048;
/** The same for the backends of large GPUs (H200: 132 multiprocessors of up to 2,048 invocations). */
const ENOUGH_INVOCATIONS_TILED = 131072;
/** Rows of one chunk are added in one float32 sum; more chunks than this would only cost memory. */
const MAX_CHUNKS = 64;

/** How a backend cuts dw up: tiles over its rows and columns, and invocations per tile. */
export interface WeightTiling<Spec> {
  readonly kernel: Kernel<keyof typeof WEIGHT_PARAMS, Spec>;
  readonly spec: Spec;
  /** Tiles over the input channels of one tap, or over all rows (of a group of taps with pixels of their own). */
  readonly tilesC: number;
  readonly tilesK: number;
  /** Tiles of one chunk. */
  readonly blocks: number;
  /** Invocations of one chunk, and how many are enough. */
  readonly invocations: number;
  readonly enough: number;
  /** Which pixels it skips together where none is live; a {@link FlopCounter} asks. */
  readonly skips: WeightSteps;
  grid(tiles: number): Grid;
}

/** Records a weight pass with a kernel of the caller's choice; partial sums are back in the pool when this returns. */
export function launchWeight<Spec>(
  gpu: Gpu,
  s: ConvShape,
  b: WeightPassBuffers,
  imagePerTap: boolean,
  t: WeightTiling<Spec>,
): void {
  const size = convOutputSize("pconvBackwardWeight", s);
  const [c4, k4] = [vec4s(s.c), vec4s(s.k)];
  const taps = imagePerTap ? s.n : s.kernel[0] * s.kernel[1];
  const rows = imagePerTap ? size[0] : s.n * size[0];
  const entries = taps * c4 * 4 * k4; // vec4s of dw
  const wanted = Math.min(Math.ceil(t.enough / t.invocations), MAX_CHUNKS, rows);
  const affordable = Math.floor(gpu.limits.maxStorageBufferBindingSize / (entries * 16));
  const chunkRows = Math.ceil(rows / Math.max(1, Math.min(wanted, affordable)));
  const chunks = Math.ceil(rows / chunkRows);
  const params = {
    ...convParams(s, size),
    ...(imagePerTap ? { kh: taps, kw: 1 } : {}),
    chunks,
    chunkRows,
    rows,
    tilesC: t.tilesC,
    tilesK: t.tilesK,
    items: chunks * t.blocks,
    imagePerTap: Number(imagePerTap),
    livePixels: (b.live?.n ?? 1) * size[0] * size[1],
    liveRows: (b.live?.n ?? 1) * size[0],
    livePitch: livePitch(size[1]),
    skipping: Number(b.live !== undefined),
  };
  const rowsOf = b.live && t.skips.packed && liveRows(gpu, b.live.mask, params.liveRows, size[1]);
  countWeight(gpu, s, imagePerTap, t.skips, chunkRows, b.live);
  const partials = chunks > 1 ? gpu.alloc(chunks * entries * 16, "pconvBackwardWeight partial sums") : b.dw;
  // Something must be bound where there is no mask: not of half precision, in which there is no list of pixels.
  const live = rowsOf ?? b.live?.mask ?? (b.x.half ? gpu.constant([1]) : b.x);
  gpu.dispatch(t.kernel, t.spec, params, [b.x, b.dy, live, partials], t.grid(params.items));
  if (rowsOf) gpu.free(rowsOf);
  if (chunks === 1) return;
  sumPartials(gpu, { partials, sum: b.dw, chunks, vec4s: entries });
  gpu.free(partials);
}

/** Tiles of the backends with workgroup memory. */
export function blockTiling(
  s: ConvShape,
  imagePerTap: boolean,
  spec: { readonly rows4: number; readonly columns4: number; readonly depth: number },
  invocations: number,
) {
  const groups = imagePerTap ? s.n : 1;
  const rows4 = (imagePerTap ? 1 : s.kernel[0] * s.kernel[1]) * vec4s(s.c);
  const tilesC = Math.ceil(rows4 / spec.rows4);
  const tilesK = Math.ceil(vec4s(s.k) / spec.columns4);
  const blocks = groups * tilesC * tilesK;
  return {
    ...{ tilesC, tilesK, blocks, invocations: blocks * invocations },
    ...{ enough: ENOUGH_INVOCATIONS_TILED, grid: workgroupGrid },
    skips: { stepPixels: spec.depth, within: "chunk" } as const,
  };
}

/** The backend of a weight pass; `chosen` overrides what the adapter and the shape would choose. */
function weightChoice(
  gpu: Gpu,
  call: { readonly s: ConvShape; readonly imagePerTap: boolean; readonly half: boolean },
  chosen?: ConvBackend | WeightChoice,
): WeightChoice {
  if (typeof chosen === "object") return chosen;
  return (chosen === undefined && tunedOf(gpu).weight(call)) || defaultWeight(gpu, call, chosen);
}

/**
 * Whether the weight pass never looks at pixels that are not live. Otherwise it adds products of them where its steps hold others too,
 * and both factors must be zero there.
 */
export function skipsEachPixel(
  gpu: Gpu,
  s: ConvShape,
  { imagePerTap = false, half = false }: WeightPassOptions,
  chosen?: ConvBackend | WeightChoice,
): boolean {
  return !["workgroup", "matrix"].includes(weightChoice(gpu, { s, imagePerTap, half }, chosen).backend);
}

/** Records one weight pass; `chosen` overrides what the adapter and the shape would choose. */
export function weightPass(
  gpu: Gpu,
  s: ConvShape,
  b: WeightPassBuffers,
  { imagePerTap = false, half = false }: WeightPassOptions = {},
  chosen?: ConvBackend | WeightChoice,
): void {
  const call = { s, imagePerTap, half };
  const tuned = tunedOf(gpu);
  if (tuned.collects({ pass: "weight", ...call })) return;
  const choice = weightChoice(gpu, call, chosen);
  const launch = <Spec>(tiling: WeightTiling<Spec>) => launchWeight(gpu, s, b, imagePerTap, tiling);
  const [c4, k4] = [vec4s(s.c), vec4s(s.k)];
  const taps = imagePerTap ? s.n : s.kernel[0] * s.kernel[1];
  switch (choice.backend) {
    case "simple":
    case "register": {
      const simple = choice.backend === "simple";
      const spec = simple ? { in4: 1, out4: 1 } : { in4: Math.min(2, c4), out4: Math.min(2, k4) };
      const [tilesC, tilesK] = [Math.ceil(c4 / spec.in4), Math.ceil(k4 / spec.out4)];
      const blocks = taps * tilesC * tilesK;
      const tiling = { tilesC, tilesK, blocks, invocations: blocks, enough: ENOUGH_INVOCATIONS, grid: linearGrid };
      return launch({ kernel: weightRegisterKernel, spec, skips: { stepPixels: 1, within: "row" }, ...tiling });
    }
    case "subgroup": {
      const lanes = smallSubgroup(gpu);
      const tilesC = imagePerTap ? taps * Math.ceil(c4 / SUBGROUP_ROWS4) : Math.ceil((taps * c4) / SUBGROUP_ROWS4);
      const tilesK = Math.ceil(k4 / lanes);
      const blocks = tilesC * tilesK;
      const skips = { stepPixels: LIVE_STEP, within: "row", packed: true } as const;
      const tiling = { tilesC, tilesK, blocks, invocations: blocks * lanes, skips, grid: workgroupGrid };
      return launch({ kernel: weightSubgroupKernel, spec: { lanes }, enough: ENOUGH_INVOCATIONS_SUBGROUP, ...tiling });
    }
    case "workgroup": {
      const { spec } = choice;
      const tiling = blockTiling(s, imagePerTap, spec, weightWorkgroupLayout(spec).invocations);
      return launch({ kernel: weightWorkgroupKernel, spec, ...tiling });
    }
    case "matrix": {
      const { spec } = choice;
      const tiling = blockTiling(s, imagePerTap, spec, weightMatrixLayout(spec).invocations);
      return launch({ kernel: weightMatrixKernel, spec, ...tiling });
    }
  }
}
