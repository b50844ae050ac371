/**
 * Gather backend of GPUs with matrix units: the product of `workgroup.ts` with half-precision factors and float32 sums.
 *
 * The values are read as float32, rounded to half precision on their way into workgroup memory, and multiplied there by
 * subgroups, each of which holds the sums of `subPixels` x `subChannels` outputs. The sums leave through workgroup memory too, since
 * nothing says which lane holds which entry.
 *
 * Per step of 64 pixels x 64 channels x 32 (four subgroups of 32 x 32, unit 16 x 16 x 16): 131,072 multiply-adds in 32
 * operations, for 4,096 floats from storage (32 multiply-adds a float) and 8,192 halves from workgroup memory (16 a half).
 * At that rate storage is the limit of the large chips; 128 x 128 halves both.
 *
 * Factors beyond 65,504 become infinite: gradients need loss scaling. Rounding errors are those of half precision in the
 * factors, about 5e-4 of each product, and float32 in the sums.
 */
import { defineKernel, type Kernel } from "../../gpu/kernel.js";
import { workgroupGrid, workgroupId } from "../../gpu/linear.js";
import { GATHER_BINDINGS, GATHER_PARAMS, type TileSize } from "./gather.js";
import { gatherTileWgsl, tileFill, tileReads } from "./gatherTile.js";
import { MATRIX_EXTENSION, type MatrixLanguage, type MatrixUnit } from "./matrixUnit.js";
import { range } from "./range.js";

export interface MatrixSpec {
  /** The tile of a workgroup. */
  readonly pixels: number;
  readonly channels4: number;
  /** vec4s of the reduction in one step. */
  readonly depth4: number;
  /** The part of one subgroup. */
  readonly subPixels: number;
  readonly subChannels: number;
  readonly unit: MatrixUnit;
}

/** Tiles of 128 x 128, 64 x 64 and 32 x 32; steps of 32. */
export const MATRIX_TILES = [
  { pixels: 128, channels4: 32, depth4: 8, subPixels: 64, subChannels: 32 },
  { pixels: 64, channels4: 16, depth4: 8, subPixels: 32, subChannels: 32 },
  { pixels: 32, channels4: 8, depth4: 8, subPixels: 16, subChannels: 16 },
] as const satisfies readonly Omit<MatrixSpec, "unit">[];

/** Halves between rows beyond their length: rows start in different banks, and at multiples of 16 bytes. */
const PADDING = 8;

/** Derived numbers of a spec. */
export function matrixLayout(s: MatrixSpec) {
  const { m, n, lanes } = s.unit;
  const across = (4 * s.channels4) / s.subChannels;
  const subgroups = (s.pixels / s.subPixels) * across;
  const [strideA, strideB] = [4 * s.depth4 + PADDING, 4 * s.channels4 + PADDING];
  return {
    across,
    invocations: subgroups * lanes,
    strideA,
    strideB,
    halvesA: s.pixels * strideA,
    halvesB: 4 * s.depth4 * strideB,
    floats: subgroups * m * n,
    /** Bytes of workgroup memory: the tiles, the staging of sums, the pixels' indices, and two flags. */
    bytes: 2 * (s.pixels * strideA + 4 * s.depth4 * strideB) + 4 * (subgroups * m * n + s.pixels) + 16,
  };
}

export const matrixTile = (s: MatrixSpec): TileSize => ({
  pixels: s.pixels,
  channels4: s.channels4,
  grid: workgroupGrid,
});

/** The kernel in a language of matrix operations; the library's own is {@link gatherMatrixKernel}. */
export function gatherMatrixSource(spec: MatrixSpec, language: MatrixLanguage): string {
  const { pixels, channels4, depth4, subPixels, subChannels, unit } = spec;
  const { m, n, k, lanes } = unit;
  const { across, invocations, strideA, strideB, halvesA, halvesB, floats } = matrixLayout(spec);
  const fill = tileFill(spec, invocations);
  const { setup, read, next } = tileReads(fill);
  const A = range(fill.fillsA);
  const B = range(fill.fillsB);
  const R = range(subPixels / m);
  const C = range(subChannels / n);
  const L = range(4);
  const ops = language.operations(unit, { left: "tile_a", right: "tile_b", sums: "staged" });
  const half = (value: string, l: number) => `${language.element}(${value}.${"xyzw"[l]})`;
  return /* wgsl */ `
${gatherTileWgsl(pixels, invocations)}
${ops.declarations}
var<workgroup> tile_a: array<${language.element}, ${halvesA}>;  // [pixels][4 * depth4 + padding]
var<workgroup> tile_b: array<${language.element}, ${halvesB}>;  // [4 * depth4][4 * channels4 + padding]
var<workgroup> staged: array<f32, ${floats}>;                   // one matrix of sums per subgroup
var<workgroup> outputs: array<u32, ${pixels}>;                  // output pixels of the tile

@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let id = ${workgroupId};
  if (id >= p.items * p.splits) { return; }
  let split = id / p.items;
  let tile = tile_of(id % p.items);
  let row = subgroup / ${across}u * ${subPixels}u;
  let column = subgroup % ${across}u * ${subChannels}u;
  // Read only after the barrier that follows the first store of sums.
  for (var at = local; at < ${pixels}u; at += ${invocations}u) { outputs[at] = pixel_of(tile, tile.first * ${pixels}u + at).out; }
  ${R.flatMap((r) => C.map((c) => `var sum_${r}_${c} = Sum();`)).join(" ")}
  let computed = is_computed(tile, local);
  if (computed) {
    ${setup}
    ${B.map((s) => `let to_b_${s} = (4u * depth + row_${s}) * ${strideB}u + 4u * slot_${s};`).join("\n    ")}
    if (begin < end) ${read}
    for (var step = begin; step < end; step++) {
      ${A.map((s) => {
        const to = `(filler + ${s * fill.fillers}u) * ${strideA}u + 4u * depth`;
        return L.map((l) => `tile_a[${to} + ${l}u] = ${half(`a_${s}`, l)};`).join(" ");
      }).join("\n      ")}
      ${B.map((s) => L.map((l) => `tile_b[to_b_${s} + ${l}u] = ${half(`b_${s}`, l)};`).join(" ")).join("\n      ")}
      workgroupBarrier(); // the tiles are filled before anyone multiplies
      ${next}
      if (step + 1u < end) ${read}
      for (var d = 0u; d < ${4 * depth4}u; d += ${k}u) {
        ${R.map((r) => `let left_${r} = ${ops.loadLeft(`(row + ${r * m}u) * ${strideA}u + d`, strideA)};`).join("\n        ")}
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
  ${R.flatMap((r) =>
    C.map(
      (c) => `${ops.store(`sum_${r}_${c}`, `subgroup * ${m * n}u`, n)}
  workgroupBarrier(); // the matrix (and \`outputs\`) is in memory before lanes read what others wrote
  for (var at = lane; at < ${(m * n) / 4}u; at += ${lanes}u) {
    let pixel = outputs[row + ${r * m}u + at / ${n / 4}u];
    let k = tile.k * ${channels4}u + (column + ${c * n}u) / 4u + at % ${n / 4}u;
    let at_sum = subgroup * ${m * n}u + 4u * at;
    if (pixel != NOWHERE && k < p.outC4) {
      finish(pixel, k, vec4f(staged[at_sum], staged[at_sum + 1u], staged[at_sum + 2u], staged[at_sum + 3u]), computed, split);
    }
  }
  workgroupBarrier(); // it is read before the next one takes its place`,
    ),
  ).join("\n  ")}
}
`;
}

/** The kernel of a language of matrix operations. */
export const gatherMatrixKernelOf = (
  name: string,
  language: MatrixLanguage,
): Kernel<keyof typeof GATHER_PARAMS, MatrixSpec> =>
  defineKernel({
    name,
    params: GATHER_PARAMS,
    bindings: GATHER_BINDINGS,
    directives: language.directives,
    wgsl: (spec: MatrixSpec) => gatherMatrixSource(spec, language),
  });

export const gatherMatrixKernel = gatherMatrixKernelOf("gatherMatrix", MATRIX_EXTENSION);
