/**
 * Shapes shared by the kernels.
 *
 * Layout of every activation: NHWC float32, channels padded with zeros to a multiple of four so that a pixel's channels are
 * whole `vec4<f32>`s. Weights are `[kh][kw][ci][co]` with both channel counts padded the same way. The padding lanes are zero
 * in every tensor, gradients included; each kernel keeps it so.
 */
import { ShapeError } from "../errors.js";

/** Number of `vec4`s that hold `c` channels. */
export const vec4s = (c: number): number => Math.ceil(c / 4);

/** Sizes of an activation; `c` counts real channels, without padding. */
export interface ActivationShape {
  readonly n: number;
  readonly h: number;
  readonly w: number;
  readonly c: number;
}

/** A two-dimensional convolution as PyTorch's `Conv2d` names it; pairs are [height, width]. */
export interface ConvShape extends ActivationShape {
  /** Output channels. */
  readonly k: number;
  readonly kernel: readonly [number, number];
  readonly stride: readonly [number, number];
  readonly padding: readonly [number, number];
  readonly dilation: readonly [number, number];
  /** Height and width of the output where they do not follow from the rest: a window of a larger convolution. */
  readonly output?: readonly [p: number, q: number];
}

/** A square window, undilated: the part of a {@link ConvShape} that does not depend on the activation. */
export const squareWindow = (kernel: number, stride = 1, padding = 0) =>
  ({
    kernel: [kernel, kernel],
    stride: [stride, stride],
    padding: [padding, padding],
    dilation: [1, 1],
  }) as const satisfies Partial<ConvShape>;

/** Runs for every convolution of every step: nothing is allocated. */
function checkPositive(where: string, name: string, value: number): void {
  if (Number.isInteger(value) && value >= 1) return;
  throw new ShapeError(
    where,
    `expected ${name} to be a positive integer, got ${value}`,
    `pass a ${name} of at least 1`,
  );
}

/**
 * Output height and width of a convolution.
 * @throws {ShapeError} when a size is not a positive integer or the window does not fit the padded input.
 */
export function convOutputSize(where: string, s: ConvShape): readonly [p: number, q: number] {
  checkPositive(where, "n", s.n);
  checkPositive(where, "h", s.h);
  checkPositive(where, "w", s.w);
  checkPositive(where, "c", s.c);
  checkPositive(where, "k", s.k);
  for (const name of ["kernel", "stride", "dilation"] as const) for (const v of s[name]) checkPositive(where, name, v);
  if (s.output) return s.output; // its padding may have either sign
  if (s.padding.some((v) => !Number.isInteger(v) || v < 0)) {
    throw new ShapeError(where, `expected padding of integers >= 0, got ${s.padding.join("x")}`, "pass padding >= 0");
  }
  const size = (axis: 0 | 1, length: number) => {
    const window = (s.kernel[axis] - 1) * s.dilation[axis] + 1;
    return Math.floor((length + 2 * s.padding[axis] - window) / s.stride[axis]) + 1;
  };
  const p = size(0, s.h);
  const q = size(1, s.w);
  if (p < 1 || q < 1) {
    const window = s.kernel.map((k, i) => (k - 1) * s.dilation[i] + 1).join("x");
    throw new ShapeError(
      where,
      `expected a padded input of at least ${window}, got ${s.h}x${s.w} with padding ${s.padding.join("x")}`,
      "use a larger input, more padding or a smaller kernel",
    );
  }
  return [p, q];
}

/** The uniform fields of a convolution; kernels name the ones that they need. */
export function convParams(s: ConvShape, [p, q]: readonly [number, number]) {
  return {
    n: s.n,
    h: s.h,
    w: s.w,
    c4: vec4s(s.c),
    p,
    q,
    k4: vec4s(s.k),
    kh: s.kernel[0],
    kw: s.kernel[1],
    strideH: s.stride[0],
    strideW: s.stride[1],
    padH: s.padding[0],
    padW: s.padding[1],
    dilH: s.dilation[0],
    dilW: s.dilation[1],
  };
}

export const CONV_PARAMS = {
  n: "u32",
  h: "u32",
  w: "u32",
  c4: "u32",
  p: "u32",
  q: "u32",
  k4: "u32",
  kh: "u32",
  kw: "u32",
  strideH: "i32",
  strideW: "i32",
  padH: "i32",
  padW: "i32",
  dilH: "i32",
  dilW: "i32",
} as const;
