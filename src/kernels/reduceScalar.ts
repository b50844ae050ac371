/**
 * Adds up partial sums to one scalar: value = sum over all lanes of partials, in a fixed order.
 *
 * Source: ours. Layout: partials [E] vec4s -> value, one vec4 (value, 0, 0, 0).
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";

/** One workgroup does it all: the partial sums are at most {@link MAX_PARTIALS} vec4s. */
const WORKGROUP = 64;
export const MAX_PARTIALS = 2048;

/** WGSL of a `main` of one workgroup that adds the lanes of `partials[0 .. p.entries]` up, and runs `then` once, with their `total`. */
export const sumMain = (workgroup: number, then: string): string => /* wgsl */ `
var<workgroup> sums: array<f32, ${workgroup}>;

@compute @workgroup_size(${workgroup})
fn main(@builtin(local_invocation_index) local: u32) {
  var sum = vec4f();
  for (var i = local; i < p.entries; i += ${workgroup}u) { sum += partials[i]; }
  sums[local] = (sum.x + sum.y) + (sum.z + sum.w);
  for (var half = ${workgroup / 2}u; half > 0u; half /= 2u) {
    workgroupBarrier(); // the other half's sums must be written before they are read
    if (local < half) { sums[local] += sums[local + half]; }
  }
  if (local != 0u) { return; }
  let total = sums[0];
${then}
}
`;

export const reduceScalarKernel = defineKernel({
  name: "reduceScalar",
  params: { entries: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> partials: array<vec4f>;     // [E]
@group(0) @binding(2) var<storage, read_write> value: array<vec4f>;  // [1]
${sumMain(WORKGROUP, "  value[0] = vec4f(total, 0.0, 0.0, 0.0);")}
`,
});

/** Records the addition of `entries` vec4s. */
export function reduceScalar(
  gpu: Gpu,
  entries: number,
  b: { readonly partials: Storage; readonly value: Storage },
): void {
  gpu.dispatch(reduceScalarKernel, undefined, { entries }, [b.partials, b.value], [1]);
}

/** How many invocations share `items` items of a scalar reduction. */
export const partialCount = (items: number): number => Math.min(MAX_PARTIALS, Math.ceil(items / 16));

/** The same in float64. */
export function reduceScalarRef(partials: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < partials.length; i++) sum += partials[i];
  return sum;
}
