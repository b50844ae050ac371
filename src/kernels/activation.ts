/**
 * Elementwise activations. One row per activation: its forward in `x`, its derivative in the output `y`.
 * Subgradients as PyTorch's: relu'(0) = 0, leakyRelu'(0) = slope.
 *
 *   relu       y = max(x, 0)                   dx = dy [y > 0]
 *   leakyRelu  y = x > 0 ? x : slope x         dx = dy (y > 0 ? 1 : slope)
 *   sigmoid    y = 1 / (1 + exp(-x))           dx = dy y (1 - y)
 *
 * Source: PConv uses ReLU in the encoder and LeakyReLU 0.2 in the decoder (Liu et al. 2018, sec. 3.2); sigmoid ends PConv-Keras.
 * Layout: x, y [N,H,W,C] padded to 4. relu and leakyRelu keep 0 at 0, so holes stay holes; sigmoid zeroes the padding lanes itself.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { forRanges } from "./slabs.js";

export type Activation = "relu" | "leakyRelu" | "sigmoid";

interface Row {
  readonly forward: string;
  readonly backward: string;
  readonly forwardRef: (x: number, slope: number) => number;
  readonly backwardRef: (y: number, slope: number) => number;
}

// relu is (x + |x|) / 2, exact in binary arithmetic, and not max or a select: those turn NaN into 0 on some adapters, and NaN
// must show. exp swallows NaN on some adapters too; is_nan looks at the bits, since WGSL lets compilers assume finite numbers.
export const ACTIVATIONS: Readonly<Record<Activation, Row>> = {
  relu: {
    forward: "0.5 * (x + abs(x))",
    backward: "select(vec4f(), dy, y > vec4f())",
    forwardRef: (x) => (x <= 0 ? 0 : x),
    backwardRef: (y) => (y > 0 ? 1 : 0),
  },
  leakyRelu: {
    forward: "select(x, p.slope * x, x <= vec4f())",
    backward: "select(p.slope * dy, dy, y > vec4f())",
    forwardRef: (x, slope) => (x <= 0 ? slope * x : x),
    backwardRef: (y, slope) => (y > 0 ? 1 : slope),
  },
  sigmoid: {
    forward: "select(vec4f(), select(1.0 / (1.0 + exp(-x)), x, is_nan(x)), real_lanes(id))",
    backward: "dy * y * (1.0 - y)",
    forwardRef: (x) => 1 / (1 + Math.exp(-x)),
    backwardRef: (y) => y * (1 - y),
  },
};

const HELPERS = /* wgsl */ `
fn is_nan(x: vec4f) -> vec4<bool> { return (bitcast<vec4u>(x) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u); }
fn real_lanes(id: u32) -> vec4<bool> { return vec4u(id % p.c4 * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(p.c); }
`;

export const activationForwardKernel = defineKernel({
  name: "activationForward",
  params: { vec4s: "u32", c4: "u32", c: "u32", slope: "f32" },
  bindings: ["read", "read_write"],
  wgsl: ({ activation }: { readonly activation: Activation }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> input: array<vec4f>;          // [N,H,W,C]
@group(0) @binding(2) var<storage, read_write> output: array<vec4f>;   // [N,H,W,C]
${HELPERS}
${linearMain("p.vec4s", `  let x = input[id];\n  output[id] = ${ACTIVATIONS[activation].forward};`)}
`,
});

export const activationBackwardKernel = defineKernel({
  name: "activationBackward",
  params: { vec4s: "u32", slope: "f32" },
  bindings: ["read", "read", "read_write"],
  wgsl: ({ activation }: { readonly activation: Activation }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> output: array<vec4f>;         // y [N,H,W,C]
@group(0) @binding(2) var<storage, read> gradient: array<vec4f>;       // dy
@group(0) @binding(3) var<storage, read_write> result: array<vec4f>;   // dx
${linearMain("p.vec4s", `  let y = output[id];\n  let dy = gradient[id];\n  result[id] = ${ACTIVATIONS[activation].backward};`)}
`,
});

export const activationBackwardInPlaceKernel = defineKernel({
  name: "activationBackwardInPlace",
  params: { vec4s: "u32", slope: "f32" },
  bindings: ["read", "read_write"],
  wgsl: ({ activation }: { readonly activation: Activation }) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> output: array<vec4f>;           // y [N,H,W,C]
@group(0) @binding(2) var<storage, read_write> gradient: array<vec4f>;   // dy, then dx
${linearMain("p.vec4s", `  let y = output[id];\n  let dy = gradient[id];\n  gradient[id] = ${ACTIVATIONS[activation].backward};`)}
`,
});

/** Records y = activation(x); `slope` is leakyRelu's. */
export function activationForward(
  gpu: Gpu,
  activation: Activation,
  s: { readonly vec4s: number; readonly c: number; readonly slope: number },
  b: { readonly x: Storage; readonly y: Storage },
): void {
  const c4 = Math.ceil(s.c / 4);
  const launch = (vec4s: number, part: (storage: Storage) => Storage) => {
    const params = { ...s, vec4s, c4 };
    gpu.dispatch(activationForwardKernel, { activation }, params, [part(b.x), part(b.y)], linearGrid(vec4s));
  };
  forRanges(gpu, s.vec4s, launch, c4);
}

/** Records dx from dy and the forward's output y. */
export function activationBackward(
  gpu: Gpu,
  activation: Activation,
  s: { readonly vec4s: number; readonly slope: number },
  b: { readonly y: Storage; readonly dy: Storage; readonly dx: Storage },
): void {
  forRanges(gpu, s.vec4s, (vec4s, part) => {
    const buffers = [part(b.y), part(b.dy), part(b.dx)];
    gpu.dispatch(activationBackwardKernel, { activation }, { ...s, vec4s }, buffers, linearGrid(vec4s));
  });
}

/** The same with dx in dy's place, where nobody else needs dy: a large tensor less. */
export function activationBackwardInPlace(
  gpu: Gpu,
  activation: Activation,
  s: { readonly vec4s: number; readonly slope: number },
  b: { readonly y: Storage; readonly gradient: Storage },
): void {
  forRanges(gpu, s.vec4s, (vec4s, part) => {
    const buffers = [part(b.y), part(b.gradient)];
    gpu.dispatch(activationBackwardInPlaceKernel, { activation }, { ...s, vec4s }, buffers, linearGrid(vec4s));
  });
}

/** Both directions in float64, channels unpadded. */
export function activationRef(activation: Activation, slope: number, x: ArrayLike<number>): Float64Array {
  return Float64Array.from(x, (v) => ACTIVATIONS[activation].forwardRef(v, slope));
}
export function activationBackwardRef(
  activation: Activation,
  slope: number,
  y: ArrayLike<number>,
  dy: ArrayLike<number>,
): Float64Array {
  return Float64Array.from(y, (v, i) => dy[i] * ACTIVATIONS[activation].backwardRef(v, slope));
}
