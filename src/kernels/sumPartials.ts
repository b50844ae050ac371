/**
 * Adds partial sums in order: sum[e] = sum over chunks of partials[chunk, e]. No atomics, so equal inputs give equal bits.
 *
 * Source: ours. Layout: partials [chunks, E] and sum [E], in vec4s.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";

export const sumPartialsKernel = defineKernel({
  name: "sumPartials",
  params: { chunks: "u32", entries: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> partials: array<vec4f>;      // [chunks,E]
@group(0) @binding(2) var<storage, read_write> total: array<vec4f>;   // [E]
${linearMain(
  "p.entries",
  `  var sum = vec4f();
  for (var chunk = 0u; chunk < p.chunks; chunk++) { sum += partials[chunk * p.entries + id]; }
  total[id] = sum;`,
)}
`,
});

export interface SumPartials {
  readonly partials: Storage;
  readonly sum: Storage;
  readonly chunks: number;
  /** Entries of one chunk, in vec4s. */
  readonly vec4s: number;
}

/** Records the addition. */
export function sumPartials(gpu: Gpu, { partials, sum, chunks, vec4s }: SumPartials): void {
  const params = { chunks, entries: vec4s };
  gpu.dispatch(sumPartialsKernel, undefined, params, [partials, sum], linearGrid(vec4s));
}

/** The same in float64. */
export function sumPartialsRef(partials: ArrayLike<number>, chunks: number): Float64Array {
  const entries = partials.length / chunks;
  const sum = new Float64Array(entries);
  for (let i = 0; i < partials.length; i++) sum[i % entries] += partials[i];
  return sum;
}
