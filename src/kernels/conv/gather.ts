/**
 * The gather pass: the one computation behind the forward pass, the input gradient, upsampling convolutions and Winograd's
 * matrix products. Every output pixel sums, over the taps of a window, one source pixel times one weight matrix:
 *
 *   dst[o,k] = epilogue( sum_{i,j,c} weight[i,j,c,k] * src[source(o,i,j), c] )
 *
 *   forward:         source = output * stride + tap * dilation - padding
 *   input gradient:  source = (output + padding - tap * dilation) / stride   where that divides, else nothing
 *
 * Outputs are dealt with in classes of equal (y mod stride, x mod stride): within one, the taps that apply are the same and
 * source = index * mul + tap offset, with index counting the pixels of the class. `mul` is the stride in the forward pass (one
 * class) and 1 in the input gradient. A *tile* is a run of pixels of one class, across rows and images, times a run of channels.
 * Where only some pixels are live, the class is gone through in an order that has these first (`liveOrder.ts`), and tiles without
 * one are not computed: the work is in proportion to the live pixels, whatever the shape of the hole.
 *
 * Backends differ in how a tile is computed, in files of their own; what a tile is, and where it is stored, is here.
 */
import type { Grid } from "../../gpu/gpu.js";
import type { Kernel } from "../../gpu/kernel.js";
import type { Storage } from "../../gpu/pool.js";
import { convOutputSize, type ConvShape, vec4s } from "../shape.js";
import type { PixelMask } from "../slabs.js";
import { epilogue, FLAG } from "./epilogue.js";

export type Direction = "forward" | "backwardInput";

/** What a pass reads and writes besides sizes. Sizes in pixels: [n, height, width] of the output, unless said otherwise. */
export interface GatherBuffers {
  readonly src: Storage;
  /** [kh,kw,source channels,output channels], or one of these per image. */
  readonly weight: Storage;
  /** Nobody trains it: what is made of it is kept for the next time. Default false. */
  readonly constantWeight?: boolean | undefined;
  readonly dst: Storage;
  /** [K], or with the option `gained` [2,K]: bias, then gain. */
  readonly bias?: Storage | undefined;
  readonly scale?: { readonly scale: Storage; readonly biasScale: Storage; readonly n: number } | undefined;
  /** Pixels that are wanted are not 0 here; the others may be left uncomputed. `n` is the batch or 1. */
  readonly live?: PixelMask | undefined;
  /** Values of tiles that are not computed; needs `live`. */
  readonly base?: Storage | undefined;
}

export interface GatherOptions {
  /** Adds to what dst holds. */
  readonly accumulate?: boolean;
  /** max(x, 0) + slope min(x, 0) at the end: 0 is ReLU. */
  readonly slope?: number | undefined;
  /** The sums are multiplied by a gain for each channel, which follows the bias in its storage. */
  readonly gained?: boolean;
  /** Tiles that are not computed are left as they are: nobody reads them. */
  readonly unwritten?: boolean;
  /** Every image has its own weight: a batched matrix product. */
  readonly weightPerImage?: boolean;
  /** Products of half precision, added in float32, where the adapter has matrix units for it; elsewhere nothing changes. */
  readonly half?: boolean;
}

/** One gather pass with everything that its backends need. */
export interface GatherLaunch {
  readonly s: ConvShape;
  readonly direction: Direction;
  readonly buffers: GatherBuffers;
  readonly options: GatherOptions;
}

export const GATHER_PARAMS = {
  srcH: "u32",
  srcW: "u32",
  srcC4: "u32",
  outH: "u32",
  outW: "u32",
  outC4: "u32",
  kh: "u32",
  kw: "u32",
  mulH: "i32",
  mulW: "i32",
  stepH: "i32",
  stepW: "i32",
  offH: "i32",
  offW: "i32",
  divH: "i32",
  divW: "i32",
  /** Columns and number of classes, and the pixels of one. */
  clsW: "u32",
  classes: "u32",
  classH: "u32",
  classW: "u32",
  /** Pixels in one group (all images, or one) of a class, and vec4s from one image's weight to the next. */
  pixels: "u32",
  images: "u32",
  weightStride: "u32",
  /** Tiles of a group, tiles over the channels, and tiles in all. */
  tiles: "u32",
  tilesK: "u32",
  items: "u32",
  /** Parts of the reduction that are summed separately (backends that can), and pixels of all images. */
  splits: "u32",
  outPixels: "u32",
  flags: "u32",
  scalePixels: "u32",
  livePixels: "u32",
  /** Tiles are gone through in so many streams that advance together, see `tile_of`. */
  streams: "u32",
  perStream: "u32",
  /** Tiles of a workgroup: one each of so many streams, `perStream` apart. */
  inTurn: "u32",
  /** Groups with an order of pixels of their own; the others share these. */
  orderGroups: "u32",
  slope: "f32",
} as const;

type GatherParam = keyof typeof GATHER_PARAMS;
export type GatherKernel<Spec> = Kernel<GatherParam, Spec>;
export const GATHER_BINDINGS = ["read", "read", "read", "read", "read", "read", "read", "read_write"] as const;

/** How many pixels and vec4s of channels one tile holds, and how many workgroups a number of tiles takes. */
export interface TileSize {
  readonly pixels: number;
  readonly channels4: number;
  /** A workgroup can deal with several tiles one after the other, up to one that nobody asks for. */
  readonly inTurn?: true;
  grid(tiles: number): Grid;
}

/** Sizes that do not depend on the tile. */
export function gatherSize(s: ConvShape, direction: Direction, weightPerImage: boolean) {
  const [p, q] = convOutputSize(direction === "forward" ? "pconvForward" : "pconvBackwardInput", s);
  const forward = direction === "forward";
  const [srcH, srcW, srcC, outH, outW, outC] = forward ? [s.h, s.w, s.c, p, q, s.k] : [p, q, s.k, s.h, s.w, s.c];
  const [clsH, clsW] = forward ? [1, 1] : s.stride;
  const [classH, classW] = [Math.ceil(outH / clsH), Math.ceil(outW / clsW)];
  const images = weightPerImage ? 1 : s.n;
  const classes = clsH * clsW;
  const taps = Math.ceil(s.kernel[0] / clsH) * Math.ceil(s.kernel[1] / clsW);
  return {
    ...{ srcH, srcW, src4: vec4s(srcC), outH, outW, out4: vec4s(outC), clsW, classes, classH, classW, images },
    /** Pixels in one group of a class, and how many groups there are over all classes. */
    pixels: images * classH * classW,
    groups: (s.n / images) * classes,
    /** vec4s that an output sums over, in the class of most taps. */
    reduction4: taps * vec4s(srcC),
  };
}

/** The switches of one pass. */
export const gatherFlags = (b: GatherBuffers, o: GatherOptions): number =>
  (b.scale ? FLAG.scaled : 0) |
  (b.bias ? FLAG.biased : 0) |
  (o.accumulate ? FLAG.accumulate : 0) |
  (o.slope !== undefined ? FLAG.activated : 0) |
  (b.live ? FLAG.skipping : 0) |
  (b.base ? FLAG.based : 0) |
  (o.gained ? FLAG.gained : 0) |
  (o.unwritten ? FLAG.unwritten : 0);

/** Streams of tiles where only some are computed, or where a workgroup deals with several. */
const STREAMS = 16;
/** Workgroups that are enough for the cores of a processor, of unequal work too. */
const ENOUGH_WORKGROUPS = 256;

/** Tiles of a workgroup that deals with several of the `items`: one of each stream, or of a part of the streams. */
function tilesInTurn(streams: number, items: number): number {
  let inTurn = streams;
  while (streams % inTurn !== 0 || (inTurn > 1 && items / inTurn < ENOUGH_WORKGROUPS)) inTurn--;
  return inTurn;
}

/** Sizes of the pass as the WGSL reads them. */
export function gatherParams(
  s: ConvShape,
  direction: Direction,
  tile: TileSize,
  b: GatherBuffers,
  o: GatherOptions = {},
): Record<GatherParam, number> {
  const forward = direction === "forward";
  const size = gatherSize(s, direction, o.weightPerImage ?? false);
  const { outH, outW } = size;
  const needed = Math.ceil(size.pixels / tile.pixels);
  const streams = b.live || (tile.inTurn && needed >= 4 * STREAMS) ? Math.min(STREAMS, needed) : 1;
  const tiles = streams * Math.ceil(needed / streams);
  const tilesK = Math.ceil(size.out4 / tile.channels4);
  const items = size.groups * tiles * tilesK;
  const flags = gatherFlags(b, o);
  const perImage = outH * outW;
  return {
    srcH: size.srcH,
    srcW: size.srcW,
    srcC4: size.src4,
    outH,
    outW,
    outC4: size.out4,
    kh: s.kernel[0],
    kw: s.kernel[1],
    mulH: forward ? s.stride[0] : 1,
    mulW: forward ? s.stride[1] : 1,
    stepH: forward ? s.dilation[0] : -s.dilation[0],
    stepW: forward ? s.dilation[1] : -s.dilation[1],
    offH: forward ? -s.padding[0] : s.padding[0],
    offW: forward ? -s.padding[1] : s.padding[1],
    divH: forward ? 1 : s.stride[0],
    divW: forward ? 1 : s.stride[1],
    clsW: size.clsW,
    classes: size.classes,
    classH: size.classH,
    classW: size.classW,
    pixels: size.pixels,
    images: size.images,
    weightStride: o.weightPerImage ? s.kernel[0] * s.kernel[1] * size.src4 * 4 * size.out4 : 0,
    tiles,
    tilesK,
    items,
    splits: 1,
    outPixels: s.n * perImage,
    flags,
    scalePixels: (b.scale?.n ?? 1) * perImage,
    livePixels: (b.live?.n ?? 1) * perImage,
    streams,
    perStream: tiles / streams,
    inTurn: tile.inTurn ? tilesInTurn(streams, items) : 1,
    // Images with weights of their own are groups of their own, alike where they share the mask.
    orderGroups: b.live?.n === 1 ? size.classes : size.groups,
    slope: o.slope ?? 0,
  };
}

/**
 * Storage in the order of the bindings; a binding must name some buffer even where nothing reads it. It is one of the same precision as
 * what could stand there, so that no pipeline is made for it.
 * @param order what `liveOrder` made of `live`
 */
export const gatherBuffers = (b: GatherBuffers, order?: Storage): Storage[] => [
  b.src,
  b.weight,
  b.bias ?? b.weight,
  b.scale?.scale ?? b.weight,
  b.scale?.biasScale ?? b.weight,
  order ?? b.weight,
  b.base ?? b.src,
  b.dst,
];

/** Set in an order's entries for pixels that are not live. */
export const DEAD = 0x80000000;

/** WGSL of `tile_of`, `group_of`, `place`, `row_offset` and `column_offset`: where a tile lies. Reads nothing but the uniforms. */
export const GATHER_NUMBERING = /* wgsl */ `
const NOWHERE = 0xffffffffu;
struct Tile {
  k: u32,         // tile over the channels
  first: u32,     // tile over the pixels of the group
  cls: vec2<i32>, // class of the output pixels: y mod stride, x mod stride
  image: u32,     // first image of the group
  order: u32,     // where the group's order of pixels begins
}

/** The first tile of a group: all pixels of a class, of all images or of one. */
fn group_of(number: u32) -> Tile {
  let images = number / p.classes;
  let cls = number - images * p.classes;
  let cls_y = cls / p.clsW;
  let class_of = vec2<i32>(i32(cls_y), i32(cls - cls_y * p.clsW));
  let shared_order = number % p.orderGroups;
  return Tile(0u, 0u, class_of, images * p.images, shared_order * p.pixels);
}

/**
 * The tile of a workgroup. Where tiles differ in work, those with much come first in their group: streams over the parts of it,
 * a tile of each in turn, give all workers alike, even one that is handed a fixed share of the workgroups (lavapipe).
 */
fn tile_of(id: u32) -> Tile {
  let over_k = id / p.tilesK;
  let number = over_k * p.inTurn;
  let over_tiles = number / p.tiles;
  var tile = group_of(over_tiles);
  tile.k = id - over_k * p.tilesK;
  let turn = number - over_tiles * p.tiles;
  let round = turn / p.streams;
  tile.first = (turn - round * p.streams) * p.perStream + round;
  return tile;
}

struct Pixel {
  out: u32,            // index of the output pixel, or NOWHERE
  live: bool,
  image: u32,          // first source pixel of its image
  source: vec2<i32>,   // source row and column, before the tap's offset
}

/** Pixel m of the tile's group, row by row. */
fn place(tile: Tile, m: u32) -> Pixel {
  let row = m / p.classW;
  let image_in_group = row / p.classH;
  let yy = i32(row - image_in_group * p.classH);
  let xx = i32(m - row * p.classW);
  let n = tile.image + image_in_group;
  let y = yy * p.divH + tile.cls.x;
  let x = xx * p.divW + tile.cls.y;
  let inside = m < p.pixels && y < i32(p.outH) && x < i32(p.outW);
  let image = select(0u, n * p.srcH * p.srcW, inside);
  let at = select(NOWHERE, (n * p.outH + u32(y)) * p.outW + u32(x), inside);
  return Pixel(at, inside, image, vec2<i32>(yy * p.mulH, xx * p.mulW));
}

/** Offset of tap i (or j) in source rows (columns); the tap does not apply to the class unless it divides. */
fn row_offset(tile: Tile, i: u32) -> i32 { return tile.cls.x + p.offH + i32(i) * p.stepH; }
fn column_offset(tile: Tile, j: u32) -> i32 { return tile.cls.y + p.offW + i32(j) * p.stepW; }
`;

/** WGSL of `pixel_of`; needs the numbering and `order`. */
export const GATHER_ORDER = /* wgsl */ `
/** Pixel m of the tile's group, live ones first. */
fn pixel_of(tile: Tile, m: u32) -> Pixel {
  if ((p.flags & ${FLAG.skipping}u) == 0u) { return place(tile, m); }
  let entry = order[tile.order + min(m, p.pixels - 1u)];
  var pixel = place(tile, select(p.pixels, entry & ${DEAD - 1}u, m < p.pixels));
  pixel.live = pixel.live && entry < ${DEAD}u;
  return pixel;
}
`;

/**
 * WGSL that every backend starts with: bindings, `tile_of`, `pixel_of`, `row_offset`, `column_offset`, `in_image`, `address`, `store`.
 */
export const GATHER_PRELUDE = /* wgsl */ `
@group(0) @binding(1) var<storage, read> src: array<vec4f>;          // [N,srcH,srcW,srcC]
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;       // [kh,kw,srcC,outC], or [N,kh,kw,srcC,outC]
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;         // [outC], or [2,outC]: bias, gain
@group(0) @binding(4) var<storage, read> scale: array<f32>;          // [N|1,outH,outW]
@group(0) @binding(5) var<storage, read> bias_scale: array<f32>;     // [N|1,outH,outW]
@group(0) @binding(6) var<storage, read> order: array<u32>;          // [orderGroups,pixels]
@group(0) @binding(7) var<storage, read> base: array<vec4f>;         // [N,outH,outW,outC]
@group(0) @binding(8) var<storage, read_write> dst: array<vec4f>;    // [N,outH,outW,outC]

${GATHER_NUMBERING}${GATHER_ORDER}
fn in_image(at: vec2<i32>) -> bool { return u32(at.x) < p.srcH && u32(at.y) < p.srcW; }

/** First vec4 of a source pixel; of pixel 0 when it lies outside, so that the address is always good. */
fn address(pixel: Pixel, at: vec2<i32>) -> u32 {
  return (pixel.image + select(0u, u32(at.x) * p.srcW + u32(at.y), in_image(at))) * p.srcC4;
}

${epilogue("vec4f")}`;
