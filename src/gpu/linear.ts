/** Kernels with one invocation per item and nothing shared between invocations: their grid and their `main`. */
import type { Grid } from "./gpu.js";

/** Invocations per workgroup: one to sixteen subgroups on any adapter; nothing depends on it but occupancy. */
const WORKGROUP = 64;

/** A grid for `items` invocations, spread over x and y because one dimension holds at most 65535 workgroups. */
export function linearGrid(items: number): Grid {
  return workgroupGrid(Math.ceil(items / WORKGROUP));
}

/** A grid of `count` workgroups, spread over x and y likewise; {@link workgroupId} numbers them. */
export function workgroupGrid(count: number): Grid {
  const x = Math.min(count, 65535);
  return [x, Math.ceil(count / Math.max(x, 1))];
}

/** WGSL: the number of a workgroup; there may be a few beyond the count. `group` and `groups` are the builtins. */
export const workgroupId = "group.y * groups.x + group.x";

/** WGSL of a `main` that runs `body` once for every `id` below `items` (an expression in the kernel's parameters). */
export const linearMain = (items: string, body: string): string => /* wgsl */ `
@compute @workgroup_size(${WORKGROUP})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let id = (${workgroupId}) * ${WORKGROUP}u + local;
  if (id >= ${items}) { return; }
${body}
}
`;
