/**
 * How many floating-point operations things take: two per multiply-add, convolutions only (all else is below a percent).
 *
 * `textbook` is what everybody counts: taps beyond the border, outputs in holes and upsampled pixels included. `needed` is what
 * a direct convolution that knows the masks and the structure cannot avoid; shares of the peak are of this, and Winograd's form
 * of 3x3 layers may bring them above 1. `least` is what even that form needs: who claims to be faster than the peak at this has
 * not computed anything. This is the one place where these numbers come from.
 */
import { maskUpdateRef } from "../src/kernels/maskUpdate.js";
import { WINOGRAD_FORMS } from "../src/kernels/conv/winogradForms.js";
import type { ConvShape } from "../src/kernels/shape.js";
import type { Pass } from "./workload.js";
import { multiplications, type UNetLayer, unetLayers, VGG16_LAYERS } from "./shapes.js";

export interface Flops {
  readonly textbook: number;
  readonly needed: number;
  readonly least: number;
}

/** Multiplications that the largest of Winograd's forms saves. */
const WINOGRAD = WINOGRAD_FORMS[4].saves;

/** The same number thrice: nothing can be saved. */
export const fixedFlops = (flops: number): Flops => ({ textbook: flops, needed: flops, least: flops });

const sum = (parts: readonly Flops[]): Flops => ({
  textbook: parts.reduce((total, f) => total + f.textbook, 0),
  needed: parts.reduce((total, f) => total + f.needed, 0),
  least: parts.reduce((total, f) => total + f.least, 0),
});

/** The same so many times. */
export const timesFlops = ({ textbook, needed, least }: Flops, factor: number): Flops => ({
  textbook: textbook * factor,
  needed: needed * factor,
  least: least * factor,
});

/** Mask [h,w] after a layer, 1 = valid. */
function nextMask(layer: ConvShape, mask: ArrayLike<number>): Float64Array {
  const shape = { ...layer, n: 1, c: 1, k: 1, channels: 1 };
  return maskUpdateRef(shape, { convention: "paper", biased: false }, mask, [1]).maskOut;
}

const share = (mask: ArrayLike<number>): number => {
  let valid = 0;
  for (let i = 0; i < mask.length; i++) valid += mask[i];
  return valid / mask.length;
};

/**
 * One pass over one layer. Outputs whose window is all hole are zeros, need nothing, and pass no gradient; holes of the input take
 * none.
 * @param mask of the input, [h,w], 1 = valid; absent for a plain convolution
 */
export function convFlops(layer: ConvShape, mask?: ArrayLike<number>, pass: Pass = "forward"): Flops {
  const textbook = 2 * multiplications(layer);
  const needed = mask ? textbook * share(pass === "dx" ? mask : nextMask(layer, mask)) : textbook;
  const window = [...layer.kernel, ...layer.stride].join();
  // 5x5 and stride 2 is four phases of 3x3.
  const saved = window === "3,3,1,1" ? WINOGRAD : window === "5,5,2,2" ? (WINOGRAD * 25) / 36 : 1;
  return { textbook, needed, least: needed / saved };
}

/** A decoder reads its low-resolution source with four 2x2 kernels of summed taps: 4 multiplications where the textbook has 9. */
function withSummedTaps({ layer, lowChannels }: Pick<UNetLayer, "layer" | "lowChannels">): number {
  const taps = layer.kernel[0] * layer.kernel[1];
  return (4 * lowChannels + taps * (layer.c - lowChannels)) / (taps * layer.c);
}

/** One pass over a decoder's layer that reads its two sources; `mask` [h,w] is 0 where both are hole. */
export function upFlops(layer: ConvShape, lowChannels: number, mask: ArrayLike<number>): Flops {
  const { textbook, needed, least } = convFlops(layer, mask);
  const saved = withSummedTaps({ layer, lowChannels });
  return { textbook, needed: needed * saved, least: least * saved };
}

/**
 * The U-Net's forward pass at batch 1.
 * @param mask [size,size], 1 = valid
 */
export function unetFlops(size: number, width: number, depth: number, mask: ArrayLike<number>): Flops {
  const layers = unetLayers(size, width, depth);
  const masks: ArrayLike<number>[] = [mask];
  for (const { layer } of layers.slice(0, depth)) masks.push(nextMask(layer, masks[masks.length - 1]));
  let low = masks[depth]; // of what the decoder's next level reads from below
  return sum(
    layers.map((l, i) => {
      if (i < depth) return convFlops(l.layer, masks[i]);
      const skip = masks[2 * depth - 1 - i];
      const { h, w } = l.layer;
      const joined = Float64Array.from({ length: h * w }, (_, at) => {
        const [y, x] = [Math.floor(at / w) >> 1, (at % w) >> 1];
        return Math.max(skip[at], low[y * (w / 2) + x]);
      });
      low = nextMask(l.layer, joined);
      return upFlops(l.layer, l.lowChannels, joined);
    }),
  );
}

/** A 3x3 layer's mask of what equals the truth: a pixel that sees any other is another itself. */
function erode(mask: Uint8Array<ArrayBuffer>, h: number, w: number): Uint8Array<ArrayBuffer> {
  return mask.map((_, i) => {
    const [y, x] = [Math.floor(i / w), i % w];
    for (let r = Math.max(0, y - 1); r <= Math.min(h - 1, y + 1); r++)
      for (let c = Math.max(0, x - 1); c <= Math.min(w - 1, x + 1); c++) if (mask[r * w + c] === 0) return 0;
    return 1;
  });
}

function halve(mask: Uint8Array<ArrayBuffer>, w: number): Uint8Array<ArrayBuffer> {
  const out = w >> 1;
  return Uint8Array.from({ length: (mask.length / w / 2) * out }, (_, i) => {
    const at = 2 * Math.floor(i / out) * w + 2 * (i % out);
    return Math.min(mask[at], mask[at + 1], mask[at + w], mask[at + w + 1]);
  });
}

/** VGG16 to pool3 on an image of size x size, and on a composite, which differs from the truth in the holes only. */
function vggFlops(size: number, mask: ArrayLike<number>): { whole: number; composite: number } {
  let [same, side] = [Uint8Array.from(mask), size];
  let [whole, composite] = [0, 0];
  for (const { c, k, pool } of VGG16_LAYERS) {
    const flops = 2 * side * side * c * k * 9;
    same = erode(same, side, side);
    whole += flops;
    composite += flops * (1 - share(same));
    if (pool) [same, side] = [halve(same, side), side >> 1];
  }
  return { whole, composite };
}

/**
 * A training step at batch 1: the U-Net forward and both gradients; with `vgg` its features of truth, output and composite and
 * the gradients of the last two. The textbook adds a mask convolution as large as the U-Net's own, as multi-channel layers
 * run; needed are features of the composite only where they can differ from the truth's.
 */
export function trainingStepFlops(
  size: number,
  width: number,
  depth: number,
  mask: ArrayLike<number>,
  vgg: boolean,
): Flops {
  const unet = unetFlops(size, width, depth, mask);
  const parts = [timesFlops(unet, 3), { textbook: unet.textbook, needed: 0, least: 0 }];
  if (vgg) {
    const { whole, composite } = vggFlops(size, mask);
    const needed = 3 * whole + 2 * composite;
    parts.push({ textbook: 5 * whole, needed, least: needed / WINOGRAD });
  }
  return sum(parts);
}
