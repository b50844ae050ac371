/**
 * Weight backend of GPUs with matrix units: the product of `weightWorkgroup.ts` with half-precision factors and float32
 * sums, in the form of `matrix.ts`. The left factor is the source, transposed: workgroup memory holds it as it comes, a row
 * of channels per pixel.
 */
import { defineKernel, type Kernel } from "../../gpu/kernel.js";
import { workgroupId } from "../../gpu/linear.js";
import { range } from "./range.js";
import { MATRIX_EXTENSION, type MatrixLanguage, type MatrixUnit } from "./matrixUnit.js";
import { WEIGHT_BINDINGS, WEIGHT_PARAMS } from "./weightPass.js";
import { weightReads, weightTileWgsl } from "./weightTile.js";

export interface WeightMatrixSpec {
  /** The tile of a workgroup, in vec4s of rows (tap, c) and of columns k. */
  readonly rows4: number;
  readonly columns4: number;
  /** Output pixels of one step. */
  readonly depth: number;
  /** The part of one subgroup, in rows and columns. */
  readonly subRows: number;
  readonly subColumns: number;
  readonly unit: MatrixUnit;
}

/** Tiles of 64 x 64 and 32 x 32; steps of 32 pixels. */
export const WEIGHT_MATRIX_TILES = [
  { rows4: 16, columns4: 16, depth: 32, subRows: 32, subColumns: 32 },
  { rows4: 8, columns4: 8, depth: 32, subRows: 16, subColumns: 16 },
] as const satisfies readonly Omit<WeightMatrixSpec, "unit">[];

/** Halves between rows beyond their length: rows start in different banks, and at multiples of 16 bytes. */
const PADDING = 8;

/** Derived numbers of a spec. */
export function weightMatrixLayout(s: WeightMatrixSpec) {
  const { m, n, lanes } = s.unit;
  const across = (4 * s.columns4) / s.subColumns;
  const subgroups = ((4 * s.rows4) / s.subRows) * across;
  const [strideA, strideB] = [4 * s.rows4 + PADDING, 4 * s.columns4 + PADDING];
  return {
    across,
    invocations: subgroups * lanes,
    strideA,
    strideB,
    floats: subgroups * m * n,
    /** Bytes of workgroup memory: the tiles and the staging of sums. */
    bytes: 2 * s.depth * (strideA + strideB) + 4 * subgroups * m * n,
  };
}

/** The kernel in a language of matrix operations; the library's own is {@link weightMatrixKernel}. */
export function weightMatrixSource(spec: WeightMatrixSpec, language: MatrixLanguage): string {
  const { rows4, columns4, depth, subRows, subColumns, unit } = spec;
  const { m, n, k, lanes } = unit;
  const { across, invocations, strideA, strideB, floats } = weightMatrixLayout(spec);
  const { setup, read, A, B, pixelsA, pixelsB } = weightReads(spec, invocations);
  const R = range(subRows / m);
  const C = range(subColumns / n);
  const L = range(4);
  const ops = language.operations(unit, { left: "tile_a", right: "tile_b", sums: "staged" });
  const half = (value: string, l: number) => `${language.element}(${value}.${"xyzw"[l]})`;
  return /* wgsl */ `
${weightTileWgsl(rows4, depth)}
${ops.declarations}
var<workgroup> tile_a: array<${language.element}, ${depth * strideA}>;  // [depth][4 * rows4 + padding]
var<workgroup> tile_b: array<${language.element}, ${depth * strideB}>;  // [depth][4 * columns4 + padding]
var<workgroup> staged: array<f32, ${floats}>;                           // one matrix of sums per subgroup

@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let id = ${workgroupId};
  if (id >= p.items) { return; }
  let block = block_of(id);
  let row = subgroup / ${across}u * ${subRows}u;
  let column = subgroup % ${across}u * ${subColumns}u;
  ${R.flatMap((r) => C.map((c) => `var sum_${r}_${c} = Sum();`)).join(" ")}
  ${setup}
  if (pixel < block.end) ${read}
  while (pixel < block.end) {
    let computed = any_live(pixel, block.end);
    if (computed) {
      ${A.map((s) => {
        const to = `(fill_a + ${s * pixelsA}u) * ${strideA}u + 4u * fill_row`;
        return L.map((l) => `tile_a[${to} + ${l}u] = ${half(`a_${s}`, l)};`).join(" ");
      }).join("\n      ")}
      ${B.map((s) => {
        const to = `(fill_b + ${s * pixelsB}u) * ${strideB}u + 4u * fill_column`;
        return L.map((l) => `tile_b[${to} + ${l}u] = ${half(`b_${s}`, l)};`).join(" ");
      }).join("\n      ")}
      workgroupBarrier(); // the tiles are filled before anyone multiplies
    }
    pixel += ${depth}u;
    if (pixel < block.end) ${read}
    if (computed) {
      for (var d = 0u; d < ${depth}u; d += ${k}u) {
        ${R.map((r) => `let left_${r} = ${ops.loadLeftTransposed(`d * ${strideA}u + row + ${r * m}u`, strideA)};`).join("\n        ")}
        ${C.map((c) => {
          const load = `let right_${c} = ${ops.loadRight(`d * ${strideB}u + column + ${c * n}u`, strideB)};`;
          const products = R.map(
            (r) => `sum_${r}_${c} = ${ops.multiplyAdd(`left_${r}`, `right_${c}`, `sum_${r}_${c}`)};`,
          );
          return [load, ...products].join("\n        ");
        }).join("\n        ")}
      }
      workgroupBarrier(); // everyone has multiplied before the tiles are filled again
    }
  }
  let to = (block.chunk * p.kh * p.kw * p.c4 + block.row) * 4u;
  ${R.flatMap((r) =>
    C.map(
      (c) => `${ops.store(`sum_${r}_${c}`, `subgroup * ${m * n}u`, n)}
  workgroupBarrier(); // the matrix is in memory before lanes read what others wrote
  for (var at = lane; at < ${(m * n) / 4}u; at += ${lanes}u) {
    let entry = row + ${r * m}u + at / ${n / 4}u;
    let k = block.k * ${columns4}u + (column + ${c * n}u) / 4u + at % ${n / 4}u;
    let at_sum = subgroup * ${m * n}u + 4u * at;
    if (entry < 4u * block.rows && k < p.k4) {
      dw[(to + entry) * p.k4 + k] = vec4f(staged[at_sum], staged[at_sum + 1u], staged[at_sum + 2u], staged[at_sum + 3u]);
    }
  }
  workgroupBarrier(); // it is read before the next one takes its place`,
    ),
  ).join("\n  ")}
}
`;
}

/** The kernel of a language of matrix operations. */
export const weightMatrixKernelOf = (
  name: string,
  language: MatrixLanguage,
): Kernel<keyof typeof WEIGHT_PARAMS, WeightMatrixSpec> =>
  defineKernel({
    name,
    params: WEIGHT_PARAMS,
    bindings: WEIGHT_BINDINGS,
    directives: language.directives,
    wgsl: (spec: WeightMatrixSpec) => weightMatrixSource(spec, language),
  });

export const weightMatrixKernel = weightMatrixKernelOf("weightMatrix", MATRIX_EXTENSION);
