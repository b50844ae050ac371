/**
 * Weight backend for small subgroups: a workgroup is one subgroup, its lanes are output channels (a vec4 each), and it computes
 * 16 rows of dw: four vec4s, of four taps where there are few input channels. Four output pixels at a time: the lanes load
 * the 16 source values of each and pass them round by subgroup broadcast, as in `subgroup.ts`. With a mask the four are the next
 * live ones of the row (`liveRows.ts`); no other pixel of x or dy is read.
 */
import { defineKernel } from "../../gpu/kernel.js";
import { workgroupId } from "../../gpu/linear.js";
import { DEAD } from "./gather.js";
import { LIVE_STEP, WHOLE } from "./liveRows.js";
import { range } from "./range.js";
import { WEIGHT_BINDINGS, WEIGHT_PARAMS, weightPrelude } from "./weightPass.js";

export interface WeightSubgroupSpec {
  readonly lanes: number;
}

/** vec4s of dw's rows in one tile. */
export const SUBGROUP_ROWS4 = 4;

export const weightSubgroupKernel = defineKernel({
  name: "weightSubgroup",
  params: WEIGHT_PARAMS,
  bindings: WEIGHT_BINDINGS,
  // Branches depend on the workgroup alone, and a workgroup is one subgroup: more than the analysis can know.
  directives: "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n",
  wgsl: ({ lanes }: WeightSubgroupSpec) => {
    const own = range((SUBGROUP_ROWS4 * LIVE_STEP) / lanes);
    const R = range(SUBGROUP_ROWS4);
    const T = range(LIVE_STEP);
    const L = range(4);
    /** The vec4 of row r at pixel t: slot r * 4 + t, which lane slot % lanes loaded as its slot / lanes-th. */
    const share = (t: number, r: number) => {
      const slot = r * LIVE_STEP + t;
      return `subgroupBroadcast(s_${Math.floor(slot / lanes)}, ${slot % lanes}u)`;
    };
    return /* wgsl */ `
// live_columns [N|1,P,livePitch], see liveRows.ts
${weightPrelude("live_columns: array<u32>")}
@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  var rest = ${workgroupId};
  if (rest >= p.items) { return; }
  let tile_k = rest % p.tilesK; rest /= p.tilesK;
  // Tiles run over all rows of dw, and so over several taps; but not where every tap reads an image of its own.
  let span = select(p.kh * p.kw * p.c4, p.c4, p.imagePerTap != 0u);
  let span_tiles = (span + ${SUBGROUP_ROWS4 - 1}u) / ${SUBGROUP_ROWS4}u;
  let tile_c = rest % p.tilesC;
  let row4 = tile_c / span_tiles * span + tile_c % span_tiles * ${SUBGROUP_ROWS4}u;
  let end4 = (tile_c / span_tiles + 1u) * span;
  let chunk = rest / p.tilesC;
  let k = tile_k * ${lanes}u + lane;
  let load_k = min(k, p.k4 - 1u);
  // The rows of dw whose source this lane loads, at one pixel of each step.
  ${own
    .map(
      (o) => `let row_${o} = row4 + lane / ${LIVE_STEP}u + ${(o * lanes) / LIVE_STEP}u;
  let in_weight_${o} = row_${o} < end4;
  let tap_${o} = row_${o} / p.c4;
  let c_${o} = row_${o} % p.c4;
  let offset_${o} = vec2<i32>(vec2<u32>(tap_${o} / p.kw, tap_${o} % p.kw) * (1u - p.imagePerTap)) * vec2<i32>(p.dilH, p.dilW) - vec2<i32>(p.padH, p.padW);`,
    )
    .join("\n  ")}
  let start = first_row(row4 / p.c4);
  ${R.flatMap((r) => L.map((l) => `var a_${r}_${l} = vec4f();`)).join(" ")}
  let rows = min((chunk + 1u) * p.chunkRows, p.rows);
  var r = chunk * p.chunkRows;
  loop {
    let row = start + r;
    let n = row / p.p;
    let out_y = row - n * p.p;
    let y = i32(out_y) * p.strideH;
    let image = n * p.h;
    ${own.map((o) => `let y_${o} = y + offset_${o}.x; let in_row_${o} = in_weight_${o} && u32(y_${o}) < p.h; let source_${o} = (image + select(0u, u32(y_${o}), in_row_${o})) * p.w;`).join("\n    ")}
    if (!subgroupAny(${own.map((o) => `in_row_${o}`).join(" || ")})) { continue; }
    let live_row = select(row, out_y, p.liveRows == p.p) * p.livePitch;
    var steps = (p.q + ${LIVE_STEP - 1}u) / ${LIVE_STEP}u;
    var listed = p.skipping != 0u;
    if (listed) {
      steps = live_columns[live_row];
      listed = steps < ${WHOLE}u;
      steps &= ${WHOLE - 1}u;
    }
    if (steps == 0u) { continue; }
    var step = 0u;
    let d_at = row * p.q;
    loop {
      // Beyond the row's end, or its last live pixel, the source is zero, and dy that of a pixel that is looked at anyway.
      var column = step * ${LIVE_STEP}u + lane % ${LIVE_STEP}u;
      var inside = column < p.q;
      if (listed) {
        let entry = live_columns[live_row + 1u + column];
        column = entry & ${DEAD - 1}u;
        inside = entry < ${DEAD}u;
      } else {
        column = min(column, p.q - 1u);
      }
      ${own
        .map(
          (o) => `let x_${o} = i32(column) * p.strideW + offset_${o}.y;
      let in_${o} = in_row_${o} && inside && u32(x_${o}) < p.w;
      let s_${o} = select(vec4f(), x[(source_${o} + select(0u, u32(x_${o}), in_${o})) * p.c4 + c_${o}], in_${o});`,
        )
        .join("\n      ")}
      ${T.map((t) => `let d_${t} = dy[(d_at + subgroupBroadcast(column, ${t}u)) * p.k4 + load_k];`).join("\n      ")}
      ${R.map((r) => {
        const shared = T.map((t) => `let b_${r}_${t} = ${share(t, r)};`).join(" ");
        const fma = L.map((l) =>
          T.map((t) => `a_${r}_${l} = fma(vec4f(b_${r}_${t}.${"xyzw"[l]}), d_${t}, a_${r}_${l});`).join(" "),
        ).join("\n      ");
        return `${shared}\n      ${fma}`;
      }).join("\n      ")}
      continuing { step++; break if step == steps; }
    }
    continuing { r++; break if r >= rows; }
  }
  if (k >= p.k4) { return; }
  let to = chunk * p.kh * p.kw * p.c4 + row4;
  ${R.map((r) => {
    const stores = L.map((l) => `dw[((to + ${r}u) * 4u + ${l}u) * p.k4 + k] = a_${r}_${l};`).join(" ");
    return `if (row4 + ${r}u < end4) { ${stores} }`;
  }).join("\n  ")}
}
`;
  },
});
