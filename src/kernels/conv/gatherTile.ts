/**
 * What the gather backends with workgroup memory share: the reduction as one index, its parts, and the sum of these.
 *
 * The reduction runs over r = (tap row, tap column, c4) of the taps that apply to the tile's class. It is not cut at taps:
 * a step of `depth4` vec4s may take three channels of each of several taps (first layers), or any part of a long one.
 * Every invocation fills one place of each step, so it walks r in equal strides and needs no division on the way.
 *
 * Outputs of few pixels and many channels (the bottom of a U-Net) have too few tiles to fill a GPU: `splits` workgroups
 * then share a tile's reduction, each writes its raw sum to scratch memory, and `gatherFinish` adds them in order.
 */
import { defineKernel } from "../../gpu/kernel.js";
import { linearMain } from "../../gpu/linear.js";
import { epilogue, FLAG } from "./epilogue.js";
import { GATHER_PARAMS, GATHER_PRELUDE } from "./gather.js";
import { range } from "./range.js";
import { TAPS_OF } from "./taps.js";

/**
 * WGSL that follows the prelude: `taps_of`, `Walk`, `start_walk`, `advance`, `is_computed`, `finish`.
 * @param pixels pixels of a tile
 * @param invocations of a workgroup
 */
export const gatherTileWgsl = (pixels: number, invocations: number): string => /* wgsl */ `
${GATHER_PRELUDE}
${TAPS_OF}
/** A place in the reduction: tap row and column, as numbers among those that apply, and vec4 of the source's channels. */
struct Walk {
  i: u32,
  j: u32,
  c: u32,
}

fn start_walk(at: u32, columns: u32) -> Walk {
  let tap = at / p.srcC4;
  let row = tap / max(columns, 1u);
  return Walk(row, tap - row * columns, at % p.srcC4);
}

fn advance(start: Walk, by: u32, columns: u32) -> Walk {
  var to = Walk(start.i, start.j, start.c + by);
  while (to.c >= p.srcC4) {
    to.c -= p.srcC4;
    to.j++;
    if (to.j >= columns) { to.j = 0u; to.i++; }
  }
  return to;
}

var<workgroup> live_pixels: atomic<u32>;
var<workgroup> computed_tile: u32;

/** Whether any pixel of the tile is live; the same for the whole workgroup, as far as the analysis can see too. */
fn is_computed(tile: Tile, local: u32) -> bool {
  if ((p.flags & ${FLAG.skipping}u) == 0u) { return true; }
  for (var m = local; m < ${pixels}u; m += ${invocations}u) {
    if (pixel_of(tile, tile.first * ${pixels}u + m).live) { atomicStore(&live_pixels, 1u); }
  }
  workgroupBarrier(); // every invocation has looked at its pixels before one reads the result
  if (local == 0u) { computed_tile = atomicLoad(&live_pixels); }
  return workgroupUniformLoad(&computed_tile) != 0u; // its barriers order the write above before the read
}

/** Stores the whole sum, or the raw part of it; of a tile that is not computed \`gatherFinish\` reads no part. */
fn finish(pixel: u32, k: u32, total: vec4f, computed: bool, split: u32) {
  if (p.splits > 1u) { dst[(split * p.outPixels + pixel) * p.outC4 + k] = total; } else { store(pixel, k, total, computed); }
}
`;

/** Who reads what of a step: invocations with neighbouring numbers read the vec4s of one pixel (or rows of one column). */
export interface TileFill {
  readonly pixels: number;
  readonly channels4: number;
  readonly depth4: number;
  /** Invocations that read the same vec4 of the reduction, and how many pixels and weights each of them reads. */
  readonly fillers: number;
  readonly fillsA: number;
  readonly fillsB: number;
}

/**
 * How a workgroup of `invocations` divides the reading of a step.
 * @throws {Error} when it does not divide evenly: a fault of the spec
 */
export function tileFill(
  { pixels, channels4, depth4 }: Pick<TileFill, "pixels" | "channels4" | "depth4">,
  invocations: number,
): TileFill {
  const fillers = invocations / depth4;
  const fill = { pixels, channels4, depth4, fillers, fillsA: pixels / fillers, fillsB: (4 * channels4) / fillers };
  const uneven = Object.entries(fill).find(([, value]) => !Number.isInteger(value));
  if (uneven) throw new Error(`a tile of ${pixels}x${4 * channels4}x${4 * depth4}: ${uneven.join(" is ")}`);
  return fill;
}

/**
 * WGSL that reads a step of the reduction into registers: `a_N` (four channels of a pixel) and `b_N` (four columns of a
 * weight row). They are variables, not an array, so that no compiler has to unroll a loop to keep them in registers.
 * `setup` expects `tile`, `split` and `local`, and leaves `begin` and `end`, the steps of this workgroup; `read` reads
 * what `walk` is at; `next` moves that on to the next step. Place N is pixel `filler + N * fillers` of the tile, or weight row
 * `row_N` of the four of the vec4 `depth`, column `slot_N` of the tile.
 */
export function tileReads({ pixels, channels4, depth4, fillers, fillsA, fillsB }: TileFill) {
  const A = range(fillsA);
  const B = range(fillsB);
  const setup = /* wgsl */ `
    let down = taps_of(tile.cls.x + p.offH, p.stepH, p.divH, p.kh);
    let across = taps_of(tile.cls.y + p.offW, p.stepW, p.divW, p.kw);
    let steps = (down.count * across.count * p.srcC4 + ${depth4 - 1}u) / ${depth4}u;
    let share = (steps + p.splits - 1u) / p.splits;
    let begin = min(split * share, steps);
    let end = min(begin + share, steps);
    let depth = local % ${depth4}u;
    let filler = local / ${depth4}u;
    let weight_at = tile.image * p.weightStride;
    var walk = start_walk(begin * ${depth4}u + depth, across.count);
    ${A.map((s) => `let pixel_${s} = pixel_of(tile, tile.first * ${pixels}u + filler + ${s * fillers}u); var a_${s} = vec4f();`).join("\n    ")}
    ${B.map((s) => {
      const at = `(filler + ${s * fillers}u)`;
      return `let row_${s} = ${at} / ${channels4}u; let slot_${s} = ${at} % ${channels4}u; var b_${s} = vec4f();
    let column_${s} = min(tile.k * ${channels4}u + slot_${s}, p.outC4 - 1u);`;
    }).join("\n    ")}`;
  // Beyond the reduction's end (inside is false) both factors are zeros, so that no weight meets a zero by chance of NaN.
  const read = /* wgsl */ `{
        let inside = walk.i < down.count && across.count > 0u;
        let offset = vec2<i32>(down.offset + i32(walk.i) * down.offset_step, across.offset + i32(walk.j) * across.offset_step);
        let tap = (down.first + walk.i * down.step) * p.kw + across.first + walk.j * across.step;
        let w_at = select(0u, weight_at + (tap * p.srcC4 + walk.c) * 4u * p.outC4, inside);
        ${A.map((s) => `{ let at = pixel_${s}.source + offset; a_${s} = select(vec4f(), src[address(pixel_${s}, at) + walk.c], inside && in_image(at)); }`).join("\n        ")}
        ${B.map((s) => `b_${s} = select(vec4f(), weight[w_at + row_${s} * p.outC4 + column_${s}], inside);`).join("\n        ")}
      }`;
  return { setup, read, next: `walk = advance(walk, ${depth4}u, across.count);` };
}

/** Adds the parts that the workgroups of a split reduction left in `src` [splits,N,outH,outW,outC], and finishes. */
export const gatherFinishKernel = defineKernel({
  name: "gatherFinish",
  params: GATHER_PARAMS,
  bindings: ["read", "read", "read", "read", "read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> src: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;         // [outC], or [2,outC]: bias, gain
@group(0) @binding(3) var<storage, read> scale: array<f32>;          // [N|1,outH,outW]
@group(0) @binding(4) var<storage, read> bias_scale: array<f32>;     // [N|1,outH,outW]
@group(0) @binding(5) var<storage, read> live_mask: array<f32>;      // [N|1,outH,outW]
@group(0) @binding(6) var<storage, read> base: array<vec4f>;         // [N,outH,outW,outC]
@group(0) @binding(7) var<storage, read_write> dst: array<vec4f>;    // [N,outH,outW,outC]
${epilogue("vec4f")}
${linearMain(
  "p.outPixels * p.outC4",
  `  let pixel = id / p.outC4;
  let computed = (p.flags & ${FLAG.skipping}u) == 0u || live_mask[pixel % p.livePixels] != 0.0;
  var total = vec4f();
  if (computed) {
    for (var split = 0u; split < p.splits; split++) { total += src[split * p.outPixels * p.outC4 + id]; }
  }
  store(pixel, id % p.outC4, total, computed);`,
)}
`,
});
