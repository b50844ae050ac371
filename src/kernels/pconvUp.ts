/**
 * A decoder level's partial convolution: 3x3, padding 1, over [nearest-upsampled `low`, `skip`], forward and backward.
 *
 *   y = scale (W_low * upsample(low) + W_skip * skip) + biasScale b
 *
 * Neither the upsampled nor the joined tensor exists: low's part runs as the transpose of a 4x4 convolution of stride 2 (see
 * `upWeight`; 4/9 of the products), then skip's part adds to it and finishes. Their gradients are passes of the same two
 * convolutions.
 *
 * Source: Liu et al. 2018 sec. 3.2 (decoder); the rearrangement is ours.
 * Layout: low [N,H/2,W/2,Cl], skip [N,H,W,Cs], weight [3,3,C,K], g and y [N,H,W,K]; channels padded to 4.
 * Units: low and skip hold exact zeros in their holes.
 */
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";
import { convolve, convolveWeight } from "./conv/engine.js";
import { counted } from "./conv/flopCounter.js";
import { type ConvShape, squareWindow } from "./shape.js";
import { type JoinedChannels, upWeightBackward, upWeightBytes, upWeightPart } from "./upWeight.js";
import type { PixelMask } from "./slabs.js";

/** Sizes of the output; even height and width. */
export interface UpShape extends JoinedChannels {
  readonly n: number;
  readonly h: number;
  readonly w: number;
}

/** The convolution from large to small whose transpose upsamples. */
const lowShape = (s: UpShape): ConvShape => ({
  n: s.n,
  h: s.h,
  w: s.w,
  c: s.k,
  k: s.low,
  ...squareWindow(4, 2, 1),
});

const skipShape = (s: UpShape): ConvShape => ({
  n: s.n,
  h: s.h,
  w: s.w,
  c: s.skip,
  k: s.k,
  ...squareWindow(3, 1, 1),
});

export interface PConvUpBuffers {
  readonly low: Storage;
  readonly skip: Storage;
  readonly weight: Storage;
  readonly bias?: Storage | undefined;
  /** As in `PConvForwardBuffers`. */
  readonly gained?: boolean | undefined;
  readonly ratio: { readonly scale: Storage; readonly biasScale: Storage; readonly n: number };
  /** Pixels of y that are no holes; all are computed where it is left out. */
  readonly live?: PixelMask | undefined;
  readonly y: Storage;
  /** Fused activation of y: max(y, 0) + slope min(y, 0). */
  readonly slope?: number | undefined;
  /** As in `PConvForwardBuffers`. */
  readonly constantWeight?: boolean | undefined;
}

/** Operations of the layer that this is instead of: 3x3 over `channels` of the joined tensor, the same for all three passes. */
const textbookFlops = (s: UpShape, channels: number): number => 2 * s.n * s.h * s.w * 9 * channels * s.k;

/** Records one forward level. */
export function pconvUpForward(gpu: Gpu, s: UpShape, b: PConvUpBuffers): void {
  const { live, constantWeight = false } = b;
  const part = (name: "low" | "skip", run: (weight: Storage) => void) =>
    gpu.derived(upWeightPart(gpu, s, { part: name, transposed: false }, b.weight), constantWeight, run);
  counted(gpu, "pconvUpForward", textbookFlops(s, s.low + s.skip), () => {
    part("low", (weight) => {
      convolve(gpu, lowShape(s), "backwardInput", { src: b.low, weight, dst: b.y, live, constantWeight });
    });
    part("skip", (weight) => {
      const buffers = { src: b.skip, weight, dst: b.y, bias: b.bias, scale: b.ratio, live, constantWeight };
      convolve(gpu, skipShape(s), "forward", buffers, { accumulate: true, slope: b.slope, gained: b.gained ?? false });
    });
  });
}

export interface PConvUpBackwardBuffers {
  /** Gradient of the bare sums: dy * scale. */
  readonly g: Storage;
  readonly low: Storage;
  readonly skip: Storage;
  readonly weight: Storage;
  /** Gradients that are wanted. */
  readonly dLow?: Storage | undefined;
  readonly dSkip?: Storage | undefined;
  readonly dw?: Storage | undefined;
  /** Pixels of dLow and dSkip that are wanted, and pixels of g that are not zero. */
  readonly liveLow?: PixelMask | undefined;
  readonly liveSkip?: PixelMask | undefined;
  readonly liveY?: PixelMask | undefined;
}

/** Records the gradients of one level. */
export function pconvUpBackward(gpu: Gpu, s: UpShape, b: PConvUpBackwardBuffers): void {
  const transposed = (part: "low" | "skip", run: (weightT: Storage) => void) =>
    gpu.derived(upWeightPart(gpu, s, { part, transposed: true }, b.weight), false, run);
  const { dLow, dSkip, dw } = b;
  if (dLow) {
    transposed("low", (weight) => {
      counted(gpu, "pconvUpBackwardInput", textbookFlops(s, s.low), () =>
        convolve(gpu, lowShape(s), "forward", { src: b.g, weight, dst: dLow, live: b.liveLow }),
      );
    });
  }
  if (dSkip) {
    transposed("skip", (weight) => {
      counted(gpu, "pconvUpBackwardInput", textbookFlops(s, s.skip), () =>
        convolve(gpu, skipShape(s), "backwardInput", { src: b.g, weight, dst: dSkip, live: b.liveSkip }),
      );
    });
  }
  if (!dw) return;
  const part = (name: "low" | "skip") => gpu.alloc(upWeightBytes(s, name), `pconvUp ${name} dw`);
  const [low, skip] = [part("low"), part("skip")];
  counted(gpu, "pconvUpBackwardWeight", textbookFlops(s, s.low + s.skip), () => {
    convolveWeight(gpu, lowShape(s), { x: b.g, dy: b.low, dw: low, live: b.liveLow });
    convolveWeight(gpu, skipShape(s), { x: b.skip, dy: b.g, dw: skip, live: b.liveY });
  });
  upWeightBackward(gpu, s, { low, skip, dw });
  for (const storage of [low, skip]) gpu.free(storage);
}
