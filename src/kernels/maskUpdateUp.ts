/**
 * Mask update and ratio of a decoder level: `maskUpdate` of a 3x3 window, padding 1, over the mask that `maskJoin` would make of one mask of
 * half the size and one of full size, without making it.
 *
 *   S[n,y,x] = sum over the window of lowChannels * low[n,y/2,x/2] + skipChannels * skip[n,y,x]
 *
 * Source: as `maskUpdate`; masks are upsampled and joined like the features they belong to (Liu et al. 2018, sec. 3.2).
 * Layout: low [Na,H/2,W/2], skip [Nb,H,W], one group each -> scale, biasScale, u [N,H,W]; Na and Nb are N or 1.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { range } from "./conv/range.js";
import { maskJoinRef } from "./maskJoin.js";
import { maskUpdateRef, type MaskUpdateSpec, rowsTogether, storeRatio, windowSize } from "./maskUpdate.js";
import { squareWindow } from "./shape.js";

export const maskUpdateUpKernel = defineKernel({
  name: "maskUpdateUp",
  params: {
    n: "u32",
    h: "u32",
    w: "u32",
    lowN: "u32",
    skipN: "u32",
    lowChannels: "f32",
    skipChannels: "f32",
    window: "f32",
  },
  bindings: ["read", "read", "read_write", "read_write", "read_write"],
  wgsl: ({ rows, ...spec }: MaskUpdateSpec & { readonly rows: number }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> low: array<f32>;                // [Na,H/2,W/2]
@group(0) @binding(2) var<storage, read> skip: array<f32>;               // [Nb,H,W]
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;        // [N,H,W]
@group(0) @binding(4) var<storage, read_write> bias_scale: array<f32>;   // [N,H,W]
@group(0) @binding(5) var<storage, read_write> mask_out: array<f32>;     // [N,H,W]
${storeRatio(spec)}
/** What row y adds to the sums of windows around column x. */
fn line(n: u32, y: u32, x: u32) -> f32 {
  if (y >= p.h) { return 0.0; }
  let of_low = (n % p.lowN * (p.h / 2u) + y / 2u) * (p.w / 2u);
  let of_skip = (n % p.skipN * p.h + y) * p.w;
  let left = x > 0u;
  let right = x + 1u < p.w;
  let before = select(0u, x - 1u, left);
  let after = select(x, x + 1u, right);
  let lows = low[of_low + x / 2u] + select(0.0, low[of_low + before / 2u], left) + select(0.0, low[of_low + after / 2u], right);
  let skips = skip[of_skip + x] + select(0.0, skip[of_skip + before], left) + select(0.0, skip[of_skip + after], right);
  return p.lowChannels * lows + p.skipChannels * skips;
}
${linearMain(
  `p.n * ((p.h + ${rows - 1}u) / ${rows}u) * p.w`,
  `  let over = id / p.w;
  let x = id - over * p.w;
  let blocks = (p.h + ${rows - 1}u) / ${rows}u;
  let n = over / blocks;
  let y = (over - n * blocks) * ${rows}u;
  // The row above the first wraps around, and is beyond the last.
  ${range(rows + 2)
    .map((i) => `let line_${i} = line(n, y + ${i}u - 1u, x);`)
    .join(" ")}
  let first = (n * p.h + y) * p.w + x;
  ${range(rows)
    .map((o) => {
      const store = `store(first + ${o}u * p.w, line_${o} + line_${o + 1} + line_${o + 2});`;
      return o === 0 ? store : `if (y + ${o}u < p.h) { ${store} }`;
    })
    .join("\n  ")}`,
)}
`,
});

/** Sizes of the result, which is as large as the skip mask; even height and width. */
export interface MaskUpdateUpShape {
  readonly n: number;
  readonly h: number;
  readonly w: number;
  readonly lowN: number;
  readonly skipN: number;
  /** Channels that each mask stands for. */
  readonly lowChannels: number;
  readonly skipChannels: number;
}

/** What {@link maskUpdateUp} reads and writes. */
export interface MaskUpdateUpBuffers {
  readonly low: Storage;
  readonly skip: Storage;
  readonly scale: Storage;
  readonly biasScale: Storage;
  readonly maskOut: Storage;
}

/** Records the mask update of one decoder level. */
export function maskUpdateUp(gpu: Gpu, s: MaskUpdateUpShape, spec: MaskUpdateSpec, b: MaskUpdateUpBuffers): void {
  const channels = s.lowChannels + s.skipChannels;
  const params = { ...s, window: windowSize({ kernel: [3, 3], channels }, spec.convention) };
  const rows = rowsTogether(s.n * s.h * s.w);
  const buffers = [b.low, b.skip, b.scale, b.biasScale, b.maskOut];
  gpu.dispatch(maskUpdateUpKernel, { ...spec, rows }, params, buffers, linearGrid(s.n * Math.ceil(s.h / rows) * s.w));
}

/** The same in float64, by way of the joined mask. */
export function maskUpdateUpRef(
  s: MaskUpdateUpShape,
  spec: MaskUpdateSpec,
  low: ArrayLike<number>,
  skip: ArrayLike<number>,
) {
  const joined = maskJoinRef({ ...s, lowGroups: 1, skipGroups: 1, lowFirst: true }, low, skip);
  const channels = [s.lowChannels, s.skipChannels];
  const shape = { n: s.n, h: s.h, w: s.w, c: 2, k: 1, ...squareWindow(3, 1, 1), channels: channels[0] + channels[1] };
  return maskUpdateRef(shape, spec, joined, channels);
}
