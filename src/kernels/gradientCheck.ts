/**
 * Looks for a value that is not finite in a gradient: what loss scaling must know before any parameter changes.
 *
 *   found[4] = 1 if any value is infinite or NaN, else unchanged
 *
 * Source: torch.amp.GradScaler's found_inf. Layout: gradient in vec4s; state as in `lossScale`. Invocations may write the same 1 at
 * once: what order they write it in cannot be seen.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { SCALE_STATE } from "./lossScale.js";

export const gradientCheckKernel = defineKernel({
  name: "gradientCheck",
  params: { vec4s: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> gradient: array<vec4u>;            // bits: compilers may assume finite floats
@group(0) @binding(2) var<storage, read_write> state: array<atomic<u32>>;
${linearMain(
  "p.vec4s",
  `  let exponent = gradient[id] & vec4u(0x7f800000u);
  if (any(exponent == vec4u(0x7f800000u))) { atomicStore(&state[${SCALE_STATE.found}], 1u); }`,
)}
`,
});

/** Records the check of `vec4s` vec4s of float32. */
export function gradientCheck(
  gpu: Gpu,
  vec4s: number,
  b: { readonly gradient: Storage; readonly state: Storage },
): void {
  gpu.dispatch(gradientCheckKernel, undefined, { vec4s }, [b.gradient, b.state], linearGrid(vec4s));
}

/** The same on the CPU. */
export const gradientCheckRef = (gradient: ArrayLike<number>): boolean => !Array.from(gradient).every(Number.isFinite);
