/**
 * Which backend computes a gather or weight pass, and its launch. The choice follows from the adapter and the number of output channels;
 * equal adapters choose alike, so equal seeds give equal bits.
 */
import type { Gpu } from "../../gpu/gpu.js";
import type { Kernel } from "../../gpu/kernel.js";
import { type Grid } from "../../gpu/gpu.js";
import { linearGrid, workgroupGrid } from "../../gpu/linear.js";
import type { Storage } from "../../gpu/pool.js";
import { convOutputSize, convParams, type ConvShape, vec4s } from "../shape.js";
import { sumPartials } from "../sumPartials.js";
import {
  type Direction,
  gatherBuffers,
  type GatherBuffers,
  type GatherOptions,
  gatherParams,
  type TileSize,
} from "./gather.js";
import { gatherRegisterKernel, registerSpec, registerTile, SIMPLE } from "./register.js";
import { gatherSubgroupKernel, subgroupTile } from "./subgroup.js";
import type { WEIGHT_PARAMS } from "./weightPass.js";
import { weightRegisterKernel } from "./weightRegister.js";
import { SUBGROUP_ROWS4, weightSubgroupKernel } from "./weightSubgroup.js";

/** `simple` is what the others are checked against. */
export const CONV_BACKENDS = ["simple", "register", "subgroup"] as const;
export type ConvBackend = (typeof CONV_BACKENDS)[number];

/** Larger subgroups have workgroup memory worth using, and broadcasts no cheaper than it. */
const MAX_LANES = 16;
/** Pixels that the lanes of a subgroup share: 8 compile faster and run slower, 32 spill. */
const SUBGROUP_PIXELS = 16;

/** Backends that this adapter can run. */
export function availableBackends(gpu: Gpu): readonly ConvBackend[] {
  const { subgroupSize } = gpu.adapter;
  const subgroup = gpu.device.features.has("subgroups") && subgroupSize !== null && subgroupSize <= MAX_LANES;
  return CONV_BACKENDS.filter((b) => b !== "subgroup" || subgroup);
}

function choose(gpu: Gpu, out4: number): ConvBackend {
  // Three vec4s of channels or more keep a quad of lanes busy; fewer leave the broadcasts without use.
  return out4 >= 3 && availableBackends(gpu).includes("subgroup") ? "subgroup" : "register";
}

/** Records one gather pass. */
export function gather(
  gpu: Gpu,
  s: ConvShape,
  direction: Direction,
  b: GatherBuffers,
  options: GatherOptions = {},
  backend?: ConvBackend,
): void {
  const out4 = vec4s(direction === "forward" ? s.k : s.c);
  const launch = <Spec>(kernel: Kernel<keyof ReturnType<typeof gatherParams>, Spec>, spec: Spec, tile: TileSize) => {
    const params = gatherParams(s, direction, tile, b, options);
    gpu.dispatch(kernel, spec, params, gatherBuffers(b), tile.grid(params.items));
  };
  switch (backend ?? choose(gpu, out4)) {
    case "simple":
      return launch(gatherRegisterKernel, SIMPLE, registerTile(SIMPLE));
    case "register": {
      const spec = registerSpec(out4);
      return launch(gatherRegisterKernel, spec, registerTile(spec));
    }
    case "subgroup": {
      const lanes = gpu.adapter.subgroupSize ?? 0;
      const spec = { lanes, lanesK: out4 > 4 ? lanes : Math.min(4, lanes), pixels: SUBGROUP_PIXELS };
      return launch(gatherSubgroupKernel, spec, subgroupTile(spec));
    }
  }
}

export interface WeightPassBuffers {
  readonly x: Storage;
  readonly dy: Storage;
  readonly dw: Storage;
  readonly live?: { readonly mask: Storage; readonly n: number } | undefined;
}

/** Invocations wanted before rows are split no further: fills small GPUs, and keeps partial sums small. */
const ENOUGH_INVOCATIONS = 16384;
/** Rows of one chunk are added in one float32 sum; more chunks than this would only cost memory. */
const MAX_CHUNKS = 64;

/** How a backend cuts dw up: tiles over its rows and columns, and invocations per tile. */
interface WeightTiling<Spec> {
  readonly kernel: Kernel<keyof typeof WEIGHT_PARAMS, Spec>;
  readonly spec: Spec;
  /** Tiles over the input channels of one tap, or over all rows. */
  readonly tilesC: number;
  readonly tilesK: number;
  /** Tiles of one chunk. */
  readonly blocks: number;
  readonly invocations: number;
  grid(tiles: number): Grid;
}

/** Records one weight pass; partial sums live in a buffer that is back in the pool when this returns. */
export function weightPass(
  gpu: Gpu,
  s: ConvShape,
  b: WeightPassBuffers,
  { imagePerTap = false }: { readonly imagePerTap?: boolean } = {},
  backend?: ConvBackend,
): void {
  const size = convOutputSize("pconvBackwardWeight", s);
  const [c4, k4] = [vec4s(s.c), vec4s(s.k)];
  const taps = imagePerTap ? s.n : s.kernel[0] * s.kernel[1];
  const launch = <Spec>(t: WeightTiling<Spec>) => {
    const rows = imagePerTap ? size[0] : s.n * size[0];
    const entries = taps * c4 * 4 * k4; // vec4s of dw
    const wanted = Math.min(Math.ceil(ENOUGH_INVOCATIONS / t.invocations), MAX_CHUNKS, rows);
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
      skipping: Number(b.live !== undefined),
    };
    const partials = chunks > 1 ? gpu.alloc(chunks * entries * 16, "pconvBackwardWeight partial sums") : b.dw;
    gpu.dispatch(t.kernel, t.spec, params, [b.x, b.dy, b.live?.mask ?? b.x, partials], t.grid(params.items));
    if (chunks === 1) return;
    sumPartials(gpu, { partials, sum: b.dw, chunks, vec4s: entries });
    gpu.free(partials);
  };
  const chosen = backend ?? choose(gpu, k4);
  if (chosen === "subgroup") {
    const lanes = gpu.adapter.subgroupSize ?? 0;
    const tilesC = Math.ceil((taps * c4) / SUBGROUP_ROWS4);
    const tilesK = Math.ceil(k4 / lanes);
    const blocks = tilesC * tilesK;
    const tiling = { tilesC, tilesK, blocks, invocations: blocks * lanes, grid: workgroupGrid };
    return launch({ kernel: weightSubgroupKernel, spec: { lanes }, ...tiling });
  }
  const spec = chosen === "simple" ? { in4: 1, out4: 1 } : { in4: Math.min(2, c4), out4: Math.min(2, k4) };
  const tilesC = Math.ceil(c4 / spec.in4);
  const tilesK = Math.ceil(k4 / spec.out4);
  const blocks = taps * tilesC * tilesK;
  launch({ kernel: weightRegisterKernel, spec, tilesC, tilesK, blocks, invocations: blocks, grid: linearGrid });
}
