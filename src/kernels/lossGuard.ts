/**
 * Remembers the first step whose loss is not finite, so that the optimizer can hold still without anybody reading the loss back.
 *
 *   if guard[0] == 0 and the loss is not finite: guard = (1, step, bits of the loss, 0)
 *
 * Source: ours. Layout: loss one vec4 (value, 0, 0, 0); guard four u32, zeros at the start.
 * The kernel `adam` changes nothing where guard[0] is not 0: all steps after the bad one are held too, until the guard is cleared.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";

/** Bytes of a guard. */
export const GUARD_BYTES = 16;

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
  if (guard[0] == 0u && (bits & 0x7f800000u) == 0x7f800000u) {
    guard[0] = 1u;
    guard[1] = p.step;
    guard[2] = bits;
  }
}
`,
});

/** Records the check of the loss of step number `step`. */
export function lossGuard(gpu: Gpu, step: number, b: { readonly loss: Storage; readonly guard: Storage }): void {
  gpu.dispatch(lossGuardKernel, undefined, { step }, [b.loss, b.guard], [1]);
}

/** The first bad step and its loss, from the guard's contents as they were read back; null while all were finite. */
export function readGuard(guard: Float32Array): { readonly step: number; readonly loss: number } | null {
  const [state, step] = new Uint32Array(guard.buffer, guard.byteOffset, 2);
  return state === 0 ? null : { step, loss: guard[2] };
}
