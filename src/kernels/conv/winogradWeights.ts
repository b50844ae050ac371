/**
 * The weight's transforms in Winograd's forms, and their adjoint, which ends the weight's gradient:
 *
 *   U = G w G'        dw = G' [ sum over tiles of (B' d B) x (A dy A') ] G
 *
 * The 3x3 window of a convolution over phases (`polyphase.ts`) is never stored: its taps are read, and its gradient written, where the whole
 * window has them.
 *
 * Source: Lavin & Gray 2016, sec. 4.1; the adjoint is ours. Layout: w, dw [3,3,C,K]; U [side^2,C,K], dU alike.
 */
import { defineKernel } from "../../gpu/kernel.js";
import type { Gpu } from "../../gpu/gpu.js";
import { linearGrid, linearMain } from "../../gpu/linear.js";
import type { Storage } from "../../gpu/pool.js";
import { range } from "./range.js";
import { linearMap, transposed, unrolled, type WinogradSpec, type WinogradTile } from "./winogradForms.js";

/** The window whose four phases are 3x3: w'[i,j,(a,b)] = w[2i+a-shift,2j+b-shift], 0 outside. */
export interface PhasedWindow {
  readonly side: number;
  readonly shift: number;
}

export interface WinogradWeightSpec extends WinogradSpec {
  readonly phased?: PhasedWindow | undefined;
}

/** WGSL of a weight [3,3,C,K] or of one over phases: where in `name` tap t of entry `id` stands. */
function tapsOf(name: string, phased: PhasedWindow | undefined) {
  if (!phased) {
    return {
      functions: "",
      place: "",
      read: (t: string) => `${name}[${t} * plane + id]`,
      write: (t: number, value: string) => `${name}[${t}u * plane + id] = ${value};`,
    };
  }
  const { side, shift } = phased;
  return {
    functions: /* wgsl */ `
/** Number of the whole window's tap that tap t of a phase is; none's where it has none. */
fn tap_of(t: u32, phase: u32) -> u32 {
  let y = 2u * (t / 3u) + phase / 2u - ${shift}u; // what is below 0 wraps around
  let x = 2u * (t % 3u) + phase % 2u - ${shift}u;
  return select(${side * side}u, y * ${side}u + x, y < ${side}u && x < ${side}u);
}
fn weight_at(t: u32, phase: u32, at: u32) -> vec4f {
  let tap = tap_of(t, phase);
  let inside = tap < ${side * side}u;
  return select(vec4f(), ${name}[select(0u, tap * (p.vec4s / 4u) + at, inside)], inside);
}
`,
    // Phases are of \`run\` vec4s side by side: all rows of the weight one after the other, or the columns of one.
    place: `let nth = id / p.run;
  let phase = nth % 4u;
  let at = (nth / 4u) * p.run + id - nth * p.run;`,
    read: (t: string) => `weight_at(${t}, phase, at)`,
    write: (t: number, value: string) =>
      `let tap_${t} = tap_of(${t}u, phase); if (tap_${t} < ${side * side}u) { ${name}[tap_${t} * (plane / 4u) + at] = ${value}; }`,
  };
}

export const winogradWeightKernel = defineKernel({
  name: "winogradWeight",
  params: { vec4s: "u32", turned: "u32", run: "u32" },
  bindings: ["read", "read_write"],
  wgsl: (spec: WinogradWeightSpec) => {
    const { side, sides, G } = unrolled(spec);
    const taps = tapsOf("w", spec.phased);
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> w: array<vec4f>;                // [3,3,C,K], or the whole window's
@group(0) @binding(2) var<storage, read_write> u: array<vec4f>;          // [side^2,C,K]
${taps.functions}
${linearMain(
  "p.vec4s",
  `  let plane = p.vec4s;
  ${taps.place}
  ${range(9)
    .map((t) => `let w_${t} = ${taps.read(`select(${t}u, ${8 - t}u, p.turned != 0u)`)};`)
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
  /** Input channels with padding, of all phases. */
  readonly rows: number;
  readonly k4: number;
  readonly phased?: PhasedWindow | undefined;
}

/** Records U = G w G'; `turned` by 180 degrees for the input gradient, whose phases are of the columns. */
export function winogradWeight(
  gpu: Gpu,
  { tile, rows, k4, phased, turned }: WinogradWeightShape & { readonly turned: boolean },
  b: { readonly w: Storage; readonly u: Storage },
): void {
  const vec4s = rows * k4;
  const params = { vec4s, turned: Number(turned), run: phased ? (turned ? k4 : vec4s) / 4 : 0 };
  gpu.dispatch(winogradWeightKernel, { tile, phased }, params, [b.w, b.u], linearGrid(vec4s));
}

export const winogradWeightBackwardKernel = defineKernel({
  name: "winogradWeightBackward",
  params: { vec4s: "u32", run: "u32" },
  bindings: ["read", "read_write"],
  wgsl: (spec: WinogradWeightSpec) => {
    const { side, sides, G } = unrolled(spec);
    const Gt = transposed(G);
    const taps = tapsOf("dw", spec.phased);
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> du: array<vec4f>;               // [side^2,C,K]
@group(0) @binding(2) var<storage, read_write> dw: array<vec4f>;         // [3,3,C,K], or the whole window's
${taps.functions}
${linearMain(
  "p.vec4s",
  `  let plane = p.vec4s;
  ${taps.place}
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
        (j) => `let w_${3 * i + j}`,
        (j) => `t_${i}_${j}`,
        `row_${i}_`,
      ),
    )
    .join("\n  ")}
  ${range(9)
    .map((t) => taps.write(t, `w_${t}`))
    .join("\n  ")}`,
)}
`;
  },
});

/** Records dw = G' dU G. */
export function winogradWeightBackward(
  gpu: Gpu,
  { tile, rows, k4, phased }: WinogradWeightShape,
  b: { readonly du: Storage; readonly dw: Storage },
): void {
  const vec4s = rows * k4;
  const params = { vec4s, run: phased ? vec4s / 4 : 0 };
  gpu.dispatch(winogradWeightBackwardKernel, { tile, phased }, params, [b.du, b.dw], linearGrid(vec4s));
}
