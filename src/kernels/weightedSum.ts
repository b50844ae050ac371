/**
 * y = alpha a + beta b, elementwise: gradients that add, weighted loss terms, scaled copies (beta 0 never reads b's NaN).
 *
 * Source: ours. Layout: vec4s of any tensor.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { forRanges } from "./slabs.js";

export const weightedSumKernel = defineKernel({
  name: "weightedSum",
  params: { vec4s: "u32", alpha: "f32", beta: "f32" },
  bindings: ["read", "read", "read_write"],
  wgsl: ({ both }: { readonly both: boolean }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
${linearMain("p.vec4s", both ? "  y[id] = p.alpha * a[id] + p.beta * b[id];" : "  y[id] = p.alpha * a[id];")}
`,
});

/** Records y = alpha a + beta b; `b` absent means beta = 0. `y` must be neither `a` nor `b`. */
export function weightedSum(
  gpu: Gpu,
  vec4s: number,
  o: { readonly alpha: number; readonly beta?: number },
  buffers: { readonly a: Storage; readonly b?: Storage | undefined; readonly y: Storage },
): void {
  const { a, b, y } = buffers;
  forRanges(gpu, vec4s, (count, part) => {
    const params = { vec4s: count, alpha: o.alpha, beta: o.beta ?? 0 };
    const parts = [part(a), part(b ?? a), part(y)];
    gpu.dispatch(weightedSumKernel, { both: b !== undefined }, params, parts, linearGrid(count));
  });
}

/**
 * Records sum = make(0) + make(1) + ..., added in this order so that equal inputs give equal bits; `make` records one part of
 * `vec4s` vec4s into the storage that it is given.
 */
export function sumOfParts(
  gpu: Gpu,
  vec4s: number,
  parts: number,
  make: (part: number, to: Storage) => void,
  sum: Storage,
): void {
  if (parts === 1) {
    make(0, sum);
    return;
  }
  const alloc = () => gpu.alloc(vec4s * 16, "partial sum");
  let before = alloc();
  make(0, before);
  for (let i = 1; i < parts; i++) {
    const part = alloc();
    make(i, part);
    const both = i === parts - 1 ? sum : alloc();
    weightedSum(gpu, vec4s, { alpha: 1, beta: 1 }, { a: before, b: part, y: both });
    for (const storage of [before, part]) gpu.free(storage);
    before = both;
  }
}

/** The same in float64. */
export function weightedSumRef(alpha: number, a: ArrayLike<number>, beta = 0, b?: ArrayLike<number>): Float64Array {
  return Float64Array.from({ length: a.length }, (_, i) => alpha * a[i] + (b ? beta * b[i] : 0));
}
