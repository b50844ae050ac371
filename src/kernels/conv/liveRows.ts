/**
 * The live pixels of each row of an output, in steps of a few: a weight pass sums over these and looks at no others.
 *
 * Layout: live [N|1,P,Q], not 0 at live pixels -> columns [N|1,P,1 + STEP ceil(Q / STEP)]: how many steps the row has, plus WHOLE where
 * all of it is live; then the column of every live pixel from left to right. What the last step lacks is filled up with its first column, plus DEAD.
 */
import { defineKernel } from "../../gpu/kernel.js";
import type { Gpu } from "../../gpu/gpu.js";
import { linearGrid, linearMain } from "../../gpu/linear.js";
import type { Storage } from "../../gpu/pool.js";
import { DEAD } from "./gather.js";

/** Set in the number of steps of a row whose pixels are all live: they need no look at their columns. */
export const WHOLE = 0x80000000;
/** Pixels of a step. */
export const LIVE_STEP = 4;

export const liveRowsKernel = defineKernel({
  name: "liveRows",
  params: { rows: "u32", q: "u32", pitch: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> live_mask: array<f32>;        // [rows,Q]
@group(0) @binding(2) var<storage, read_write> columns: array<u32>;    // [rows,pitch]
${linearMain(
  "p.rows",
  `  let first = id * p.pitch + 1u;
  var count = 0u;
  var opening = 0u; // the column that the last step begins with
  for (var q = 0u; q < p.q; q++) {
    if (live_mask[id * p.q + q] != 0.0) {
      if (count % ${LIVE_STEP}u == 0u) { opening = q; }
      columns[first + count] = q;
      count++;
    }
  }
  let steps = (count + ${LIVE_STEP - 1}u) / ${LIVE_STEP}u;
  columns[first - 1u] = steps | select(0u, ${WHOLE}u, count == p.q);
  for (; count < steps * ${LIVE_STEP}u; count++) { columns[first + count] = opening | ${DEAD}u; }`,
)}
`,
});

/** Entries of a row of `q` pixels. */
export const livePitch = (q: number): number => 1 + LIVE_STEP * Math.ceil(q / LIVE_STEP);

/** Records the live pixels of `rows` rows of `q`; the caller frees them. */
export function liveRows(gpu: Gpu, live: Storage, rows: number, q: number): Storage {
  const pitch = livePitch(q);
  const columns = gpu.alloc(rows * pitch * 4, "live pixels of rows");
  gpu.dispatch(liveRowsKernel, undefined, { rows, q, pitch }, [live, columns], linearGrid(rows));
  return columns;
}

/** The same for one row, without what the device leaves unwritten. */
export function liveRowsRef(live: readonly boolean[]): number[] {
  const columns = live.flatMap((alive, q) => (alive ? [q] : []));
  const steps = Math.ceil(columns.length / LIVE_STEP);
  const opening = columns[LIVE_STEP * (steps - 1)];
  return [
    columns.length === live.length ? steps + WHOLE : steps,
    ...columns,
    ...Array.from({ length: LIVE_STEP * steps - columns.length }, () => opening + DEAD),
  ];
}
