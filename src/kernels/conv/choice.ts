/**
 * Which backends and tiles there are for a pass on an adapter, and which of them is taken unless `tuning.ts` has measured better.
 * The choice follows from the adapter and the shape alone; equal adapters choose alike, so equal seeds give equal bits.
 */
import type { Gpu } from "../../gpu/gpu.js";
import { type ConvShape, vec4s } from "../shape.js";
import { type Direction, gatherSize } from "./gather.js";
import { MATRIX_TILES, matrixLayout, type MatrixSpec } from "./matrix.js";
import { matrixUnit } from "./matrixUnit.js";
import { WEIGHT_MATRIX_TILES, weightMatrixLayout, type WeightMatrixSpec } from "./weightMatrix.js";
import { type WeightWorkgroupSpec, weightWorkgroupLayout } from "./weightWorkgroup.js";
import { type WorkgroupSpec, workgroupLayout } from "./workgroup.js";

/** `simple` is what the others are checked against. */
export const CONV_BACKENDS = ["simple", "register", "subgroup", "workgroup", "matrix"] as const;
/** A form of the convolution: where its sums stand while they grow. */
export type ConvBackend = (typeof CONV_BACKENDS)[number];

/** A backend with everything that specialises it. */
export type GatherChoice =
  | { readonly backend: "simple" | "register" | "subgroup" }
  | { readonly backend: "workgroup"; readonly spec: WorkgroupSpec; readonly splits: number }
  | { readonly backend: "matrix"; readonly spec: MatrixSpec; readonly splits: number };

export type WeightChoice =
  | { readonly backend: "simple" | "register" | "subgroup" }
  | { readonly backend: "workgroup"; readonly spec: WeightWorkgroupSpec }
  | { readonly backend: "matrix"; readonly spec: WeightMatrixSpec };

/** Larger subgroups have workgroup memory worth using, and broadcasts no cheaper than it. */
const MAX_LANES = 16;

/**
 * Tiles of the gather pass: 128 x 64 pixels x channels, 64 x 128, 128 x 128, 64 x 64 in two forms, 128 x 32, and 32 x 32.
 * The first that gives a GPU enough workgroups is taken, see `defaultGather`.
 */
export const WORKGROUP_TILES = {
  tall: { pixels: 128, channels4: 16, depth4: 4, threadPixels: 8, threadChannels4: 2 },
  wide: { pixels: 64, channels4: 32, depth4: 4, threadPixels: 8, threadChannels4: 2 },
  large: { pixels: 128, channels4: 32, depth4: 2, threadPixels: 8, threadChannels4: 2 },
  square: { pixels: 64, channels4: 16, depth4: 4, threadPixels: 8, threadChannels4: 2 },
  crowded: { pixels: 64, channels4: 16, depth4: 4, threadPixels: 4, threadChannels4: 1 },
  narrow: { pixels: 128, channels4: 8, depth4: 4, threadPixels: 8, threadChannels4: 1 },
  small: { pixels: 32, channels4: 8, depth4: 4, threadPixels: 4, threadChannels4: 1 },
} as const satisfies Record<string, WorkgroupSpec>;

/** Tiles of the weight pass: 64 x 64 rows x columns, 128 x 64, 64 x 16, and 32 x 32. */
export const WEIGHT_WORKGROUP_TILES = {
  square: { rows4: 16, columns4: 16, depth: 16, threadRows4: 2, threadColumns4: 2 },
  tall: { rows4: 32, columns4: 16, depth: 8, threadRows4: 2, threadColumns4: 2 },
  narrow: { rows4: 32, columns4: 4, depth: 16, threadRows4: 2, threadColumns4: 1 },
  small: { rows4: 8, columns4: 8, depth: 16, threadRows4: 1, threadColumns4: 1 },
} as const satisfies Record<string, WeightWorkgroupSpec>;

/** Workgroups that fill a large GPU (H200: 132 multiprocessors, one or more workgroups each). */
const ENOUGH_WORKGROUPS = 264;
/** Steps of the reduction that are worth a workgroup of their own. */
const STEPS_PER_SPLIT = 8;
const MAX_SPLITS = 16;

/** Whether the limits allow a workgroup of this many invocations and bytes. */
export function fits(
  gpu: Gpu,
  { invocations, bytes }: { readonly invocations: number; readonly bytes: number },
): boolean {
  const { maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX, maxComputeWorkgroupStorageSize } = gpu.limits;
  return (
    invocations <= Math.min(maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX) &&
    bytes <= maxComputeWorkgroupStorageSize
  );
}

function matrixSpecs(gpu: Gpu): MatrixSpec[] {
  const unit = matrixUnit(gpu);
  return unit ? MATRIX_TILES.map((t) => ({ ...t, unit })).filter((s) => fits(gpu, matrixLayout(s))) : [];
}

function weightMatrixSpecs(gpu: Gpu): WeightMatrixSpec[] {
  const unit = matrixUnit(gpu);
  return unit ? WEIGHT_MATRIX_TILES.map((t) => ({ ...t, unit })).filter((s) => fits(gpu, weightMatrixLayout(s))) : [];
}

/** Lanes of the adapter's subgroups, where they are few enough for the backends that pass values round in them; else 0. */
export function smallSubgroup(gpu: Gpu): number {
  const { subgroupSize } = gpu.adapter;
  return gpu.device.features.has("subgroups") && subgroupSize !== null && subgroupSize <= MAX_LANES ? subgroupSize : 0;
}

/** Backends that this adapter can run. */
export function availableBackends(gpu: Gpu): readonly ConvBackend[] {
  const subgroup = smallSubgroup(gpu) > 0;
  return CONV_BACKENDS.filter(
    (b) =>
      (b !== "subgroup" || subgroup) &&
      (b !== "workgroup" || fits(gpu, workgroupLayout(WORKGROUP_TILES.small))) &&
      (b !== "matrix" || (matrixSpecs(gpu).length > 0 && weightMatrixSpecs(gpu).length > 0)),
  );
}

/** The parts to cut a reduction of `steps` steps into, so that `workgroups` tiles fill the GPU. */
function defaultSplits(workgroups: number, steps: number): number {
  if (workgroups >= ENOUGH_WORKGROUPS) return 1;
  const wanted = Math.ceil(ENOUGH_WORKGROUPS / workgroups);
  return Math.max(1, Math.min(wanted, Math.floor(steps / STEPS_PER_SPLIT), MAX_SPLITS));
}

/** The backend for outputs of `out4` vec4s of channels. */
function defaultBackend(gpu: Gpu, out4: number, half: boolean): ConvBackend {
  const available = availableBackends(gpu);
  // Fewer vec4s leave the cooperation between invocations without use.
  if (out4 < 3) return "register";
  if (half && available.includes("matrix")) return "matrix";
  // Software adapters emulate workgroup memory; small subgroups are theirs, and of some integrated GPUs.
  if (available.includes("subgroup")) return "subgroup";
  return !gpu.adapter.software && available.includes("workgroup") ? "workgroup" : "register";
}

/** What a pass is chosen by. */
export interface GatherCall {
  readonly s: ConvShape;
  readonly direction: Direction;
  readonly weightPerImage: boolean;
  readonly half: boolean;
}

export interface WeightCall {
  readonly s: ConvShape;
  readonly imagePerTap: boolean;
  readonly half: boolean;
}

/** The choice of a backend for a gather pass, its tile by the table; `backend` may be given. */
export function defaultGather(gpu: Gpu, call: GatherCall, backend?: ConvBackend): GatherChoice {
  const size = gatherSize(call.s, call.direction, call.weightPerImage);
  const chosen = backend ?? defaultBackend(gpu, size.out4, call.half);
  const workgroups = (t: { readonly pixels: number; readonly channels4: number }) =>
    size.groups * Math.ceil(size.pixels / t.pixels) * Math.ceil(size.out4 / t.channels4);
  switch (chosen) {
    case "simple":
    case "register":
    case "subgroup":
      return { backend: chosen };
    case "workgroup": {
      const { tall, square, narrow, small } = WORKGROUP_TILES;
      const order = size.out4 <= 8 ? [narrow, small] : [tall, square, small];
      const spec = order.find((t) => fits(gpu, workgroupLayout(t)) && workgroups(t) >= ENOUGH_WORKGROUPS) ?? small;
      return { backend: "workgroup", spec, splits: defaultSplits(workgroups(spec), size.reduction4 / spec.depth4) };
    }
    case "matrix": {
      const specs = matrixSpecs(gpu);
      const spec = specs.find((t) => workgroups(t) >= ENOUGH_WORKGROUPS) ?? specs[specs.length - 1];
      return { backend: "matrix", spec, splits: defaultSplits(workgroups(spec), size.reduction4 / spec.depth4) };
    }
  }
}

/** The choice of a backend for a weight pass, its tile by the table; `backend` may be given. */
export function defaultWeight(gpu: Gpu, { s, imagePerTap, half }: WeightCall, backend?: ConvBackend): WeightChoice {
  const k4 = vec4s(s.k);
  const rows4 = (imagePerTap ? 1 : s.kernel[0] * s.kernel[1]) * vec4s(s.c);
  const chosen = backend ?? defaultBackend(gpu, k4, half);
  switch (chosen) {
    case "simple":
    case "register":
    case "subgroup":
      return { backend: chosen };
    case "workgroup": {
      const { square, narrow, small } = WEIGHT_WORKGROUP_TILES;
      const spec = rows4 <= 8 || (k4 > 4 && k4 <= 8) ? small : k4 <= 4 ? narrow : square;
      return { backend: "workgroup", spec: fits(gpu, weightWorkgroupLayout(spec)) ? spec : small };
    }
    case "matrix": {
      const specs = weightMatrixSpecs(gpu);
      const spec = specs.find((t) => rows4 >= t.rows4 && k4 >= t.columns4) ?? specs[specs.length - 1];
      return { backend: "matrix", spec };
    }
  }
}

/** All choices worth measuring for a gather pass on this adapter, the default first. */
export function gatherCandidates(gpu: Gpu, call: GatherCall): GatherChoice[] {
  const size = gatherSize(call.s, call.direction, call.weightPerImage);
  const available = availableBackends(gpu);
  const first = defaultGather(gpu, call);
  const list: GatherChoice[] = [first, { backend: "register" }];
  if (available.includes("subgroup")) list.push({ backend: "subgroup" });
  // A tile twice the output wastes half of its work, whatever else it does.
  const sensible = (t: { readonly pixels: number; readonly channels4: number }) =>
    t === WORKGROUP_TILES.small || (t.pixels < 2 * size.pixels && t.channels4 < 2 * size.out4);
  const workgroups = (t: { readonly pixels: number; readonly channels4: number }) =>
    size.groups * Math.ceil(size.pixels / t.pixels) * Math.ceil(size.out4 / t.channels4);
  /** One workgroup a tile, as many as fill the GPU, and half and twice of that. */
  const splitsOf = (t: { readonly pixels: number; readonly channels4: number; readonly depth4: number }) => {
    const enough = defaultSplits(workgroups(t), size.reduction4 / t.depth4);
    return [...new Set([1, enough, Math.ceil(enough / 2), enough > 1 ? Math.min(2 * enough, MAX_SPLITS) : 1])];
  };
  if (available.includes("workgroup")) {
    for (const spec of Object.values<WorkgroupSpec>(WORKGROUP_TILES)) {
      if (!sensible(spec) || !fits(gpu, workgroupLayout(spec))) continue;
      for (const splits of splitsOf(spec)) list.push({ backend: "workgroup", spec, splits });
    }
  }
  if (call.half && available.includes("matrix")) {
    for (const spec of matrixSpecs(gpu)) {
      for (const splits of splitsOf(spec)) list.push({ backend: "matrix", spec, splits });
    }
  }
  return distinct(list);
}

/** All choices worth measuring for a weight pass on this adapter, the default first. */
export function weightCandidates(gpu: Gpu, call: WeightCall): WeightChoice[] {
  const available = availableBackends(gpu);
  const rows4 = (call.imagePerTap ? 1 : call.s.kernel[0] * call.s.kernel[1]) * vec4s(call.s.c);
  const sensible = (t: WeightWorkgroupSpec) =>
    t === WEIGHT_WORKGROUP_TILES.small || (t.rows4 < 2 * rows4 && t.columns4 < 2 * vec4s(call.s.k));
  const list: WeightChoice[] = [defaultWeight(gpu, call), { backend: "register" }];
  if (available.includes("subgroup")) list.push({ backend: "subgroup" });
  if (available.includes("workgroup")) {
    for (const spec of Object.values<WeightWorkgroupSpec>(WEIGHT_WORKGROUP_TILES)) {
      if (sensible(spec) && fits(gpu, weightWorkgroupLayout(spec))) list.push({ backend: "workgroup", spec });
    }
  }
  if (call.half && available.includes("matrix")) {
    for (const spec of weightMatrixSpecs(gpu)) list.push({ backend: "matrix", spec });
  }
  return distinct(list);
}

const distinct = <T>(list: readonly T[]): T[] => [...new Map(list.map((c) => [JSON.stringify(c), c])).values()];
