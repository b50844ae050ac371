/** Kernels with one invocation per item and nothing shared between invocations: their grid and their `main`. */
import type { Grid } from "./gpu.js";

/** Invocations per workgroup: one to sixteen subgroups on any adapter; nothing depends on it but occupancy. */
const WORKGROUP = 64;

/** A grid for `items` invocations, spread over x and y because one dimension holds at most 65535 workgroups. */
export function linearGrid(items: number): Grid {
  const groups = Math.ceil(items / WORKGROUP);
  const x = Math.min(groups, 65535);
  return [x, Math.ceil(groups / Math.max(x, 1))];
}

/** WGSL of a `main` that runs `body` once for every `id` below `items` (an expression in the kernel's parameters). */
export const linearMain = (items: string, body: string): string => /* wgsl */ `
@compute @workgroup_size(${WORKGROUP})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let id = (group.y * groups.x + group.x) * ${WORKGROUP}u + local;
  if (id >= ${items}) { return; }
${body}
}
`;
