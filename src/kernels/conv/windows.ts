/**
 * Convolutions over tensors larger than a kernel can bind, as convolutions over windows that can: runs of images, or of output rows
 * with the source rows under them. A window is a convolution of its own whose padding may have either sign:
 *
 *   input row = output row * stride + tap * dilation - padding
 *
 * with the rows of both counted from the windows' first gives padding' = padding + first input row - first output row * stride.
 */
import type { Gpu } from "../../gpu/gpu.js";
import { tooLarge } from "../../gpu/pool.js";
import { convOutputSize, type ConvShape, vec4s } from "../shape.js";
import { type Images, rowStep, type Slab, slabs } from "../slabs.js";
import type { Direction } from "./gather.js";

/** One window: its convolution, and which parts of input (x, dx) and output (y, dy) it is about. */
export interface ConvWindow {
  readonly s: ConvShape;
  readonly input: Slab;
  readonly output: Slab;
}

/** Input and output tensors as images, with bytes per pixel. */
export function convTensors(s: ConvShape): {
  readonly input: Images & { readonly pixelBytes: number };
  readonly output: Images & { readonly pixelBytes: number };
} {
  const [p, q] = convOutputSize("convolution", s);
  return {
    input: { n: s.n, h: s.h, w: s.w, pixelBytes: vec4s(s.c) * 16 },
    output: { n: s.n, h: p, w: q, pixelBytes: vec4s(s.k) * 16 },
  };
}

/**
 * The windows that a pass goes over; one with everything where that can be bound. In `forward` the outputs of the windows
 * are disjoint and their inputs overlap, in `backwardInput` it is the other way round.
 * @throws {GpuError} when not even a few rows can be bound.
 */
export function convWindows(gpu: Gpu, s: ConvShape, direction: Direction): ConvWindow[] {
  const limit = gpu.limits.maxStorageBufferBindingSize;
  const { input, output } = convTensors(s);
  const imageBytes = (t: typeof input) => t.h * t.w * t.pixelBytes;
  const largest = Math.max(imageBytes(input), imageBytes(output));
  const whole = ({ n0, n }: Slab): ConvWindow => ({
    s: n === s.n ? s : { ...s, n },
    input: { n0, n, y0: 0, h: input.h },
    output: { n0, n, y0: 0, h: output.h },
  });
  if (s.n * largest <= limit) return [whole({ n0: 0, n: s.n, y0: 0, h: 0 })];
  const [made, read] = direction === "forward" ? [output, input] : [input, output];
  if (largest <= limit) {
    // Runs of images: as many as the larger side allows, if images start where a binding may.
    const aligned = made.h % rowStep(gpu, made.w) === 0 && read.h % rowStep(gpu, read.w) === 0;
    const images = aligned ? Math.floor(limit / largest) : 0;
    if (images === 0) throw tooLarge("images of a tensor", s.n * largest, limit);
    return Array.from({ length: Math.ceil(s.n / images) }, (_, i) =>
      whole({ n0: i * images, n: Math.min(images, s.n - i * images), y0: 0, h: 0 }),
    );
  }
  const [stride, dilation, padding] = [s.stride[0], s.dilation[0], s.padding[0]];
  const reach = (s.kernel[0] - 1) * dilation;
  const step = rowStep(gpu, read.w);
  /** Rows read for rows [y0, y0 + h) that are made. */
  const under = (y0: number, h: number): readonly [first: number, rows: number] => {
    const [from, to] =
      direction === "forward"
        ? [y0 * stride - padding, (y0 + h - 1) * stride - padding + reach]
        : [Math.ceil((y0 + padding - reach) / stride), Math.floor((y0 + h - 1 + padding) / stride)];
    const first = Math.floor(Math.min(Math.max(0, from), read.h - 1) / step) * step;
    return [first, Math.max(1, Math.min(read.h - 1, to) - first + 1)];
  };
  const windows: ConvWindow[] = [];
  // Rows of one image at a time; fewer of them until what is read for any run fits too.
  let runs = slabs(gpu, made, made.pixelBytes);
  const split = (parts: number) => slabs(gpu, made, made.pixelBytes * parts);
  for (let parts = 1; runs.some((r) => r.n > 1 || under(r.y0, r.h)[1] * read.w * read.pixelBytes > limit);) {
    runs = split(++parts);
  }
  for (const made1 of runs) {
    const [y0, h] = under(made1.y0, made1.h);
    const read1 = { n0: made1.n0, n: 1, y0, h };
    const [inside, outside] = direction === "forward" ? [read1, made1] : [made1, read1];
    const shifted = padding + inside.y0 - outside.y0 * stride;
    windows.push({
      s: { ...s, n: 1, h: inside.h, padding: [shifted, s.padding[1]], output: [outside.h, output.w] },
      input: inside,
      output: outside,
    });
  }
  return windows;
}
