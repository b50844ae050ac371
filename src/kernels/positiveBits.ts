/**
 * The signs of an activation's results, one bit an element, and the gradient of ReLU and LeakyReLU from them.
 *
 *   bit = y > 0;   g = bit ? dy : slope dy, in dy's place
 *
 * A network whose weights are constants needs nothing else of its activations in the backward pass: a thirty-second of their bytes.
 *
 * Source: ours. Layout: y and dy in vec4s; bits [ceil(vec4s / 8)] u32, element e of y in bit e mod 32 of word e / 32.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { forRanges } from "./slabs.js";

export const positiveBitsKernel = defineKernel({
  name: "positiveBits",
  params: { vec4s: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> y: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> bits: array<u32>;
${linearMain(
  "(p.vec4s + 7u) / 8u",
  `  var word = 0u;
  for (var i = 0u; i < min(8u, p.vec4s - 8u * id); i++) {
    let positive = select(vec4u(), vec4u(1u, 2u, 4u, 8u), y[8u * id + i] > vec4f());
    word |= (positive.x | positive.y | positive.z | positive.w) << (4u * i);
  }
  bits[id] = word;`,
)}
`,
});

export const positiveGateKernel = defineKernel({
  name: "positiveGate",
  params: { vec4s: "u32", slope: "f32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> bits: array<u32>;
@group(0) @binding(2) var<storage, read_write> gradient: array<vec4f>;   // dy, then g
${linearMain(
  "p.vec4s",
  `  let positive = (vec4u(bits[id / 8u] >> (id % 8u * 4u)) & vec4u(1u, 2u, 4u, 8u)) != vec4u();
  let dy = gradient[id];
  // A slope of 0 leaves nothing, of NaN too.
  gradient[id] = select(select(vec4f(), p.slope * dy, p.slope != 0.0), dy, positive);`,
)}
`,
});

/** Bytes of the bits of one vec4. */
const BITS_BYTES = 0.5;

/** Bytes of the bits of this many vec4s. */
export const positiveBytes = (vec4s: number): number => Math.ceil(vec4s / 8) * 4;

/** Records the bits. */
export function positiveBits(gpu: Gpu, vec4s: number, b: { readonly y: Storage; readonly bits: Storage }): void {
  forRanges(gpu, vec4s, (count, part) => {
    const buffers = [part(b.y), part(b.bits, BITS_BYTES)];
    gpu.dispatch(positiveBitsKernel, undefined, { vec4s: count }, buffers, linearGrid(Math.ceil(count / 8)));
  });
}

/** Records the gradient, in place. */
export function positiveGate(
  gpu: Gpu,
  s: { readonly vec4s: number; readonly slope: number },
  b: { readonly bits: Storage; readonly gradient: Storage },
): void {
  forRanges(gpu, s.vec4s, (count, part) => {
    const buffers = [part(b.bits, BITS_BYTES), part(b.gradient)];
    gpu.dispatch(positiveGateKernel, undefined, { ...s, vec4s: count }, buffers, linearGrid(count));
  });
}

/** The words on the CPU, of padded values. */
export function positiveBitsRef(y: ArrayLike<number>): Uint32Array {
  const words = new Uint32Array(Math.ceil(y.length / 32));
  for (let e = 0; e < y.length; e++) if (y[e] > 0) words[e >> 5] |= 1 << (e & 31);
  return words;
}

/** The gradient in float64. */
export function positiveGateRef(slope: number, y: ArrayLike<number>, dy: ArrayLike<number>): Float64Array {
  return Float64Array.from(y, (v, i) => (v > 0 ? dy[i] : slope === 0 ? 0 : slope * dy[i]));
}
