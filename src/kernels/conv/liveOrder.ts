/**
 * The order in which a gather pass goes through its pixels where only some are live: these first, the others after them, each
 * in the order of the numbering. Tiles are runs of it, so that all but one are live as a whole or not at all; with holes of any
 * shape, no tile is computed for the sake of a few pixels.
 *
 * One bit per pixel, then every word of 32 bits counts those before it and writes its entries; in one dispatch where a
 * workgroup has all of a group's words (2,048 pixels), else in two. A pass over n
 * pixels reads (n / 32)^2 / 64 words for that, which for a window of 2^20 pixels is a
 * fiftieth of a percent of what a convolution of 64 channels does.
 *
 * Layout: live [N|1,outH,outW], not 0 at live pixels -> order [orderGroups,pixels]: the pixel's number in its group, plus DEAD
 * where it is not live.
 */
import { defineKernel } from "../../gpu/kernel.js";
import type { Gpu } from "../../gpu/gpu.js";
import { linearGrid, linearMain, workgroupGrid, workgroupId } from "../../gpu/linear.js";
import type { Storage } from "../../gpu/pool.js";
import { DEAD, GATHER_NUMBERING, GATHER_PARAMS, type gatherParams } from "./gather.js";

/** Words of one workgroup of the second dispatch, one for each invocation. */
const CHUNK_WORDS = 64;

/** WGSL of `live_word`: bits of the 32 pixels of a group from `first` on. */
const LIVE_WORD = /* wgsl */ `
${GATHER_NUMBERING}
fn live_word(tile: Tile, first: u32) -> u32 {
  // With one class the numbering is that of the output, and needs no division per pixel.
  let whole = p.classes == 1u;
  let origin = tile.image * p.outH * p.outW + first;
  let live_from = origin % p.livePixels;
  var word = 0u;
  for (var b = 0u; b < min(32u, p.pixels - first); b++) {
    var at = live_from + b;
    if (!whole) { at = place(tile, first + b).out; }
    // A mask that the batch shares begins again with every image, which a word may cross.
    if (at != NOWHERE && at >= p.livePixels) { at %= p.livePixels; }
    if (at != NOWHERE && live_mask[min(at, p.livePixels - 1u)] != 0.0) { word |= 1u << b; }
  }
  return word;
}
`;

export const liveBitsKernel = defineKernel({
  name: "liveBits",
  params: GATHER_PARAMS,
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> live_mask: array<f32>;      // [N|1,outH,outW]
@group(0) @binding(2) var<storage, read_write> bits: array<u32>;     // [orderGroups,words]
${LIVE_WORD}
${linearMain(
  "p.orderGroups * ((p.pixels + 31u) / 32u)",
  `  let words = (p.pixels + 31u) / 32u;
  let number = id / words;
  bits[id] = live_word(group_of(number), (id - number * words) * 32u);`,
)}
`,
});

export interface LiveOrderSpec {
  /** One workgroup has all words of a group, and looks at the mask itself; else they come from `liveBits`. */
  readonly alone: boolean;
}

export const liveOrderKernel = defineKernel({
  name: "liveOrder",
  params: { ...GATHER_PARAMS, words: "u32", chunks: "u32" },
  bindings: ["read", "read_write"],
  wgsl: ({ alone }: LiveOrderSpec) => /* wgsl */ `
// [N|1,outH,outW], or [orderGroups,words]
@group(0) @binding(1) var<storage, read> ${alone ? "live_mask: array<f32>" : "bits: array<u32>"};
@group(0) @binding(2) var<storage, read_write> order: array<u32>;    // [orderGroups,pixels]
/** Of each invocation: live pixels that it counted before this workgroup's words, in all words, and in its own word. */
var<workgroup> counts: array<vec3<u32>, ${CHUNK_WORDS}>;
${alone ? LIVE_WORD : ""}
@compute @workgroup_size(${CHUNK_WORDS})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let id = ${workgroupId};
  if (id >= p.orderGroups * p.chunks) { return; }
  let number = id / p.chunks;
  let first_word = (id - number * p.chunks) * ${CHUNK_WORDS}u;
  let own = first_word + local;
  var before = 0u;
  var total = 0u;
  var word = 0u;
  if (own < p.words) { word = ${alone ? "live_word(group_of(number), own * 32u)" : "bits[number * p.words + own]"}; }
  ${
    alone
      ? "total = countOneBits(word);"
      : `for (var other = local; other < p.words; other += ${CHUNK_WORDS}u) {
    let count = countOneBits(bits[number * p.words + other]);
    total += count;
    if (other < first_word) { before += count; }
  }`
  }
  counts[local] = vec3<u32>(before, total, countOneBits(word));
  workgroupBarrier();
  before = 0u;
  total = 0u;
  for (var i = 0u; i < ${CHUNK_WORDS}u; i++) {
    before += counts[i].x + select(0u, counts[i].z, i < local);
    total += counts[i].y;
  }
  var live = number * p.pixels + before;
  var dead = number * p.pixels + total + own * 32u - before;
  for (var m = own * 32u; m < min(own * 32u + 32u, p.pixels); m++) {
    if ((word & 1u) != 0u) { order[live] = m; live++; } else { order[dead] = m | ${DEAD}u; dead++; }
    word >>= 1u;
  }
}
`,
});

/** Records the order of a pass's pixels by a mask of them; the caller frees it. */
export function liveOrder(gpu: Gpu, params: ReturnType<typeof gatherParams>, live: Storage): Storage {
  const { orderGroups: groups, pixels } = params;
  const words = Math.ceil(pixels / 32);
  const chunks = Math.ceil(words / CHUNK_WORDS);
  const order = gpu.alloc(groups * pixels * 4, "order of pixels");
  const all = { ...params, words, chunks };
  const grid = workgroupGrid(groups * chunks);
  if (chunks === 1) {
    gpu.dispatch(liveOrderKernel, { alone: true }, all, [live, order], grid);
    return order;
  }
  const bits = gpu.alloc(groups * words * 4, "live pixels");
  gpu.dispatch(liveBitsKernel, undefined, params, [live, bits], linearGrid(groups * words));
  gpu.dispatch(liveOrderKernel, { alone: false }, all, [bits, order], grid);
  gpu.free(bits);
  return order;
}

/** The same for the live pixels of one group. */
export const liveOrderRef = (live: readonly boolean[]): number[] => [
  ...live.flatMap((alive, m) => (alive ? [m] : [])),
  ...live.flatMap((alive, m) => (alive ? [] : [m + DEAD])),
];
