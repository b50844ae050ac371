/** The layers that `pconv-bench` measures, by the names that `--shape` takes. */
import { convOutputSize, type ConvShape } from "../src/kernels/shape.js";
import { widthChannels } from "../src/pconv/unet.js";

const layer = (h: number, w: number, c: number, k: number, kernel: number, stride = 1): ConvShape => ({
  n: 1,
  h,
  w,
  c,
  k,
  kernel: [kernel, kernel],
  stride: [stride, stride],
  padding: [kernel >> 1, kernel >> 1],
  dilation: [1, 1],
});

/**
 * A to E stand for the kinds of layer in the U-Net and in VGG: wide and shallow, a decoder's two sources, an encoder with
 * stride, the bottleneck, the first layer. `small` and `odd` are there for quick checks; their times are mostly overhead.
 */
export const SHAPES: ReadonlyMap<string, ConvShape> = new Map<string, ConvShape>([
  ["A", layer(256, 256, 64, 64, 3)],
  ["B", layer(128, 128, 192, 64, 3)],
  ["C", layer(64, 64, 128, 256, 5, 2)],
  ["D", layer(16, 16, 512, 512, 3)],
  ["E", layer(256, 256, 3, 64, 7, 2)],
  ["small", layer(32, 32, 16, 16, 3)],
  ["odd", layer(13, 17, 5, 7, 3, 2)],
]);

/** The shapes that stand for real layers; averages are over these. */
export const REAL_SHAPES = ["A", "B", "C", "D", "E"];

export interface UNetLayer {
  /** `enc_1` to `enc_8`, `dec_8` to `dec_1`, as in the state dict. */
  readonly name: string;
  readonly layer: ConvShape;
  /** Input channels that come from the level below, at half the resolution; 0 in the encoder. */
  readonly lowChannels: number;
}

/** The U-Net's convolutions in the order in which they run, batch 1; the decoder's on upsampled and joined sources. */
export function unetLayers(size: number, width = 1, depth = 8): UNetLayer[] {
  const channels = widthChannels(width, depth);
  const kernels = [7, 5, 5];
  const encoder = channels.map((k, i): UNetLayer => {
    const side = Math.ceil(size / 2 ** i);
    const shape = layer(side, side, i === 0 ? 3 : channels[i - 1], k, kernels[i] ?? 3, 2);
    return { name: `enc_${i + 1}`, layer: shape, lowChannels: 0 };
  });
  const decoder = channels.map((k, i): UNetLayer => {
    const side = Math.ceil(size / 2 ** i);
    const skip = i === 0 ? 3 : channels[i - 1];
    return { name: `dec_${i + 1}`, layer: layer(side, side, k + skip, skip, 3), lowChannels: k };
  });
  return [...encoder, ...decoder.reverse()];
}

/** VGG16's 3x3 convolutions to pool3. */
export const VGG16_LAYERS = [
  { index: 0, c: 3, k: 64, pool: false },
  { index: 2, c: 64, k: 64, pool: true },
  { index: 5, c: 64, k: 128, pool: false },
  { index: 7, c: 128, k: 128, pool: true },
  { index: 10, c: 128, k: 256, pool: false },
  { index: 12, c: 256, k: 256, pool: false },
  { index: 14, c: 256, k: 256, pool: true },
] as const;

/** In words, such as `256x256 3->64 7x7 stride 2`. */
export function describeShape(s: ConvShape): string {
  const stride = s.stride[0] === 1 ? "" : ` stride ${s.stride[0]}`;
  return `${s.h}x${s.w} ${s.c}->${s.k} ${s.kernel[0]}x${s.kernel[1]}${stride}`;
}

/** Multiplications of one pass over the layer, taps outside of the image included, as is usual. */
export function multiplications(s: ConvShape): number {
  const [p, q] = convOutputSize("pconv-bench", s);
  return s.n * p * q * s.k * s.c * s.kernel[0] * s.kernel[1];
}

/** A mask [1,h,w] with a square-cornered hole of about the given share (0..1) in the middle; 1 = valid. */
export function centreHole(h: number, w: number, share: number): Float32Array {
  const side = (length: number) => Math.round(length * Math.sqrt(share));
  const [rows, columns] = [side(h), side(w)];
  const [top, left] = [(h - rows) >> 1, (w - columns) >> 1];
  return Float32Array.from({ length: h * w }, (_, i) => {
    const [y, x] = [Math.floor(i / w) - top, (i % w) - left];
    return y >= 0 && y < rows && x >= 0 && x < columns ? 0 : 1;
  });
}
