/** Checks of whole ops: on the device through the tape, against a float64 composition and its central differences. */
import { expect } from "vitest";
import { Tape } from "../../src/autograd/tape.js";
import { Tensor } from "../../src/autograd/tensor.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import type { ActivationShape } from "../../src/kernels/shape.js";
import { Parameter } from "../../src/nn/parameter.js";
import { expectClose, expectExact } from "./close.js";
import type { Draw } from "./draw.js";

/** One differentiable input: its values in the references' layout, and how it gets to the device and back. */
export interface Leaf {
  readonly name: string;
  readonly values: Float64Array;
  upload(gpu: Gpu): Tensor;
  gradient(tensor: Tensor): Promise<Float32Array>;
}

/** Values that float32 holds exactly, so that device and reference see the same. */
const exact = (values: ArrayLike<number>): Float64Array => Float64Array.from(values, Math.fround);

/** An activation [n,h,w,c]; also gamma, beta and biases as [1,1,1,c]. */
export function activationLeaf(name: string, shape: ActivationShape, values: ArrayLike<number>): Leaf {
  const own = exact(values);
  return {
    name,
    values: own,
    upload(gpu) {
      const tensor = Tensor.from(gpu, shape, own, name);
      tensor.requiresGrad = true;
      return tensor;
    },
    gradient: (tensor) => tensor.grad!.values(),
  };
}

export const channelLeaf = (name: string, values: ArrayLike<number>): Leaf =>
  activationLeaf(name, { n: 1, h: 1, w: 1, c: values.length }, values);

/** [kh,kw,c,k] as the references have it <-> PyTorch's [k,c,kh,kw]. */
export function toOihw(values: ArrayLike<number>, taps: number, c: number, k: number): Float64Array {
  return Float64Array.from({ length: values.length }, (_, i) => {
    const tap = i % taps;
    const from = Math.floor(i / taps) % c;
    return values[(tap * c + from) * k + Math.floor(i / (taps * c))];
  });
}
export function fromOihw(values: ArrayLike<number>, taps: number, c: number, k: number): Float64Array {
  return Float64Array.from({ length: values.length }, (_, i) => {
    const from = Math.floor(i / k) % c;
    return values[((i % k) * c + from) * taps + Math.floor(i / (k * c))];
  });
}

/** A convolution's weight; `values` are [kh,kw,c,k]. */
export function weightLeaf(
  name: string,
  s: { readonly kernel: readonly [number, number]; readonly c: number; readonly k: number },
  values: ArrayLike<number>,
): Leaf {
  const own = exact(values);
  const [kh, kw] = s.kernel;
  return {
    name,
    values: own,
    upload: (gpu) => new Parameter(gpu, [s.k, s.c, kh, kw], name, toOihw(own, kh * kw, s.c, s.k)),
    async gradient(tensor) {
      const [device] = await tensor.gpu.read(tensor.grad!.storage);
      return Float32Array.from(fromOihw((tensor as Parameter).toTorch(device), kh * kw, s.c, s.k));
    },
  };
}

/** Sum of products; what the second operand marks NaN (a gradient that must not count) is left out. */
export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) if (!Number.isNaN(b[i])) sum += a[i] * b[i];
  return sum;
}

const STEP = 1e-5;

/** Gradient of `loss` in `values` by central differences; `values` is moved and put back. */
export function differences(values: Float64Array, loss: () => number): Float64Array {
  return values.map((old, i) => {
    values[i] = old + STEP;
    const above = loss();
    values[i] = old - STEP;
    const below = loss();
    values[i] = old;
    return (above - below) / (2 * STEP);
  });
}

export const largest = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((top, v) => Math.max(top, Math.abs(v)), 0);

/** Frees leaves and their gradients. */
export function freeLeaves(tensors: readonly Tensor[]): void {
  for (const tensor of tensors) {
    if (!(tensor instanceof Parameter)) tensor.grad?.free(); // a parameter frees its own
    tensor.free();
  }
}

export interface OpCase {
  readonly name: string;
  readonly leaves: readonly Leaf[];
  /** The op or chain under test. */
  readonly forward: (tape: Tape, leaves: Tensor[]) => Tensor;
  /** The same in float64, from the leaves' present values. */
  readonly reference: () => ArrayLike<number>;
  /** Gradient of the output; NaN where it must not count. */
  readonly dy?: (length: number) => Float32Array;
  readonly draw: Draw;
}

/**
 * Runs a case twice: values and gradients must fit the reference and its central differences, be bit for bit the same both
 * times, and everything but constants must be back in the pool.
 */
export async function checkOp(gpu: Gpu, o: OpCase): Promise<void> {
  const seed = `${o.name}: ${o.draw.seed}`;
  const want = o.reference();
  const dy = o.dy?.(want.length) ?? o.draw.floats(want.length);
  const run = async (): Promise<{ y: Float32Array; gradients: Float32Array[] }> => {
    const tape = new Tape(gpu);
    const tensors = o.leaves.map((leaf) => leaf.upload(gpu));
    try {
      const output = o.forward(tape, tensors);
      const y = await output.values();
      tape.backward(output, tape.upload(output.shape, dy, "dy"));
      const gradients: Float32Array[] = [];
      for (const [i, leaf] of o.leaves.entries()) gradients.push(await leaf.gradient(tensors[i]));
      return { y, gradients };
    } finally {
      tape.dispose();
      freeLeaves(tensors);
    }
  };
  const first = await run();
  const before = gpu.memory().inUse;
  const second = await run();
  expect(gpu.memory().inUse, `${seed}: bytes in use after dispose`).toBe(before);

  expectExact(`${o.name} y, second run`, second.y, first.y, seed);
  expectClose(`${o.name} y`, first.y, want, 2e-6 * (1 + largest(want)), seed);
  for (const [i, leaf] of o.leaves.entries()) {
    const numeric = differences(leaf.values, () => dot(o.reference(), dy));
    const name = `${o.name} gradient of ${leaf.name}`;
    expectClose(name, first.gradients[i], numeric, 1e-5 * (1 + largest(numeric)), seed);
    expectExact(`${name}, second run`, second.gradients[i], first.gradients[i], seed);
  }
}
