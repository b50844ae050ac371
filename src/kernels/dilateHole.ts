/**
 * The hole and its one-pixel rim: R = 1 where any pixel of the 3x3 neighbourhood inside the image is hole (mask 0).
 *
 * Source: region P of the TV term, Liu et al. 2018, eq. 6; the box shape is PConv-Keras' reading of "1-pixel dilation".
 * Layout: mask [N,H,W] -> R [N,H,W], unpadded floats. Only exact zeros are hole; R is max(1 - m), so fractions stay fractions.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";

export const dilateHoleKernel = defineKernel({
  name: "dilateHole",
  params: { n: "u32", h: "u32", w: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> mask: array<f32>;            // [N,H,W]
@group(0) @binding(2) var<storage, read_write> region: array<f32>;    // [N,H,W]
${linearMain(
  "p.n * p.h * p.w",
  `  let col = id % p.w;
  let row = id / p.w % p.h;
  let first = id - row * p.w - col;
  var hole = 0.0;
  for (var y = max(row, 1u) - 1u; y <= min(row + 1u, p.h - 1u); y++) {
    for (var x = max(col, 1u) - 1u; x <= min(col + 1u, p.w - 1u); x++) {
      hole = max(hole, 1.0 - mask[first + y * p.w + x]);
    }
  }
  region[id] = hole;`,
)}
`,
});

/** Records R. */
export function dilateHole(
  gpu: Gpu,
  s: { readonly n: number; readonly h: number; readonly w: number },
  b: { readonly mask: Storage; readonly region: Storage },
): void {
  gpu.dispatch(dilateHoleKernel, undefined, s, [b.mask, b.region], linearGrid(s.n * s.h * s.w));
}

/** The same in float64. */
export function dilateHoleRef(s: { n: number; h: number; w: number }, mask: ArrayLike<number>): Float64Array {
  return Float64Array.from({ length: s.n * s.h * s.w }, (_, i) => {
    const col = i % s.w;
    const row = Math.floor(i / s.w) % s.h;
    let hole = 0;
    for (let y = Math.max(0, row - 1); y <= Math.min(s.h - 1, row + 1); y++)
      for (let x = Math.max(0, col - 1); x <= Math.min(s.w - 1, col + 1); x++)
        hole = Math.max(hole, 1 - mask[i - row * s.w - col + y * s.w + x]);
    return hole;
  });
}
