/**
 * 2x2 max pooling with stride 2, and its gradient. A last odd row or column is dropped, as in PyTorch.
 *
 *   y = max over the 2x2 block;   dx = dy at the first maximum in row order, 0 elsewhere
 *
 * Source: Simonyan & Zisserman 2014 (VGG); the tie rule is torch.nn.MaxPool2d's.
 * Layout: x [N,H,W,C] -> y [N,H/2,W/2,C], padded to 4.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { forPools } from "./slabs.js";
import { type ActivationShape, vec4s } from "./shape.js";

const params = { n: "u32", h: "u32", w: "u32", c4: "u32" } as const;

export const maxPoolForwardKernel = defineKernel({
  name: "maxPoolForward",
  params,
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [N,H,W,C]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [N,H/2,W/2,C]
${linearMain(
  "p.n * (p.h / 2u) * (p.w / 2u) * p.c4",
  `  let c = id % p.c4;
  let col = id / p.c4 % (p.w / 2u);
  let rows = id / (p.c4 * (p.w / 2u));
  let row = rows / (p.h / 2u) * p.h + rows % (p.h / 2u) * 2u;
  let at = (row * p.w + col * 2u) * p.c4 + c;
  let below = at + p.w * p.c4;
  y[id] = max(max(x[at], x[at + p.c4]), max(x[below], x[below + p.c4]));`,
)}
`,
});

export const maxPoolBackwardKernel = defineKernel({
  name: "maxPoolBackward",
  params,
  bindings: ["read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;           // [N,H,W,C]
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;          // [N,H/2,W/2,C]
@group(0) @binding(3) var<storage, read_write> dx: array<vec4f>;    // [N,H,W,C]
${linearMain(
  "p.n * p.h * p.w * p.c4",
  `  let c = id % p.c4;
  let col = id / p.c4 % p.w;
  let row = id / (p.c4 * p.w) % p.h;
  let n = id / (p.c4 * p.w * p.h);
  if (row / 2u >= p.h / 2u || col / 2u >= p.w / 2u) { dx[id] = vec4f(); return; }
  let at = ((n * p.h + row / 2u * 2u) * p.w + col / 2u * 2u) * p.c4 + c;
  let below = at + p.w * p.c4;
  let a = x[at]; let b = x[at + p.c4]; let d = x[below]; let e = x[below + p.c4];
  let m = max(max(a, b), max(d, e));
  // Position of the first maximum in the block: 0 1 / 2 3.
  let winner = select(select(select(vec4u(3u), vec4u(2u), d == m), vec4u(1u), b == m), vec4u(0u), a == m);
  let mine = vec4u(row % 2u * 2u + col % 2u);
  let g = dy[((n * (p.h / 2u) + row / 2u) * (p.w / 2u) + col / 2u) * p.c4 + c];
  dx[id] = select(vec4f(), g, winner == mine);`,
)}
`,
});

/** Records y; `s` is the shape of x. */
export function maxPoolForward(gpu: Gpu, s: ActivationShape, b: { readonly x: Storage; readonly y: Storage }): void {
  const c4 = vec4s(s.c);
  forPools(gpu, s, c4 * 16, ({ n, h, w, part }, pooled) => {
    const items = n * (h >> 1) * (w >> 1) * c4;
    const buffers = [part(b.x), pooled(b.y, c4 * 16)];
    gpu.dispatch(maxPoolForwardKernel, undefined, { n, h, w, c4 }, buffers, linearGrid(items));
  });
}

/** Records dx; `s` is the shape of x. */
export function maxPoolBackward(
  gpu: Gpu,
  s: ActivationShape,
  b: { readonly x: Storage; readonly dy: Storage; readonly dx: Storage },
): void {
  const c4 = vec4s(s.c);
  forPools(gpu, s, c4 * 16, ({ n, h, w, pixels, part }, pooled) => {
    const buffers = [part(b.x), pooled(b.dy, c4 * 16), part(b.dx)];
    gpu.dispatch(maxPoolBackwardKernel, undefined, { n, h, w, c4 }, buffers, linearGrid(pixels * c4));
  });
}

/** For every output, its four input positions in row order. */
function* blocks(s: ActivationShape): Generator<readonly [output: number, inputs: readonly number[]]> {
  let output = 0;
  for (let n = 0; n < s.n; n++)
    for (let y = 0; y + 1 < s.h; y += 2)
      for (let x = 0; x + 1 < s.w; x += 2)
        for (let c = 0; c < s.c; c++) {
          const at = ((n * s.h + y) * s.w + x) * s.c + c;
          yield [output++, [at, at + s.c, at + s.w * s.c, at + (s.w + 1) * s.c]];
        }
}

/** Forward in float64, channels unpadded. */
export function maxPoolForwardRef(s: ActivationShape, x: ArrayLike<number>): Float64Array {
  const y = new Float64Array(s.n * (s.h >> 1) * (s.w >> 1) * s.c);
  for (const [output, inputs] of blocks(s)) y[output] = Math.max(...inputs.map((i) => x[i]));
  return y;
}

/** Backward in float64, channels unpadded. */
export function maxPoolBackwardRef(s: ActivationShape, x: ArrayLike<number>, dy: ArrayLike<number>): Float64Array {
  const dx = new Float64Array(x.length);
  for (const [output, inputs] of blocks(s)) {
    const top = Math.max(...inputs.map((i) => x[i]));
    dx[inputs.find((i) => x[i] === top)!] = dy[output];
  }
  return dx;
}
