/**
 * Gather backend for outputs of a few channels (a network's image, the gradient of one): each invocation computes a column of `rows`
 * output pixels, one below the other, of one vec4 of channels. Their windows overlap, so a row of the source is read once for all
 * of them; neighbouring invocations read neighbouring pixels. With so few channels nothing else is worth sharing.
 *
 * It needs windows that move down by one row from output to output (forward: stride 1; input gradient: any, within its class) and
 * whose taps do too (dilation 1).
 */
import type { Gpu } from "../../gpu/gpu.js";
import { defineKernel } from "../../gpu/kernel.js";
import { linearGrid, linearMain, workgroupGrid, workgroupId } from "../../gpu/linear.js";
import type { Storage } from "../../gpu/pool.js";
import type { ConvShape } from "../shape.js";
import { countGather } from "./flopCounter.js";
import { FLAG } from "./epilogue.js";
import {
  type Direction,
  GATHER_BINDINGS,
  GATHER_NUMBERING,
  GATHER_PARAMS,
  GATHER_PRELUDE,
  gatherBuffers,
  type GatherLaunch,
  gatherParams,
  gatherSize,
} from "./gather.js";
import { range } from "./range.js";
import { TAPS_OF } from "./taps.js";

export interface ColumnSpec {
  /** Output pixels of an invocation. */
  readonly rows: number;
  /** Rows of taps in the class of most, and whether other classes have one less. */
  readonly taps: number;
  readonly uneven: boolean;
  /** Lanes of a subgroup that share what they read of weights, or 0: each invocation reads them itself. */
  readonly lanes: number;
}

/** Pixels of a column. A software adapter pays for loads, and has few invocations to fill; a GPU has many. */
const ROWS = { software: 6, gpu: 4 } as const;
/** Rows of taps that are unrolled: more compile for seconds on software adapters, and are rare where channels are few. */
const MAX_TAPS = 3;
/** Invocations of a workgroup without subgroups. */
const WORKGROUP = 64;

/** The kernel's spec for a pass, or null where its windows do not move as they must, or are too high. */
export function columnSpec(s: ConvShape, direction: Direction, lanes: number): ColumnSpec | null {
  const forward = direction === "forward";
  if (s.dilation[0] !== 1 || (forward && s.stride[0] !== 1)) return null;
  const classes = forward ? 1 : s.stride[0];
  const taps = Math.ceil(s.kernel[0] / classes);
  if (taps > MAX_TAPS) return null;
  return { rows: lanes > 0 ? ROWS.software : ROWS.gpu, taps, uneven: s.kernel[0] % classes !== 0, lanes };
}

const invocationsOf = ({ lanes }: ColumnSpec) => lanes || WORKGROUP;

/** WGSL of `column_of`, `pixel_row`, `pixel_at` and `is_dead`; needs the prelude's numbering, and `order`: here the mask of live pixels. */
const COLUMN_PLACE = (rows: number): string => /* wgsl */ `
struct Column {
  n: u32,         // image
  xx: u32,        // place in the class
  yy: u32,        // row of the first pixel in the class
  x: u32,         // column of the output
  inside: bool,
}

/** Column of pixels number column of a group. */
fn column_of(tile: Tile, column: u32) -> Column {
  let runs = (p.classH + ${rows - 1}u) / ${rows}u;
  let over_x = column / p.classW;
  let image_in_group = over_x / runs;
  let xx = column - over_x * p.classW;
  let x = xx * u32(p.divW) + u32(tile.cls.y);
  let inside = image_in_group < p.images && x < p.outW;
  let n = tile.image + min(image_in_group, p.images - 1u);
  return Column(n, xx, (over_x - image_in_group * runs) * ${rows}u, min(x, p.outW - 1u), inside);
}

/** Row of the output of pixel t of a column; it may lie below the last. */
fn pixel_row(tile: Tile, at: Column, t: u32) -> u32 { return (at.yy + t) * u32(p.divH) + u32(tile.cls.x); }

fn pixel_at(at: Column, y: u32) -> u32 { return (at.n * p.outH + min(y, p.outH - 1u)) * p.outW + at.x; }

fn is_dead(pixel: u32) -> bool {
  if ((p.flags & ${FLAG.skipping}u) == 0u) { return false; }
  return (order[pixel % p.livePixels] & 0x7fffffffu) == 0u; // neither 0 nor -0
}
`;

function columnWgsl(spec: ColumnSpec): string {
  const { rows, taps, uneven, lanes } = spec;
  const T = range(rows);
  const B = range(taps);
  const R = range(rows + taps - 1);
  const L = range(4);
  const own = range(Math.ceil((4 * taps) / (lanes || Infinity)));
  /** WGSL of row `l` of the weight of tap row `b`. */
  const weightOf = (b: number, l: number) => {
    const m = 4 * b + l;
    return lanes
      ? `subgroupBroadcast(own_${Math.floor(m / lanes)}, ${m % lanes}u)`
      : `weight[w_at + tap_${b} * tap_stride + ${l}u * p.outC4]`;
  };
  return /* wgsl */ `
${GATHER_PRELUDE}${TAPS_OF}${COLUMN_PLACE(rows)}
@compute @workgroup_size(${invocationsOf(spec)})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  ${lanes ? "@builtin(subgroup_invocation_id) local: u32," : "@builtin(local_invocation_index) local: u32,"}
) {
  let id = ${workgroupId};
  if (id >= p.items) { return; }
  let over_k = id / p.outC4;
  let k = id - over_k * p.outC4;
  let number = over_k / p.tiles;
  let tile = group_of(number);
  let at = column_of(tile, (over_k - number * p.tiles) * ${invocationsOf(spec)}u + local);
  ${T.map((t) => `let y_${t} = pixel_row(tile, at, ${t}u); let at_${t} = pixel_at(at, y_${t});`).join("\n  ")}
  let live = at.inside && !(${T.map((t) => `is_dead(at_${t})`).join(" && ")});
  ${T.map((t) => `var a_${t} = vec4f();`).join(" ")}
  let computed = ${lanes ? "subgroupAny(live)" : "live"};
  let across = taps_of(tile.cls.y + p.offW, p.stepW, p.divW, p.kw);
  if (computed && across.count > 0u) {
    let down = taps_of(tile.cls.x + p.offH, p.stepH, p.divH, p.kh);
    // Output t reads source row t + b for each b below down.count; backwards where the offset falls from tap to tap.
    let falls = down.offset_step < 0;
    let last = i32(down.count) - 1;
    let first_row = i32(at.yy) + down.offset + select(0, last * down.offset_step, falls);
    let tap_stride = p.kw * p.srcC4 * 4u * p.outC4;
    ${
      lanes
        ? own
            .map(
              (i) => `let b_${i} = i32((local + ${i * lanes}u) / 4u);
    let own_at_${i} = (down.first + u32(clamp(select(b_${i}, last - b_${i}, falls), 0, max(last, 0))) * down.step) * tap_stride + (local % 4u) * p.outC4;`,
            )
            .join("\n    ")
        : B.map((b) => `let tap_${b} = down.first + u32(select(${b}, last - ${b}, falls)) * down.step;`).join("\n    ")
    }
    // Conditions are at the end, as in \`subgroup.ts\`.
    var j = 0u;
    loop {
      let from_x = i32(at.xx) * p.mulW + across.offset + i32(j) * across.offset_step;
      ${R.map((r) => `let in_${r} = u32(from_x) < p.srcW && u32(first_row + ${r}) < p.srcH; let from_${r} = select(0u, ((at.n * p.srcH + u32(first_row + ${r})) * p.srcW + u32(from_x)) * p.srcC4, in_${r});`).join("\n      ")}
      var w_at = tile.image * p.weightStride + (across.first + j * across.step) * p.srcC4 * 4u * p.outC4 + k;
      var c = 0u;
      loop {
        ${own.map((i) => `let own_${i} = weight[w_at + own_at_${i}];`).join(" ")}
        ${R.map((r) => `let s_${r} = select(vec4f(), src[from_${r} + c], in_${r});`).join("\n        ")}
        ${B.map((b) => {
          const weights = L.map((l) => `let w_${l} = ${weightOf(b, l)};`).join(" ");
          // fma and not a sum of four products: one rounding an addition keeps more of float32.
          const sums = T.map((t) =>
            L.map((l) => `a_${t} = fma(vec4f(s_${t + b}.${"xyzw"[l]}), w_${l}, a_${t});`).join(" "),
          );
          const guard = uneven && b === taps - 1 ? `if (${b}u < down.count) ` : "";
          return `${guard}{ ${weights} ${sums.join(" ")} }`;
        }).join("\n        ")}
        w_at += 4u * p.outC4;
        continuing { c++; break if c == p.srcC4; }
      }
      continuing { j++; break if j == across.count; }
    }
  }
  if (!at.inside) { return; }
  let channel = channel_of(k);
  ${T.map((t) => `if (y_${t} < p.outH) { store_with(at_${t}, k, a_${t}, computed, channel); }`).join("\n  ")}
}
`;
}

export const gatherColumnKernel = defineKernel({
  name: "gatherColumn",
  params: GATHER_PARAMS,
  bindings: GATHER_BINDINGS,
  wgsl: columnWgsl,
});

/** The same with `lanes`. Branches around what they share depend on the workgroup alone: more than the analysis can know. */
export const gatherColumnSubgroupKernel = defineKernel({
  name: "gatherColumnSubgroup",
  params: GATHER_PARAMS,
  bindings: GATHER_BINDINGS,
  wgsl: columnWgsl,
  directives: "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n",
});

/** Units are pairs of a pixel and a tap, as `countGather` wants them; lanes of a subgroup compute all or nothing. */
export const columnCountKernel = defineKernel({
  name: "columnCount",
  params: { ...GATHER_PARAMS, slot: "u32" },
  bindings: ["read", "read_write"],
  wgsl: (spec: ColumnSpec) => {
    const together = spec.lanes || 1;
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> order: array<u32>;                    // live pixels [N|1,outH,outW]
@group(0) @binding(2) var<storage, read_write> counts: array<atomic<u32>>;
${GATHER_NUMBERING}${TAPS_OF}${COLUMN_PLACE(spec.rows)}
${linearMain(
  `p.items / p.outC4 * ${invocationsOf(spec) / together}u`,
  `  let first = id * ${together}u;
  let per_group = p.tiles * ${invocationsOf(spec)}u;
  let number = first / per_group;
  let tile = group_of(number);
  var inside = 0u;
  var any = false;
  for (var m = 0u; m < ${together}u; m++) {
    let at = column_of(tile, first - number * per_group + m);
    if (!at.inside) { continue; }
    for (var t = 0u; t < ${spec.rows}u; t++) {
      let y = pixel_row(tile, at, t);
      if (y < p.outH) { inside++; }
      any = any || !is_dead(pixel_at(at, y));
    }
  }
  let down = taps_of(tile.cls.x + p.offH, p.stepH, p.divH, p.kh);
  let across = taps_of(tile.cls.y + p.offW, p.stepW, p.divW, p.kw);
  if (any) { atomicAdd(&counts[p.slot], inside * down.count * across.count); }`,
)}
`;
  },
});

/** Records one gather pass in columns. */
export function launchColumns(gpu: Gpu, { s, direction, buffers, options }: GatherLaunch, spec: ColumnSpec): void {
  const { classH, classW, images, groups, out4 } = gatherSize(s, direction, options.weightPerImage ?? false);
  const tiles = Math.ceil((images * Math.ceil(classH / spec.rows) * classW) / invocationsOf(spec));
  const tile = { pixels: spec.rows, channels4: 1, grid: workgroupGrid };
  // To this kernel `tiles` are workgroups of a group, and `items` all workgroups.
  const params = { ...gatherParams(s, direction, tile, buffers, options), tiles, items: groups * tiles * out4 };
  const live = buffers.live?.mask;
  const count =
    live &&
    ((counts: Storage, slot: number) => {
      const invocations = (groups * tiles * invocationsOf(spec)) / (spec.lanes || 1);
      gpu.dispatch(columnCountKernel, spec, { ...params, slot }, [live, counts], linearGrid(invocations));
    });
  countGather(gpu, s, direction, params, count);
  const kernel = spec.lanes ? gatherColumnSubgroupKernel : gatherColumnKernel;
  gpu.dispatch(kernel, spec, params, gatherBuffers(buffers, live), workgroupGrid(params.items));
}
