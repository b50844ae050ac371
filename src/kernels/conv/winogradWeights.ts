/**
 * The weight's transforms in Winograd's forms, and their adjoint, which ends the weight's gradient:
 *
 *   U = G w G'        dw = G' [ sum over tiles of (B' d B) x (A dy A') ] G
 *
 * Source: Lavin & Gray 2016, sec. 4.1; the adjoint is ours. Layout: w, dw [3,3,C,K]; U [side^2,C,K], dU alike.
 */
import { defineKernel } from "../../gpu/kernel.js";
import type { Gpu } from "../../gpu/gpu.js";
import { linearGrid, linearMain } from "../../gpu/linear.js";
import type { Storage } from "../../gpu/pool.js";
import { range } from "./range.js";
import { linearMap, transposed, unrolled, type WinogradSpec, type WinogradTile } from "./winogradForms.js";

export const winogradWeightKernel = defineKernel({
  name: "winogradWeight",
  params: { vec4s: "u32", turned: "u32" },
  bindings: ["read", "read_write"],
  wgsl: (spec: WinogradSpec) => {
    const { side, sides, G } = unrolled(spec);
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> w: array<vec4f>;                // [3,3,C,K]
@group(0) @binding(2) var<storage, read_write> u: array<vec4f>;          // [side^2,C,K]
${linearMain(
  "p.vec4s",
  `  let plane = p.vec4s;
  ${range(9)
    .map((t) => `let w_${t} = w[select(${t}u, ${8 - t}u, p.turned != 0u) * plane + id];`)
    .join(" ")}
  ${range(3)
    .map((j) =>
      linearMap(
        G,
        (i) => `let t_${i}_${j}`,
        (i) => `w_${3 * i + j}`,
        `column_${j}_`,
      ),
    )
    .join("\n  ")}
  ${sides
    .map((i) =>
      linearMap(
        G,
        (j) => `u[${side * i + j}u * plane + id]`,
        (j) => `t_${i}_${j}`,
        `row_${i}_`,
      ),
    )
    .join("\n  ")}`,
)}
`;
  },
});

/** Sizes of a weight's transform. */
export interface WinogradWeightShape {
  readonly tile: WinogradTile;
  /** Input channels with padding. */
  readonly rows: number;
  readonly k4: number;
}

/** Records U = G w G'; `turned` by 180 degrees for the input gradient. */
export function winogradWeight(
  gpu: Gpu,
  s: WinogradWeightShape & { readonly turned: boolean },
  b: { readonly w: Storage; readonly u: Storage },
): void {
  const params = { vec4s: s.rows * s.k4, turned: Number(s.turned) };
  gpu.dispatch(winogradWeightKernel, { tile: s.tile }, params, [b.w, b.u], linearGrid(params.vec4s));
}

export const winogradWeightBackwardKernel = defineKernel({
  name: "winogradWeightBackward",
  params: { vec4s: "u32" },
  bindings: ["read", "read_write"],
  wgsl: (spec: WinogradSpec) => {
    const { side, sides, G } = unrolled(spec);
    const Gt = transposed(G);
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> du: array<vec4f>;               // [side^2,C,K]
@group(0) @binding(2) var<storage, read_write> dw: array<vec4f>;         // [3,3,C,K]
${linearMain(
  "p.vec4s",
  `  let plane = p.vec4s;
  ${sides
    .map((j) => {
      const loads = sides.map((i) => `let u_${i}_${j} = du[${side * i + j}u * plane + id];`).join(" ");
      return `${loads} ${linearMap(
        Gt,
        (i) => `let t_${i}_${j}`,
        (i) => `u_${i}_${j}`,
        `column_${j}_`,
      )}`;
    })
    .join("\n  ")}
  ${range(3)
    .map((i) =>
      linearMap(
        Gt,
        (j) => `dw[${3 * i + j}u * plane + id]`,
        (j) => `t_${i}_${j}`,
        `row_${i}_`,
      ),
    )
    .join("\n  ")}`,
)}
`;
  },
});

/** Records dw = G' dU G. */
export function winogradWeightBackward(
  gpu: Gpu,
  { tile, rows, k4 }: WinogradWeightShape,
  b: { readonly du: Storage; readonly dw: Storage },
): void {
  const vec4s = rows * k4;
  gpu.dispatch(winogradWeightBackwardKernel, { tile }, { vec4s }, [b.du, b.dw], linearGrid(vec4s));
}
