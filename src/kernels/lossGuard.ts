/**
 * Remembers the first step whose loss is not finite, so that the optimizer can hold still without anybody reading the loss back.
 *
 *   if the state is good and the loss is not finite: guard = (LOSS, step, bits of the loss)
 *
 * Source: ours. Layout: loss one vec4 (value, 0, 0, 0); guard four u32 (state, step, bits of a value, bits of the factor that
 * `gradientNorm` clips with), zeros at the start.
 * The kernel `adam` changes nothing where the state is not good: all steps after the bad one are held too, until it is cleared.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";

/** Bytes of a guard. */
export const GUARD_BYTES = 16;

/** Words of a guard. */
export const GUARD = { state: 0, step: 1, value: 2, factor: 3 } as const;
/** What was not finite first. */
export const GUARD_STATE = { good: 0, loss: 1, gradient: 2 } as const;

export const lossGuardKernel = defineKernel({
  name: "lossGuard",
  params: { step: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> loss: array<u32>;          // [4], bits: compilers may assume finite floats
@group(0) @binding(2) var<storage, read_write> guard: array<u32>;   // [4]
@compute @workgroup_size(1)
fn main() {
  let bits = loss[0];
  if (guard[${GUARD.state}] == ${GUARD_STATE.good}u && (bits & 0x7f800000u) == 0x7f800000u) {
    guard[${GUARD.state}] = ${GUARD_STATE.loss}u;
    guard[${GUARD.step}] = p.step;
    guard[${GUARD.value}] = bits;
  }
}
`,
});

/** Records the check of the loss of step number `step`. */
export function lossGuard(gpu: Gpu, step: number, b: { readonly loss: Storage; readonly guard: Storage }): void {
  gpu.dispatch(lossGuardKernel, undefined, { step }, [b.loss, b.guard], [1]);
}

/** The first bad step, and the loss or norm of its gradients; null while all were finite. */
export interface NotFinite {
  readonly what: "loss" | "gradient";
  readonly step: number;
  readonly value: number;
}

/** From the guard's contents as they were read back. */
export function readGuard(guard: Float32Array): NotFinite | null {
  const [state, step] = new Uint32Array(guard.buffer, guard.byteOffset, 2);
  if (state === GUARD_STATE.good) return null;
  return { what: state === GUARD_STATE.loss ? "loss" : "gradient", step, value: guard[GUARD.value] };
}
