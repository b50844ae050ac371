/**
 * Weight backend of real GPUs: a matrix product through workgroup memory. A workgroup computes `rows4` x `columns4` blocks of
 * 4 x 4 entries of dw; it steps through the output pixels `depth` at a time, and each invocation holds `threadRows4` x
 * `threadColumns4` blocks in registers.
 *
 * Per step of 64 rows x 64 columns x 16 pixels (invocations of 8 x 8 entries): as many multiply-adds, values from storage and
 * reads of workgroup memory as in `workgroup.ts`, where the reasons for its form are told. The chunks of the pass give enough
 * workgroups where dw is small.
 */
import { defineKernel } from "../../gpu/kernel.js";
import { workgroupId } from "../../gpu/linear.js";
import { range } from "./range.js";
import { WEIGHT_BINDINGS, WEIGHT_PARAMS } from "./weightPass.js";
import { weightReads, weightTileWgsl } from "./weightTile.js";

export interface WeightWorkgroupSpec {
  /** The tile of a workgroup, in vec4s of rows (tap, c) and of columns k. */
  readonly rows4: number;
  readonly columns4: number;
  /** Output pixels of one step. */
  readonly depth: number;
  /** The part of one invocation. */
  readonly threadRows4: number;
  readonly threadColumns4: number;
}

/** Derived numbers of a spec. */
export function weightWorkgroupLayout(s: WeightWorkgroupSpec) {
  const across = s.columns4 / s.threadColumns4;
  const down = s.rows4 / s.threadRows4;
  /** Bytes of workgroup memory. */
  const bytes = 16 * s.depth * (s.rows4 + s.columns4);
  return { across, down, invocations: across * down, bytes };
}

export const weightWorkgroupKernel = defineKernel({
  name: "weightWorkgroup",
  params: WEIGHT_PARAMS,
  bindings: WEIGHT_BINDINGS,
  wgsl: (spec: WeightWorkgroupSpec) => {
    const { rows4, columns4, depth } = spec;
    const { across, down, invocations } = weightWorkgroupLayout(spec);
    const { setup, read, A, B } = weightReads(spec, invocations);
    const R = range(spec.threadRows4);
    const U = range(spec.threadColumns4);
    const L = range(4);
    return /* wgsl */ `
${weightTileWgsl(rows4, depth)}
var<workgroup> tile_a: array<vec4f, ${depth * rows4}>;     // [depth][rows4]
var<workgroup> tile_b: array<vec4f, ${depth * columns4}>;  // [depth][columns4]

@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let id = ${workgroupId};
  if (id >= p.items) { return; }
  let block = block_of(id);
  let column = local % ${across}u;
  let row = local / ${across}u;
  ${R.flatMap((r) => L.flatMap((l) => U.map((u) => `var sum_${r}_${l}_${u} = vec4f();`))).join(" ")}
  ${setup}
  if (pixel < block.end) ${read}
  while (pixel < block.end) {
    let computed = any_live(pixel, block.end);
    if (computed) {
      // [fill_a + N * pixelsA][fill_row] and [fill_b + N * pixelsB][fill_column]
      ${A.map((s) => `tile_a[local + ${s * invocations}u] = a_${s};`).join(" ")}
      ${B.map((s) => `tile_b[local + ${s * invocations}u] = b_${s};`).join(" ")}
      workgroupBarrier(); // the tiles are filled before anyone multiplies
    }
    pixel += ${depth}u;
    if (pixel < block.end) ${read}
    if (computed) {
      for (var d = 0u; d < ${depth}u; d++) {
        ${R.map((r) => `let x_${r} = tile_a[d * ${rows4}u + row + ${r * down}u];`).join(" ")}
        ${U.map((u) => `let d_${u} = tile_b[d * ${columns4}u + column + ${u * across}u];`).join(" ")}
        ${R.flatMap((r) => L.flatMap((l) => U.map((u) => `sum_${r}_${l}_${u} = fma(vec4f(x_${r}.${"xyzw"[l]}), d_${u}, sum_${r}_${l}_${u});`))).join("\n        ")}
      }
      workgroupBarrier(); // everyone has multiplied before the tiles are filled again
    }
  }
  let to = (block.chunk * p.kh * p.kw * p.c4 + block.row) * 4u;
  ${R.map((r) => {
    const stores = L.flatMap((l) =>
      U.map((u) => {
        const k = `block.k * ${columns4}u + column + ${u * across}u`;
        return `if (${k} < p.k4) { dw[(to + (row + ${r * down}u) * 4u + ${l}u) * p.k4 + ${k}] = sum_${r}_${l}_${u}; }`;
      }),
    );
    return `if (row + ${r * down}u < block.rows) { ${stores.join(" ")} }`;
  }).join("\n  ")}
}
`;
  },
});
