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
 * class) and 1 in the input gradient. A *tile* is a run of consecutive pixels of one class, across rows and images, times a run
 * of channels. Tiles none of whose pixels is live are not computed.
 *
 * Epilogue, in this order: add what dst held (`accumulate`); times scale[pixel]; plus bias[k] (times biasScale[pixel] where there
 * is a scale); activation. A pixel of a tile that was not computed takes base[pixel,k] where there is a base, else the sum 0.
 *
 * Backends differ in how a tile is computed, in files of their own; what a tile is, and where it is stored, is here.
 * Switches of the epilogue are uniform and not part of the text: drivers take seconds to compile a tile.
 */
import type { Grid } from "../../gpu/gpu.js";
import type { Kernel } from "../../gpu/kernel.js";
import type { Storage } from "../../gpu/pool.js";
import { convOutputSize, type ConvShape, vec4s } from "../shape.js";

export type Direction = "forward" | "backwardInput";

/** What a pass reads and writes besides sizes. Sizes in pixels: [n, height, width] of the output, unless said otherwise. */
export interface GatherBuffers {
  readonly src: Storage;
  /** [kh,kw,source channels,output channels], or one of these per image. */
  readonly weight: Storage;
  readonly dst: Storage;
  readonly bias?: Storage | undefined;
  readonly scale?: { readonly scale: Storage; readonly biasScale: Storage; readonly n: number } | undefined;
  /** Pixels that are wanted are not 0 here; the others may be left uncomputed. `n` is the batch or 1. */
  readonly live?: { readonly mask: Storage; readonly n: number } | undefined;
  /** Values of tiles that are not computed; needs `live`. */
  readonly base?: Storage | undefined;
}

export interface GatherOptions {
  /** Adds to what dst holds. */
  readonly accumulate?: boolean;
  /** max(x, 0) + slope min(x, 0) at the end: 0 is ReLU. */
  readonly slope?: number | undefined;
  /** Every image has its own weight: a batched matrix product. */
  readonly weightPerImage?: boolean;
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
  flags: "u32",
  scalePixels: "u32",
  livePixels: "u32",
  slope: "f32",
} as const;

type GatherParam = keyof typeof GATHER_PARAMS;
export type GatherKernel<Spec> = Kernel<GatherParam, Spec>;
export const GATHER_BINDINGS = ["read", "read", "read", "read", "read", "read", "read", "read_write"] as const;

const FLAG = { scaled: 1, biased: 2, accumulate: 4, activated: 8, skipping: 16, based: 32 } as const;

/** How many pixels and vec4s of channels one tile holds, and how many workgroups a number of tiles takes. */
export interface TileSize {
  readonly pixels: number;
  readonly channels4: number;
  grid(tiles: number): Grid;
}

/** Sizes of the pass as the WGSL reads them. */
export function gatherParams(
  s: ConvShape,
  direction: Direction,
  tile: TileSize,
  b: GatherBuffers,
  o: GatherOptions = {},
): Record<GatherParam, number> {
  const [p, q] = convOutputSize(direction === "forward" ? "pconvForward" : "pconvBackwardInput", s);
  const forward = direction === "forward";
  const [srcH, srcW, srcC, outH, outW, outC] = forward ? [s.h, s.w, s.c, p, q, s.k] : [p, q, s.k, s.h, s.w, s.c];
  const [clsH, clsW] = forward ? [1, 1] : s.stride;
  const [classH, classW] = [Math.ceil(outH / clsH), Math.ceil(outW / clsW)];
  const images = o.weightPerImage ? 1 : s.n;
  const pixels = images * classH * classW;
  const tiles = Math.ceil(pixels / tile.pixels);
  const tilesK = Math.ceil(vec4s(outC) / tile.channels4);
  const classes = clsH * clsW;
  const flags =
    (b.scale ? FLAG.scaled : 0) |
    (b.bias ? FLAG.biased : 0) |
    (o.accumulate ? FLAG.accumulate : 0) |
    (o.slope !== undefined ? FLAG.activated : 0) |
    (b.live ? FLAG.skipping : 0) |
    (b.base ? FLAG.based : 0);
  const perImage = outH * outW;
  return {
    srcH,
    srcW,
    srcC4: vec4s(srcC),
    outH,
    outW,
    outC4: vec4s(outC),
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
    clsW,
    classes,
    classH,
    classW,
    pixels,
    images,
    weightStride: o.weightPerImage ? s.kernel[0] * s.kernel[1] * vec4s(srcC) * 4 * vec4s(outC) : 0,
    tiles,
    tilesK,
    items: (s.n / images) * classes * tiles * tilesK,
    flags,
    scalePixels: (b.scale?.n ?? 1) * perImage,
    livePixels: (b.live?.n ?? 1) * perImage,
    slope: o.slope ?? 0,
  };
}

/** Storage in the order of the bindings; a binding must name some buffer even where nothing reads it. */
export const gatherBuffers = (b: GatherBuffers): Storage[] => [
  b.src,
  b.weight,
  b.bias ?? b.weight,
  b.scale?.scale ?? b.src,
  b.scale?.biasScale ?? b.src,
  b.live?.mask ?? b.src,
  b.base ?? b.src,
  b.dst,
];

/**
 * WGSL that every backend starts with: bindings, `tile_of`, `pixel_of`, `source_row`, `source_column`, `live`, `store`.
 */
export const GATHER_PRELUDE = /* wgsl */ `
@group(0) @binding(1) var<storage, read> src: array<vec4f>;          // [N,srcH,srcW,srcC]
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;       // [kh,kw,srcC,outC], or [N,kh,kw,srcC,outC]
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;         // [outC]
@group(0) @binding(4) var<storage, read> scale: array<f32>;          // [N|1,outH,outW]
@group(0) @binding(5) var<storage, read> bias_scale: array<f32>;     // [N|1,outH,outW]
@group(0) @binding(6) var<storage, read> live_mask: array<f32>;      // [N|1,outH,outW]
@group(0) @binding(7) var<storage, read> base: array<vec4f>;         // [N,outH,outW,outC]
@group(0) @binding(8) var<storage, read_write> dst: array<vec4f>;    // [N,outH,outW,outC]

const NOWHERE = 0xffffffffu;

struct Tile {
  k: u32,         // tile over the channels
  first: u32,     // tile over the pixels of the group
  cls: vec2<i32>, // class of the output pixels: y mod stride, x mod stride
  image: u32,     // first image of the group
}

fn tile_of(id: u32) -> Tile {
  var rest = id;
  let k = rest % p.tilesK; rest /= p.tilesK;
  let first = rest % p.tiles; rest /= p.tiles;
  let cls = rest % p.classes;
  return Tile(k, first, vec2<i32>(i32(cls / p.clsW), i32(cls % p.clsW)), rest / p.classes * p.images);
}

struct Pixel {
  out: u32,            // index of the output pixel, or NOWHERE
  image: u32,          // first source pixel of its image
  source: vec2<i32>,   // source row and column, before the tap's offset
}

/** Pixel m of the tile's group. */
fn pixel_of(tile: Tile, m: u32) -> Pixel {
  let n = tile.image + m / (p.classH * p.classW);
  let at = m % (p.classH * p.classW);
  let yy = i32(at / p.classW);
  let xx = i32(at % p.classW);
  let y = yy * p.divH + tile.cls.x;
  let x = xx * p.divW + tile.cls.y;
  let inside = m < p.pixels && y < i32(p.outH) && x < i32(p.outW);
  let image = select(0u, n * p.srcH * p.srcW, inside);
  return Pixel(select(NOWHERE, (n * p.outH + u32(y)) * p.outW + u32(x), inside), image, vec2<i32>(yy * p.mulH, xx * p.mulW));
}

/** Offset of tap i (or j) in source rows (columns); the tap does not apply to the class unless it divides. */
fn row_offset(tile: Tile, i: u32) -> i32 { return tile.cls.x + p.offH + i32(i) * p.stepH; }
fn column_offset(tile: Tile, j: u32) -> i32 { return tile.cls.y + p.offW + i32(j) * p.stepW; }

fn in_image(at: vec2<i32>) -> bool { return u32(at.x) < p.srcH && u32(at.y) < p.srcW; }

/** First vec4 of a source pixel; of pixel 0 when it lies outside, so that the address is always good. */
fn address(pixel: Pixel, at: vec2<i32>) -> u32 {
  return (pixel.image + select(0u, u32(at.x) * p.srcW + u32(at.y), in_image(at))) * p.srcC4;
}

fn live(pixel: Pixel) -> bool {
  if (pixel.out == NOWHERE) { return false; }
  return (p.flags & ${FLAG.skipping}u) == 0u || live_mask[pixel.out % p.livePixels] != 0.0;
}

/** Finishes vec4 k of an output pixel. */
fn store(pixel: u32, k: u32, total: vec4f, computed: bool) {
  let at = pixel * p.outC4 + k;
  if (!computed && (p.flags & ${FLAG.based}u) != 0u) {
    dst[at] = base[at];
    return;
  }
  var value = total;
  if (computed && (p.flags & ${FLAG.accumulate}u) != 0u) { value += dst[at]; }
  var share = 1.0;
  if ((p.flags & ${FLAG.scaled}u) != 0u) {
    value *= scale[pixel % p.scalePixels];
    share = bias_scale[pixel % p.scalePixels];
  }
  if ((p.flags & ${FLAG.biased}u) != 0u) { value += bias[k] * share; }
  if ((p.flags & ${FLAG.activated}u) != 0u) {
    // Exact for both signs, and NaN stays NaN on every adapter (max and select turn it into 0 on some).
    let positive = 0.5 * (value + abs(value));
    value = positive + p.slope * (value - positive);
  }
  dst[at] = value;
}
`;
