/**
 * Weight backend for small subgroups: a workgroup is one subgroup, its lanes are output channels (a vec4 each), and it computes
 * 16 rows of dw: four vec4s, of four taps where there are few input channels. Four output pixels at a time: the lanes load
 * the 16 source values of each and pass them round by subgroup broadcast, as in `subgroup.ts`.
 */
import { defineKernel } from "../../gpu/kernel.js";
import { workgroupId } from "../../gpu/linear.js";
import { range } from "./range.js";
import { WEIGHT_BINDINGS, WEIGHT_PARAMS, WEIGHT_PRELUDE } from "./weightPass.js";

export interface WeightSubgroupSpec {
  readonly lanes: number;
}

/** vec4s of dw's rows in one tile. */
export const SUBGROUP_ROWS4 = 4;
/** Output pixels dealt with at a time; each sum is read and written once for them. */
export const SUBGROUP_STEP = 4;

export const weightSubgroupKernel = defineKernel({
  name: "weightSubgroup",
  params: WEIGHT_PARAMS,
  bindings: WEIGHT_BINDINGS,
  // Branches depend on the workgroup alone, and a workgroup is one subgroup: more than the analysis can know.
  directives: "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n",
  wgsl: ({ lanes }: WeightSubgroupSpec) => {
    const own = range((SUBGROUP_ROWS4 * SUBGROUP_STEP) / lanes);
    const R = range(SUBGROUP_ROWS4);
    const T = range(SUBGROUP_STEP);
    const L = range(4);
    /** The vec4 of row r at pixel t: slot t * 4 + r, which lane slot % lanes loaded as its slot / lanes-th. */
    const share = (t: number, r: number) => {
      const slot = t * SUBGROUP_ROWS4 + r;
      return `subgroupBroadcast(s_${Math.floor(slot / lanes)}, ${slot % lanes}u)`;
    };
    return /* wgsl */ `
${WEIGHT_PRELUDE}
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
  // The row of dw whose source this lane loads: the same one for each of its slots, since lanes is a multiple of the rows.
  let own_row = row4 + lane % ${SUBGROUP_ROWS4}u;
  let in_weight = own_row < end4;
  let tap = own_row / p.c4;
  let c = own_row % p.c4;
  let i = i32(tap / p.kw) * i32(1u - p.imagePerTap);
  let j = i32(tap % p.kw) * i32(1u - p.imagePerTap);
  let offset = vec2<i32>(i * p.dilH - p.padH, j * p.dilW - p.padW);
  let start = first_row(row4 / p.c4);
  ${R.flatMap((r) => L.map((l) => `var a_${r}_${l} = vec4f();`)).join(" ")}
  let rows = min((chunk + 1u) * p.chunkRows, p.rows);
  for (var r = chunk * p.chunkRows; r < rows; r++) {
    let row = start + r;
    let y = i32(row % p.p) * p.strideH + offset.x;
    let in_row = in_weight && u32(y) < p.h;
    if (!subgroupAny(in_row)) { continue; }
    let source = (row / p.p * p.h + select(0u, u32(y), in_row)) * p.w;
    let live_row = row * p.q % p.livePixels;
    for (var q = 0u; q < p.q; q += ${SUBGROUP_STEP}u) {
      var wanted = true;
      if (p.skipping != 0u) {
        wanted = live_mask[live_row + min(q + lane % ${SUBGROUP_STEP}u, p.q - 1u)] != 0.0;
      }
      if (!subgroupAny(wanted)) { continue; }
      ${own
        .map(
          (o) => `let q_${o} = q + lane / ${SUBGROUP_ROWS4}u + ${(o * lanes) / SUBGROUP_ROWS4}u;
      let x_${o} = i32(q_${o}) * p.strideW + offset.y;
      let in_${o} = in_row && q_${o} < p.q && u32(x_${o}) < p.w;
      let s_${o} = select(vec4f(), x[(source + select(0u, u32(x_${o}), in_${o})) * p.c4 + c], in_${o});`,
        )
        .join("\n      ")}
      let d_at = row * p.q;
      // Beyond the row the source is zero: any pixel of it will do.
      ${T.map((t) => `let d_${t} = dy[(d_at + min(q + ${t}u, p.q - 1u)) * p.k4 + load_k];`).join("\n      ")}
      ${R.map((r) => {
        const shared = T.map((t) => `let b_${r}_${t} = ${share(t, r)};`).join(" ");
        const fma = L.map((l) =>
          T.map((t) => `a_${r}_${l} = fma(vec4f(b_${r}_${t}.${"xyzw"[l]}), d_${t}, a_${r}_${l});`).join(" "),
        ).join("\n      ");
        return `${shared}\n      ${fma}`;
      }).join("\n      ")}
    }
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
