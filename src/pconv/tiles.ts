/** Where the overlapping tiles of a large picture lie, and how much each counts at each pixel. No GPU in here. */
import type { MaskPicture } from "./picture.js";

/** Tiles along one axis: each `size` pixels long, from `starts[i]`; `weights[i]` are the shares of tile i's pixels. */
export interface TileAxis {
  readonly size: number;
  readonly starts: readonly number[];
  /** Of each tile, `size` shares in 0..1. At every pixel of the picture the shares of all tiles there add up to 1. */
  readonly weights: readonly Float32Array[];
}

/** A tile: its place in the picture and in the two axes. */
export interface Tile {
  readonly x: number;
  readonly y: number;
  readonly column: number;
  readonly row: number;
}

export interface TilePlan {
  readonly columns: TileAxis;
  readonly rows: TileAxis;
  /** Pixels at a tile's inner edges that count nothing: the network has seen too little around them. */
  readonly rim: number;
}

/** Of a tile's side, how much two neighbours overlap at least. */
const OVERLAP = 1 / 4;
/** Of the overlap, how much at each end counts nothing. */
const RIM = 1 / 4;

/**
 * Tiles over a picture: at least a quarter of a tile overlaps with each neighbour, the outer quarter of the overlap counts
 * nothing, and over the middle a cosine ramp goes from one tile to the next. A side that is no longer than a tile is one tile.
 *
 * @param tile side of a tile in pixels
 */
export function planTiles(width: number, height: number, tile: number): TilePlan {
  const overlap = Math.ceil(tile * OVERLAP);
  const rim = Math.floor(overlap * RIM);
  return { columns: planAxis(width, tile, overlap, rim), rows: planAxis(height, tile, overlap, rim), rim };
}

function planAxis(length: number, tile: number, overlap: number, rim: number): TileAxis {
  if (length <= tile) return { size: length, starts: [0], weights: [new Float32Array(length).fill(1)] };
  const count = Math.ceil((length - overlap) / (tile - overlap));
  // Spread evenly: no tile has to be smaller than the others, and all overlaps are about the same.
  const starts = Array.from({ length: count }, (_, i) => Math.round((i * (length - tile)) / (count - 1)));
  const ramp = (fromEdge: number): number => {
    const t = (fromEdge + 0.5 - rim) / (overlap - 2 * rim);
    return (1 - Math.cos(Math.PI * Math.min(1, Math.max(0, t)))) / 2;
  };
  const weights = starts.map((_, i) =>
    Float32Array.from({ length: tile }, (_, k) => (i === 0 ? 1 : ramp(k)) * (i === count - 1 ? 1 : ramp(tile - 1 - k))),
  );
  // Where overlaps are longer than the ramps, or three tiles meet, the shares are more than the whole.
  const sums = new Float32Array(length);
  starts.forEach((start, i) => weights[i].forEach((w, k) => (sums[start + k] += w)));
  starts.forEach((start, i) => weights[i].forEach((w, k) => (weights[i][k] = w / sums[start + k])));
  return { size: tile, starts, weights };
}

/** All tiles, or with a mask those that have a share in one of its holes; row by row. */
export function listTiles(plan: TilePlan, mask?: MaskPicture): Tile[] {
  const tiles: Tile[] = [];
  plan.rows.starts.forEach((y, row) => {
    plan.columns.starts.forEach((x, column) => {
      const tile = { x, y, column, row };
      if (!mask || drawsHole(plan, tile, mask)) tiles.push(tile);
    });
  });
  return tiles;
}

function drawsHole({ columns, rows }: TilePlan, tile: Tile, mask: MaskPicture): boolean {
  const across = columns.weights[tile.column];
  return rows.weights[tile.row].some((down, j) => {
    if (down === 0) return false;
    const line = (tile.y + j) * mask.width + tile.x;
    for (let i = 0; i < across.length; i++) if (across[i] > 0 && mask.values[line + i] === 0) return true;
    return false;
  });
}

/** Whether a pixel of a tile, counted from its corner, is in its rim: near an edge beyond which the picture goes on. */
export function inRim({ columns, rows, rim }: TilePlan, tile: Tile, i: number, j: number): boolean {
  const near = (axis: TileAxis, index: number, k: number): boolean =>
    (k < rim && index > 0) || (k >= axis.size - rim && index < axis.starts.length - 1);
  return near(columns, tile.column, i) || near(rows, tile.row, j);
}
