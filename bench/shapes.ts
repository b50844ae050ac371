/** The layers that `pconv-bench` measures, by the names that `--shape` takes. */
import { convOutputSize, type ConvShape } from "../src/kernels/shape.js";

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
export const SHAPES: ReadonlyMap<string, ConvShape> = new Map([
  ["A", layer(256, 256, 64, 64, 3)],
  ["B", layer(128, 128, 192, 64, 3)],
  ["C", layer(64, 64, 128, 256, 5, 2)],
  ["D", layer(16, 16, 512, 512, 3)],
  ["E", layer(256, 256, 3, 64, 7, 2)],
  ["small", layer(32, 32, 16, 16, 3)],
  ["odd", layer(13, 17, 5, 7, 3, 2)],
]);

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
