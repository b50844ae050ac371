/**
 * One step of an exponential moving average of a parameter, in place.
 *
 *   average += (1 - decay) (parameter - average)        nothing where the guard is set
 *
 * Source: Polyak & Juditsky 1992 in the exponential form that torch.optim.swa_utils calls EMA.
 * Layout: both in vec4s; guard as in `lossGuard`, or the state of `lossScale`: not 0 in the first word holds the step.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";

export const movingAverageKernel = defineKernel({
  name: "movingAverage",
  params: { vec4s: "u32", rest: "f32" },
  bindings: ["read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> parameter: array<vec4f>;
@group(0) @binding(2) var<storage, read> guard: array<u32>;
@group(0) @binding(3) var<storage, read_write> average: array<vec4f>;
${linearMain("p.vec4s", `  if (guard[0] == 0u) { average[id] += p.rest * (parameter[id] - average[id]); }`)}
`,
});

/** Records one step on `vec4s` vec4s. */
export function movingAverage(
  gpu: Gpu,
  vec4s: number,
  decay: number,
  b: { readonly parameter: Storage; readonly guard: Storage; readonly average: Storage },
): void {
  const buffers = [b.parameter, b.guard, b.average];
  gpu.dispatch(movingAverageKernel, undefined, { vec4s, rest: 1 - decay }, buffers, linearGrid(vec4s));
}

/** The same in float64, in place. */
export function movingAverageRef(decay: number, parameter: ArrayLike<number>, average: Float64Array): void {
  for (let i = 0; i < average.length; i++) average[i] += (1 - decay) * (parameter[i] - average[i]);
}
