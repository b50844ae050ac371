/**
 * Gather backend for small subgroups: a workgroup is one subgroup, its lanes are output channels (a vec4 each), and the source
 * pixels that the lanes loaded go round by subgroup broadcast. Where the output has few channels the subgroup falls into
 * `lanes / lanesK` parts with pixels of their own.
 *
 * Why: on adapters that emulate lanes with vector registers (lavapipe, SwiftShader) a load costs ten to twenty multiply-adds
 * per lane wherever it reads from, a broadcast two or three. A loaded weight serves `pixels` outputs here, a loaded source
 * value all channels of the tile.
 *
 * Measured on lavapipe (8 lanes): see docs/performance.md.
 */
import type { Grid } from "../../gpu/gpu.js";
import { defineKernel } from "../../gpu/kernel.js";
import { workgroupGrid, workgroupId } from "../../gpu/linear.js";
import { FLAG, GATHER_BINDINGS, GATHER_PARAMS, GATHER_PRELUDE, type TileSize } from "./gather.js";
import { range } from "./range.js";

export interface SubgroupSpec {
  /** Lanes of a subgroup: the adapter's only subgroup size. */
  readonly lanes: number;
  /** Lanes that share their pixels; each holds one vec4 of output channels. */
  readonly lanesK: number;
  /** Pixels that they share; a multiple of `lanesK`. */
  readonly pixels: number;
  /** Channels of a source vec4 that are not padding: 3 for images, else 4. */
  readonly depth: 3 | 4;
}

export const subgroupTile = (spec: SubgroupSpec): TileSize => ({
  pixels: (spec.pixels * spec.lanes) / spec.lanesK,
  channels4: spec.lanesK,
  grid: (tiles: number): Grid => workgroupGrid(tiles),
});

export const gatherSubgroupKernel = defineKernel({
  name: "gatherSubgroup",
  params: GATHER_PARAMS,
  bindings: GATHER_BINDINGS,
  // Branches depend on the workgroup alone, and a workgroup is one subgroup: more than the analysis can know.
  directives: "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n",
  wgsl: ({ lanes, lanesK, pixels, depth }: SubgroupSpec) => {
    const own = range(pixels / lanesK);
    const T = range(pixels);
    const L = range(depth);
    const channels = depth === 3 ? ".xyz" : "";
    /** The value of lane t of the caller's part. */
    const share = (value: string, t: number) =>
      lanesK === lanes
        ? `subgroupBroadcast(${value}, ${t % lanesK}u)`
        : lanesK === 4
          ? `quadBroadcast(${value}, ${t % lanesK}u)`
          : `subgroupShuffle(${value}, part * ${lanesK}u + ${t % lanesK}u)`;
    return /* wgsl */ `
${GATHER_PRELUDE}
@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let id = ${workgroupId};
  if (id >= p.items) { return; }
  let tile = tile_of(id);
  let part = lane / ${lanesK}u;
  let lane_k = lane % ${lanesK}u;
  let k = tile.k * ${lanesK}u + lane_k;
  let weight_k = min(k, p.outC4 - 1u);
  let first = tile.first * ${(pixels * lanes) / lanesK}u + part * ${pixels}u + lane_k;
  ${own.map((o) => `let pixel_${o} = pixel_of(tile, first + ${o * lanesK}u);`).join("\n  ")}
  ${T.map((t) => `var a_${t} = vec4f();`).join(" ")}
  let computed = subgroupAny(${own.map((o) => `pixel_${o}.live`).join(" || ")});
  if (computed) {
    // Conditions are at the end: with them at the beginning, adapters that run lanes under a mask go through the body once more.
    var i = 0u;
    loop {
      let row = row_offset(tile, i);
      let down = divided(row, p.divH);
      if (down * p.divH != row) { continue; }
      var j = 0u;
      loop {
        let column = column_offset(tile, j);
        let across = divided(column, p.divW);
        if (across * p.divW != column) { continue; }
        let offset = vec2<i32>(down, across);
        ${own.map((o) => `let from_${o} = pixel_${o}.source + offset; let in_${o} = pixel_${o}.out != NOWHERE && in_image(from_${o}); let at_${o} = address(pixel_${o}, from_${o});`).join("\n        ")}
        if (!subgroupAny(${own.map((o) => `in_${o}`).join(" || ")})) { continue; }
        var w_at = tile.image * p.weightStride + (i * p.kw + j) * p.srcC4 * 4u * p.outC4 + weight_k;
        var c = 0u;
        loop {
          ${L.map((l) => `let w_${l} = weight[w_at + ${l}u * p.outC4];`).join(" ")}
          ${own.map((o) => `let s_${o} = select(vec4f(), src[at_${o} + c], in_${o});`).join("\n          ")}
          ${T.map((t) => {
            // Pixels outside, the four source channels inside: each sum is read and written once per four multiply-adds.
            const fma = L.map((l) => `a_${t} = fma(vec4f(b_${t}.${"xyzw"[l]}), w_${l}, a_${t});`).join(" ");
            return `let b_${t} = ${share(`s_${Math.floor(t / lanesK)}${channels}`, t)}; ${fma}`;
          }).join("\n          ")}
          w_at += 4u * p.outC4;
          continuing { c++; break if c == p.srcC4; }
        }
        continuing { j++; break if j == p.kw; }
      }
      continuing { i++; break if i == p.kh; }
    }
  }
  if (!computed && (p.flags & ${FLAG.unwritten}u) != 0u) { return; }
  // A load costs more than the broadcasts that save it: each lane reads the scale of its own pixels.
  ${own.map((o) => `let share_${o} = share_of(min(pixel_${o}.out, p.outPixels - 1u));`).join("\n  ")}
  let empty = !computed && (p.flags & ${FLAG.based}u) == 0u
    && ((p.flags & ${FLAG.biased}u) == 0u || !subgroupAny(${own.map((o) => `share_${o}.y != 0.0`).join(" || ")}));
  ${T.map((t) => {
    const from = Math.floor(t / lanesK);
    return `let out_${t} = ${share(`pixel_${from}.out`, t)}; let share_of_${t} = ${share(`share_${from}`, t)};`;
  }).join("\n  ")}
  if (k >= p.outC4) { return; }
  if (empty) {
    // What the epilogue makes of no sum and no bias, without going through it.
    ${T.map((t) => `if (out_${t} != NOWHERE) { dst[out_${t} * p.outC4 + k] = vec4f(); }`).join("\n    ")}
    return;
  }
  let channel = channel_of(k);
  ${T.map((t) => `if (out_${t} != NOWHERE) { store_with(out_${t}, k, a_${t}, computed, share_of_${t}, channel); }`).join("\n  ")}
}
`;
  },
});
