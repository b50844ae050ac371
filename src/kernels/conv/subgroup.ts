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
import { FLAG } from "./epilogue.js";
import { DEAD, GATHER_BINDINGS, GATHER_PARAMS, GATHER_PRELUDE, type TileSize } from "./gather.js";
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
  inTurn: true,
  grid: (tiles: number): Grid => workgroupGrid(tiles),
});

export const gatherSubgroupKernel = defineKernel({
  name: "gatherSubgroup",
  params: GATHER_PARAMS,
  bindings: GATHER_BINDINGS,
  // Branches depend on the workgroup alone, and a workgroup is one subgroup: more than the analysis can know.
  directives: "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n",
  wgsl: ({ lanes, lanesK, pixels, depth }: SubgroupSpec) => {
    const tilePixels = (pixels * lanes) / lanesK;
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
    /** Multiplies and adds what stands at vec4 `c` of the source's channels. */
    const products = (c: string): string => {
      const weights = L.map((l) => `let w_${l} = weight[w_at + ${l}u * p.outC4];`);
      const sources = own.map((o) => `let s_${o} = select(vec4f(), src[at_${o} + ${c}], in_${o});`);
      const sums = T.map((t) => {
        // Pixels outside, the four source channels inside: each sum is read and written once per four multiply-adds.
        const fma = L.map((l) => `a_${t} = fma(vec4f(b_${t}.${"xyzw"[l]}), w_${l}, a_${t});`).join(" ");
        return `let b_${t} = ${share(`s_${Math.floor(t / lanesK)}${channels}`, t)}; ${fma}`;
      });
      return [...weights, ...sources, ...sums].join("\n      ");
    };
    return /* wgsl */ `
${GATHER_PRELUDE}
@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let id = ${workgroupId};
  if (id * p.inTurn >= p.items) { return; }
  var tile = tile_of(id);
  var turn = 0u;
  // Live tiles come before the others, each in a loop of its own: adapters that run lanes under a mask go through a branch in any case.
  if (!is_dead(tile)) {
    loop {
      compute(tile, lane);
      tile.first += p.perStream;
      continuing { turn++; break if turn == p.inTurn || is_dead(tile); }
    }
  }
  if (turn == p.inTurn || (p.flags & ${FLAG.unwritten}u) != 0u) { return; }
  loop {
    finish_dead(tile, lane);
    tile.first += p.perStream;
    continuing { turn++; break if turn == p.inTurn; }
  }
}

/** Whether the tile has no live pixel, nor those that follow it: live pixels come first in their group. */
fn is_dead(tile: Tile) -> bool {
  let first = tile.first * ${tilePixels}u;
  return first >= p.pixels || ((p.flags & ${FLAG.skipping}u) != 0u && order[tile.order + first] >= ${DEAD}u);
}

/** Pixel of the tile that is number o of the lane's own. */
fn own_pixel(tile: Tile, lane: u32, o: u32) -> Pixel {
  let part = lane / ${lanesK}u;
  let lane_k = lane % ${lanesK}u;
  return pixel_of(tile, tile.first * ${tilePixels}u + o * ${lanesK}u + part * ${pixels}u + lane_k);
}

/** Stores a tile of which nothing is computed. */
fn finish_dead(tile: Tile, lane: u32) {
  let part = lane / ${lanesK}u;
  let lane_k = lane % ${lanesK}u;
  let k = tile.k * ${lanesK}u + lane_k;
  ${own.map((o) => `var out_${o} = own_pixel(tile, lane, ${o}u).out; var share_${o} = share_of(min(out_${o}, p.outPixels - 1u));`).join("\n  ")}
  let channel = channel_of(min(k, p.outC4 - 1u));
  // The lanes' first pixels, then their second ones and so on; in one loop, because one in the other compiles for seconds.
  var t = 0u;
  loop {
    let source_lane = part * ${lanesK}u + t % ${lanesK}u;
    let out = subgroupShuffle(out_0, source_lane);
    let share = subgroupShuffle(share_0, source_lane);
    if (out != NOWHERE && k < p.outC4) { store_dead(out, k, share, channel); }
    if (t % ${lanesK}u == ${lanesK - 1}u) { ${own
      .slice(1)
      .map((o) => `out_${o - 1} = out_${o}; share_${o - 1} = share_${o};`)
      .join(" ")} }
    continuing { t++; break if t == ${pixels}u; }
  }
}

/** Computes and stores one tile. */
fn compute(tile: Tile, lane: u32) {
  let part = lane / ${lanesK}u;
  let lane_k = lane % ${lanesK}u;
  let k = tile.k * ${lanesK}u + lane_k;
  let weight_k = min(k, p.outC4 - 1u);
  ${own.map((o) => `let pixel_${o} = own_pixel(tile, lane, ${o}u);`).join("\n  ")}
  ${T.map((t) => `var a_${t} = vec4f();`).join(" ")}
  // One loop over all taps: each loop in a loop takes such an adapter a turn more. Conditions are at the end for the same reason.
  var i = 0u;
  var j = 0u;
  loop {
    let row = row_offset(tile, i);
    let down = row / p.divH;
    let column = column_offset(tile, j);
    let across = column / p.divW;
    if (down * p.divH != row || across * p.divW != column) { continue; }
    let offset = vec2<i32>(down, across);
    ${own.map((o) => `let from_${o} = pixel_${o}.source + offset; let in_${o} = pixel_${o}.out != NOWHERE && in_image(from_${o}); let at_${o} = address(pixel_${o}, from_${o});`).join("\n    ")}
    if (!subgroupAny(${own.map((o) => `in_${o}`).join(" || ")})) { continue; }
    var w_at = tile.image * p.weightStride + (i * p.kw + j) * p.srcC4 * 4u * p.outC4 + weight_k;
    ${
      depth === 3
        ? `{ ${products("0u")} }`
        : `var c = 0u;
    loop {
      ${products("c")}
      w_at += 4u * p.outC4;
      continuing { c++; break if c == p.srcC4; }
    }`
    }
    continuing {
      j++;
      if (j == p.kw) { j = 0u; i++; }
      break if i == p.kh;
    }
  }
  // A load costs more than the broadcasts that save it: each lane reads the scale of its own pixels.
  ${own.map((o) => `let share_${o} = share_of(min(pixel_${o}.out, p.outPixels - 1u));`).join("\n  ")}
  ${T.map((t) => {
    const from = Math.floor(t / lanesK);
    return `let out_${t} = ${share(`pixel_${from}.out`, t)}; let share_of_${t} = ${share(`share_${from}`, t)};`;
  }).join("\n  ")}
  if (k >= p.outC4) { return; }
  let channel = channel_of(k);
  ${T.map((t) => `if (out_${t} != NOWHERE) { store_live(out_${t}, k, a_${t}, share_of_${t}, channel); }`).join("\n  ")}
}
`;
  },
});
