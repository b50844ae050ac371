/**
 * One Adam step on one parameter.
 *
 *   m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
 *   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
 *
 * Source: Kingma & Ba 2015, in the form of torch.optim.Adam (eps outside the bias-corrected root).
 * Layout: p, g, m, v as vec4s; padding lanes have g = 0 and stay 0. t counts from 1; the two corrections come from the host in
 * float64, since 1 - b2^t loses half its digits in float32. With loss scaling only the device knows t: they come from the kernel
 * `lossScale`, with the factor of the gradient.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { GUARD } from "./lossGuard.js";
import { SCALE_STATE } from "./lossScale.js";

export interface AdamStep {
  readonly lr: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Number of this step, counted from 1. */
  readonly t: number;
}

const word = (name: keyof typeof SCALE_STATE) => `bitcast<f32>(guard[${SCALE_STATE[name]}])`;

interface AdamSpec {
  /** `guard` is the state of loss scaling. */
  readonly scaled: boolean;
}

export const adamKernel = defineKernel({
  name: "adam",
  params: {
    vec4s: "u32",
    beta1: "f32",
    rest1: "f32",
    beta2: "f32",
    rest2: "f32",
    stepSize: "f32",
    rootScale: "f32",
    eps: "f32",
    guarded: "u32",
    clipped: "u32",
  },
  bindings: ["read", "read", "read_write", "read_write", "read_write"],
  wgsl: ({ scaled }: AdamSpec) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(2) var<storage, read> guard: array<u32>;             // see lossGuard, or lossScale
@group(0) @binding(3) var<storage, read_write> parameter: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> first: array<vec4f>;     // m
@group(0) @binding(5) var<storage, read_write> second: array<vec4f>;    // v
${linearMain(
  "p.vec4s",
  `  if (p.guarded != 0u && guard[0] != 0u) { return; }
  ${
    scaled
      ? `let g = gradient[id] * ${word("inverse")};`
      : `var g = gradient[id];
  if (p.clipped != 0u) { g *= bitcast<f32>(guard[${GUARD.factor}]); }`
  }
  let m = p.beta1 * first[id] + p.rest1 * g;
  let v = p.beta2 * second[id] + p.rest2 * g * g;
  first[id] = m;
  second[id] = v;
  parameter[id] -= p.stepSize${scaled ? ` * ${word("stepCorrection")}` : ""} * m / (sqrt(v) * ${scaled ? word("rootCorrection") : "p.rootScale"} + p.eps);`,
)}
`,
});

export interface AdamBuffers {
  readonly parameter: Storage;
  readonly gradient: Storage;
  readonly m: Storage;
  readonly v: Storage;
  /** Given: nothing changes once `lossGuard` or `gradientNorm` has set it. */
  readonly guard?: Storage | undefined;
  /** The gradient is multiplied by the factor that `gradientNorm` left in the guard; in the state it is part of `inverse`. */
  readonly clipped?: boolean;
  /** Given, instead of the guard: the state that `lossScale` left. */
  readonly scaling?: Storage | undefined;
}

/** Records one step on `vec4s` vec4s. */
export function adam(gpu: Gpu, vec4s: number, o: AdamStep, b: AdamBuffers): void {
  const scaled = b.scaling !== undefined;
  const guard = b.scaling ?? b.guard;
  const params = {
    vec4s,
    beta1: o.beta1,
    rest1: 1 - o.beta1,
    beta2: o.beta2,
    rest2: 1 - o.beta2,
    stepSize: scaled ? o.lr : o.lr / (1 - o.beta1 ** o.t),
    rootScale: 1 / Math.sqrt(1 - o.beta2 ** o.t),
    eps: o.eps,
    guarded: Number(guard !== undefined),
    clipped: Number(b.clipped === true),
  };
  const buffers = [b.gradient, guard ?? b.gradient, b.parameter, b.m, b.v];
  gpu.dispatch(adamKernel, { scaled }, params, buffers, linearGrid(vec4s));
}

/** The same in float64, in place. */
export function adamRef(o: AdamStep, p: Float64Array, g: ArrayLike<number>, m: Float64Array, v: Float64Array): void {
  for (let i = 0; i < p.length; i++) {
    m[i] = o.beta1 * m[i] + (1 - o.beta1) * g[i];
    v[i] = o.beta2 * v[i] + (1 - o.beta2) * g[i] * g[i];
    p[i] -= ((o.lr / (1 - o.beta1 ** o.t)) * m[i]) / (Math.sqrt(v[i]) / Math.sqrt(1 - o.beta2 ** o.t) + o.eps);
  }
}
