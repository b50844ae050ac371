/**
 * Which outputs of a window meet a marked input: 1 where any input of the window inside the image differs from `clear`, else 0.
 *
 *   live[n,p,q] = 1 if source[n, p*s+i-pad, q*s+j-pad] != clear for some i, j of the window, else 0
 *
 * With clear = 1 and a window of one pixel it turns a mask (1 = valid) into the pixels that are not wholly valid, fractions
 * included; with clear = 0 it carries such pixels through a convolution or a pool.
 *
 * Source: ours. Layout: source [N,H,W] -> live [N,P,Q], unpadded floats.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";

export const receptiveFieldKernel = defineKernel({
  name: "receptiveField",
  params: {
    n: "u32",
    h: "i32",
    w: "i32",
    p: "u32",
    q: "u32",
    kernel: "i32",
    stride: "i32",
    padding: "i32",
    clear: "f32",
  },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> source: array<f32>;        // [N,H,W]
@group(0) @binding(2) var<storage, read_write> live: array<f32>;    // [N,P,Q]
${linearMain(
  "p.n * p.p * p.q",
  `  let top = i32(id / p.q % p.p) * p.stride - p.padding;
  let left = i32(id % p.q) * p.stride - p.padding;
  let image = i32(id / (p.p * p.q)) * p.h;
  var met = 0.0;
  for (var y = max(top, 0); y < min(top + p.kernel, p.h); y++) {
    for (var x = max(left, 0); x < min(left + p.kernel, p.w); x++) {
      if (source[(image + y) * p.w + x] != p.clear) { met = 1.0; }
    }
  }
  live[id] = met;`,
)}
`,
});

/** A square window over [N,H,W], and the input value that marks nothing. */
export interface FieldWindow {
  readonly n: number;
  readonly h: number;
  readonly w: number;
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  readonly clear: 0 | 1;
}

/** Height and width of the outputs. */
export const fieldSize = (o: FieldWindow): readonly [p: number, q: number] => {
  const size = (length: number) => Math.floor((length + 2 * o.padding - o.kernel) / o.stride) + 1;
  return [size(o.h), size(o.w)];
};

/** Records live. */
export function receptiveField(
  gpu: Gpu,
  o: FieldWindow,
  b: { readonly source: Storage; readonly live: Storage },
): void {
  const [p, q] = fieldSize(o);
  gpu.dispatch(receptiveFieldKernel, undefined, { ...o, p, q }, [b.source, b.live], linearGrid(o.n * p * q));
}

/** The same on the CPU. */
export function receptiveFieldRef(o: FieldWindow, source: ArrayLike<number>): Float64Array {
  const [p, q] = fieldSize(o);
  return Float64Array.from({ length: o.n * p * q }, (_, i) => {
    const [n, row, col] = [Math.floor(i / (p * q)), Math.floor(i / q) % p, i % q];
    for (let y = row * o.stride - o.padding, end = y + o.kernel; y < end; y++)
      for (let x = col * o.stride - o.padding, past = x + o.kernel; x < past; x++)
        if (y >= 0 && y < o.h && x >= 0 && x < o.w && source[(n * o.h + y) * o.w + x] !== o.clear) return 1;
    return 0;
  });
}
