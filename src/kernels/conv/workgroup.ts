/**
 * Gather backend of real GPUs: an implicit matrix product through workgroup memory. A workgroup computes `pixels` x
 * `channels4` vec4s; it steps through the reduction `depth4` vec4s of source channels at a time, and each invocation
 * holds `threadPixels` x `threadChannels4` sums in registers.
 *
 * Per step of 64 pixels x 64 channels x 16 (invocations of 8 pixels x 8 channels, 64 of them): 65,536 multiply-adds for
 * 2 x 1,024 floats from storage, that is 32 a float or 16 FLOP a byte; caches serve most of them, since neighbouring
 * taps and tiles read the same. Out of workgroup memory each invocation reads, per four source channels, 8 vec4s of
 * source and 8 of weight for 256 multiply-adds: 4 a float, where GPUs with as many lanes of memory as of arithmetic need
 * more than one. Tiles of 128 x 64 halve the traffic from storage again and need twice the pixels to fill the GPU.
 *
 * The next step's values are read into registers before this step's products, which hide the latency.
 *
 * Memory banks: consecutive invocations read consecutive vec4s of a tile (or the same one); the padding lets the eight
 * neighbours that a GPU serves at once write to different banks too.
 *
 * Software adapters emulate workgroup memory at the price of storage (measured on lavapipe: 2 to 5
 * GFLOP/s, a fifth to a half of the subgroup backend's speed, and up to 40 s to compile), and do not choose this one.
 */
import { defineKernel } from "../../gpu/kernel.js";
import { workgroupGrid, workgroupId } from "../../gpu/linear.js";
import { GATHER_BINDINGS, GATHER_PARAMS, type TileSize } from "./gather.js";
import { gatherTileWgsl, tileFill, tileReads } from "./gatherTile.js";
import { range } from "./range.js";

export interface WorkgroupSpec {
  /** The tile of a workgroup. */
  readonly pixels: number;
  readonly channels4: number;
  /** vec4s of the reduction in one step. */
  readonly depth4: number;
  /** The part of one invocation. */
  readonly threadPixels: number;
  readonly threadChannels4: number;
}

/** Derived numbers of a spec. */
export function workgroupLayout(s: WorkgroupSpec) {
  const columns = s.channels4 / s.threadChannels4;
  const rows = s.pixels / s.threadPixels;
  const padding = Math.max(1, 8 / s.depth4);
  const [strideA, strideB] = [s.pixels + padding, s.channels4 + padding];
  return {
    columns,
    rows,
    invocations: columns * rows,
    strideA,
    strideB,
    /** Bytes of workgroup memory: the tiles, and two flags. */
    bytes: 16 * s.depth4 * (strideA + 4 * strideB) + 16,
  };
}

export const workgroupTile = (s: WorkgroupSpec): TileSize => ({
  pixels: s.pixels,
  channels4: s.channels4,
  grid: workgroupGrid,
});

export const gatherWorkgroupKernel = defineKernel({
  name: "gatherWorkgroup",
  params: GATHER_PARAMS,
  bindings: GATHER_BINDINGS,
  wgsl: (spec: WorkgroupSpec) => {
    const { columns, rows, invocations, strideA, strideB } = workgroupLayout(spec);
    const { pixels, channels4, depth4 } = spec;
    const fill = tileFill(spec, invocations);
    const { setup, read, next } = tileReads(fill);
    const A = range(fill.fillsA);
    const B = range(fill.fillsB);
    const T = range(spec.threadPixels);
    const U = range(spec.threadChannels4);
    const L = range(4);
    return /* wgsl */ `
${gatherTileWgsl(pixels, invocations)}
var<workgroup> tile_a: array<vec4f, ${depth4 * strideA}>;      // [depth4][pixels + padding], four channels each
var<workgroup> tile_b: array<vec4f, ${4 * depth4 * strideB}>;  // [4][depth4][channels4 + padding], first the channel in its vec4

@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let id = ${workgroupId};
  if (id >= p.items * p.splits) { return; }
  let split = id / p.items;
  let tile = tile_of(id % p.items);
  let column = local % ${columns}u;
  let row = local / ${columns}u;
  ${T.flatMap((t) => U.map((u) => `var sum_${t}_${u} = vec4f();`)).join(" ")}
  let computed = is_computed(tile, local);
  if (computed) {
    ${setup}
    let to_a = depth * ${strideA}u + filler;
    ${B.map((s) => `let to_b_${s} = (row_${s} * ${depth4}u + depth) * ${strideB}u + slot_${s};`).join("\n    ")}
    if (begin < end) ${read}
    for (var step = begin; step < end; step++) {
      ${A.map((s) => `tile_a[to_a + ${s * fill.fillers}u] = a_${s};`).join(" ")}
      ${B.map((s) => `tile_b[to_b_${s}] = b_${s};`).join(" ")}
      workgroupBarrier(); // the tiles are filled before anyone multiplies
      ${next}
      if (step + 1u < end) ${read}
      for (var d = 0u; d < ${depth4}u; d++) {
        ${T.map((t) => `let x_${t} = tile_a[d * ${strideA}u + row + ${t * rows}u];`).join("\n        ")}
        ${L.map((l) => {
          const loads = U.map(
            (u) => `let w_${l}_${u} = tile_b[(${l * depth4}u + d) * ${strideB}u + column + ${u * columns}u];`,
          );
          const fma = T.flatMap((t) =>
            U.map((u) => `sum_${t}_${u} = fma(vec4f(x_${t}.${"xyzw"[l]}), w_${l}_${u}, sum_${t}_${u});`),
          );
          return [...loads, ...fma].join("\n        ");
        }).join("\n        ")}
      }
      workgroupBarrier(); // everyone has multiplied before the tiles are filled again
    }
  }
  ${T.map((t) => {
    const stores = U.map((u) => {
      const k = `tile.k * ${channels4}u + column + ${u * columns}u`;
      return `if (${k} < p.outC4) { finish(out_${t}, ${k}, sum_${t}_${u}, computed, split); }`;
    });
    return `let out_${t} = pixel_of(tile, tile.first * ${pixels}u + row + ${t * rows}u).out; if (out_${t} != NOWHERE) { ${stores.join(" ")} }`;
  }).join("\n  ")}
}
`;
  },
});
