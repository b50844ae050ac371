/**
 * ReLU and 2x2 max pooling with stride 2 in one pass, and their gradient without the input. A last odd row or column is
 * dropped, as in PyTorch.
 *
 *   y = max(0, max over the 2x2 block of x);   dx = dy at the first maximum in row order where it is above 0, else 0
 *
 * Pooling and ReLU may change places: both are monotonous. What the gradient needs of x is which pixel of a block won, or
 * that none did: four bits an output, a thirty-second of x.
 *
 * Source: Simonyan & Zisserman 2014 (VGG); the tie rule is torch.nn.MaxPool2d's.
 * Layout: x [N,H,W,C] -> y [N,H/2,W/2,C], padded to 4; winners: 16 bits for each vec4 of y, in order, lane l in bits 4l to 4l+3:
 * 1 to 4 the winner's place in the block, 0 none.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { forPools } from "./slabs.js";
import { maxPoolBackwardRef, maxPoolForwardRef } from "./maxPool.js";
import { type ActivationShape, vec4s } from "./shape.js";

const params = { n: "u32", h: "u32", w: "u32", c4: "u32" } as const;

export const reluPoolForwardKernel = defineKernel({
  name: "reluPoolForward",
  params: { ...params, count: "u32" },
  bindings: ["read", "read_write", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;                // [N,H,W,C]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;          // [N,H/2,W/2,C]
@group(0) @binding(3) var<storage, read_write> winners: array<u32>;      // two vec4s of y each
/** Pools one vec4 of y, and returns its winners. */
fn pool(id: u32) -> u32 {
  let c = id % p.c4;
  let col = id / p.c4 % (p.w / 2u);
  let rows = id / (p.c4 * (p.w / 2u));
  let row = rows / (p.h / 2u) * p.h + rows % (p.h / 2u) * 2u;
  let at = (row * p.w + col * 2u) * p.c4 + c;
  let below = at + p.w * p.c4;
  let a = x[at]; let b = x[at + p.c4]; let d = x[below]; let e = x[below + p.c4];
  let m = max(max(a, b), max(d, e));
  // This ReLU keeps NaN, as in the kernel activation.
  y[id] = 0.5 * (m + abs(m));
  let first = select(select(select(vec4u(4u), vec4u(3u), d == m), vec4u(2u), b == m), vec4u(1u), a == m);
  let codes = select(vec4u(), first, m > vec4f()) << vec4u(0u, 4u, 8u, 12u);
  return codes.x | codes.y | codes.z | codes.w;
}
${linearMain(
  "(p.count + 1u) / 2u",
  `  var both = pool(2u * id);
  if (2u * id + 1u < p.count) { both |= pool(2u * id + 1u) << 16u; }
  winners[id] = both;`,
)}
`,
});

export const reluPoolBackwardKernel = defineKernel({
  name: "reluPoolBackward",
  params,
  bindings: ["read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> winners: array<u32>;       // two vec4s of y each
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;          // [N,H/2,W/2,C]
@group(0) @binding(3) var<storage, read_write> dx: array<vec4f>;    // [N,H,W,C]
${linearMain(
  "p.n * p.h * p.w * p.c4",
  `  let c = id % p.c4;
  let col = id / p.c4 % p.w;
  let row = id / (p.c4 * p.w) % p.h;
  let n = id / (p.c4 * p.w * p.h);
  if (row / 2u >= p.h / 2u || col / 2u >= p.w / 2u) { dx[id] = vec4f(); return; }
  let at = ((n * (p.h / 2u) + row / 2u) * (p.w / 2u) + col / 2u) * p.c4 + c;
  let codes = (vec4u(winners[at / 2u] >> (at % 2u * 16u)) >> vec4u(0u, 4u, 8u, 12u)) & vec4u(15u);
  dx[id] = select(vec4f(), dy[at], codes == vec4u(row % 2u * 2u + col % 2u + 1u));`,
)}
`,
});

const outputs = (s: ActivationShape) => s.n * (s.h >> 1) * (s.w >> 1) * vec4s(s.c);

/** Bytes of the winners of one vec4. */
const WINNER_BYTES = 2;

/** Bytes of the winners; `s` is the shape of x. */
export const winnerBytes = (s: ActivationShape): number => Math.ceil(outputs(s) / 2) * 4;

/** Records y and the winners; `s` is the shape of x. */
export function reluPoolForward(
  gpu: Gpu,
  s: ActivationShape,
  b: { readonly x: Storage; readonly y: Storage; readonly winners: Storage },
): void {
  const c4 = vec4s(s.c);
  forPools(gpu, s, c4 * 16, ({ n, h, w, part }, pooled) => {
    const count = n * (h >> 1) * (w >> 1) * c4;
    const buffers = [part(b.x), pooled(b.y, c4 * 16), pooled(b.winners, c4 * WINNER_BYTES)];
    gpu.dispatch(reluPoolForwardKernel, undefined, { n, h, w, c4, count }, buffers, linearGrid(Math.ceil(count / 2)));
  });
}

/** Records dx; `s` is its shape. */
export function reluPoolBackward(
  gpu: Gpu,
  s: ActivationShape,
  b: { readonly winners: Storage; readonly dy: Storage; readonly dx: Storage },
): void {
  const c4 = vec4s(s.c);
  forPools(gpu, s, c4 * 16, ({ n, h, w, pixels, part }, pooled) => {
    const buffers = [pooled(b.winners, c4 * WINNER_BYTES), pooled(b.dy, c4 * 16), part(b.dx)];
    gpu.dispatch(reluPoolBackwardKernel, undefined, { n, h, w, c4 }, buffers, linearGrid(pixels * c4));
  });
}

/** Forward in float64, channels unpadded. */
export function reluPoolForwardRef(s: ActivationShape, x: ArrayLike<number>): Float64Array {
  return maxPoolForwardRef(s, x).map((v) => Math.max(0, v));
}

/** Backward in float64, channels unpadded. */
export function reluPoolBackwardRef(s: ActivationShape, x: ArrayLike<number>, dy: ArrayLike<number>): Float64Array {
  return maxPoolBackwardRef(s, x, dy).map((v, i) => (x[i] > 0 ? v : 0));
}
