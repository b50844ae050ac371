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
import { maskUpdateRef, type MaskUpdateSpec, storeRatio, windowSize } from "./maskUpdate.js";
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
  wgsl: (spec: MaskUpdateSpec) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> low: array<f32>;                // [Na,H/2,W/2]
@group(0) @binding(2) var<storage, read> skip: array<f32>;               // [Nb,H,W]
${storeRatio(spec)}
/** What row y adds to the sums of windows around column x. */
fn line(n: u32, y: u32, x: u32) -> f32 {
  if (y >= p.h) { return 0.0; }
  let low_at = (n % p.lowN * (p.h / 2u) + y / 2u) * (p.w / 2u);
  let skip_at = (n % p.skipN * p.h + y) * p.w;
  var sum = 0.0;
  ${range(3)
    .map((j) => {
      const value = `p.lowChannels * low[low_at + at_${j} / 2u] + p.skipChannels * skip[skip_at + at_${j}]`;
      return `let x_${j} = x + ${j}u - 1u; let at_${j} = min(x_${j}, p.w - 1u); sum += select(0.0, ${value}, x_${j} < p.w);`;
    })
    .join("\n  ")}
  return sum;
}
${linearMain(
  "p.n * (p.h / 2u) * p.w",
  `  let over = id / p.w;
  let x = id - over * p.w;
  let n = over / (p.h / 2u);
  let y = 2u * (over - n * (p.h / 2u));
  // Two outputs, one below the other, share rows. The row above the first wraps around, and is beyond the last.
  let middle = line(n, y, x) + line(n, y + 1u, x);
  let first = (n * p.h + y) * p.w + x;
  store(first, line(n, y - 1u, x) + middle);
  store(first + p.w, middle + line(n, y + 2u, x));`,
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
  const buffers = [b.low, b.skip, b.scale, b.biasScale, b.maskOut];
  gpu.dispatch(maskUpdateUpKernel, spec, params, buffers, linearGrid((s.n * s.h * s.w) / 2));
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
