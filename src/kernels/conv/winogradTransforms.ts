/**
 * What stands around Winograd's products (`winograd.ts`) on the activations' side, on tiles of all images: B' d B of what a convolution
 * reads, its epilogue of A' M A, and A dy A' for the weight's gradient (`winogradWeights.ts`).
 *
 * An invocation has one channel, or two for the output, not four: the text, unrolled over a whole tile, compiles in a quarter of the time on
 * lavapipe (F(4x4)'s output with four took 11 s) and runs as fast or faster, and a GPU needs fewer registers.
 *
 * Source: Lavin & Gray 2016, sec. 4.1; the adjoint is ours.
 * Layout: x, y, dy NHWC padded to 4; V (transformed x or dy) and M (products) [side^2,rows,tilesX,C], where `rows` are tile rows
 * (image, tile row) from `row0` on.
 */
import { defineKernel } from "../../gpu/kernel.js";
import type { Gpu } from "../../gpu/gpu.js";
import { linearGrid, linearMain } from "../../gpu/linear.js";
import type { Storage } from "../../gpu/pool.js";
import type { PixelMask } from "../slabs.js";
import { epilogue, FLAG } from "./epilogue.js";
import { type GatherBuffers } from "./gather.js";
import { range } from "./range.js";
import { linearMap, transposed, unrolled, type WinogradSpec, type WinogradTile } from "./winogradForms.js";

/** One run of tile rows over an activation of n images of h x w pixels. */
export interface TileRows {
  /** Side of a tile of outputs. */
  readonly tile: WinogradTile;
  readonly n: number;
  readonly h: number;
  readonly w: number;
  readonly c4: number;
  /** Tile rows of an image, tiles of a row. */
  readonly tilesY: number;
  readonly tilesX: number;
  /** First tile row of this run, counted over all images, and their number. */
  readonly row0: number;
  readonly rows: number;
}

const TILE_PARAMS = {
  h: "u32",
  w: "u32",
  /** Values of a pixel: channels, or pairs of them. */
  values: "u32",
  tilesY: "u32",
  tilesX: "u32",
  row0: "u32",
  rows: "u32",
} as const;

const tileParams = ({ h, w, tilesY, tilesX, row0, rows }: TileRows, values: number) => {
  return { h, w, values, tilesY, tilesX, row0, rows };
};

/** Where this invocation's tile lies: image n, tile (ty, tx) and value c; `tile` counts within the run. */
const WHERE = /* wgsl */ `
  let tile = id / p.values;
  let c = id - tile * p.values;
  let row_in_run = tile / p.tilesX;
  let tx = tile - row_in_run * p.tilesX;
  let row = p.row0 + row_in_run;
  let n = row / p.tilesY;
  let ty = row - n * p.tilesY;
  let plane = p.rows * p.tilesX * p.values;`;

/**
 * What stands in a transformed tile that is not live: its transform, whatever was there (nobody reads it), or zeros (products with it are
 * added).
 */
const DEAD_TILES = { computed: 0, left: 1, zero: 2 } as const;
type DeadTiles = Exclude<keyof typeof DEAD_TILES, "computed">;

const deadTiles = (live: Storage | undefined, dead: DeadTiles) => ({ dead: DEAD_TILES[live ? dead : "computed"] });

/**
 * What `winogradLive` says of the scales of a tile's pixels, after whether one of these is live (1, else 0). Where it knows them they need
 * not be read: all of them are 1, or there are none; or those of the bias are 0 where the sum is too, so that its scale does not matter.
 */
const SCALES = { unknown: "0.0", ones: "1.0", zeros: "2.0" } as const;

const skipDead = (side: number) => /* wgsl */ `if (p.dead != ${DEAD_TILES.computed}u && live_tile[tile] == 0.0) {
    if (p.dead == ${DEAD_TILES.zero}u) { ${range(side * side)
      .map((t) => `v[${t}u * plane + id] = 0.0;`)
      .join(" ")} }
    return;
  }`;

export const winogradInputKernel = defineKernel({
  name: "winogradInput",
  params: { ...TILE_PARAMS, padH: "i32", padW: "i32", dead: "u32" },
  bindings: ["read", "read", "read_write"],
  wgsl: (spec: WinogradSpec) => {
    const { tile, side, sides, Bt } = unrolled(spec);
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<f32>;                  // [N,H,W,C]
@group(0) @binding(2) var<storage, read> live_tile: array<f32>;          // [rows,tilesX]
@group(0) @binding(3) var<storage, read_write> v: array<f32>;            // [side^2,rows,tilesX,C]
${linearMain(
  "p.rows * p.tilesX * p.values",
  `${WHERE}
  ${skipDead(side)}
  let y0 = i32(${tile}u * ty) - p.padH;
  let x0 = i32(${tile}u * tx) - p.padW;
  ${sides
    .map((j) => {
      const loads = sides.map((i) => `let d_${i}_${j} = source(n, y0 + ${i}, x0 + ${j}, c);`).join(" ");
      const to = (i: number) => `let t_${i}_${j}`;
      return `${loads}
  ${linearMap(Bt, to, (i) => `d_${i}_${j}`, `column_${j}_`)}`;
    })
    .join("\n  ")}
  ${sides
    .map((i) => {
      const to = (j: number) => `v[${side * i + j}u * plane + id]`;
      return linearMap(Bt, to, (j) => `t_${i}_${j}`, `row_${i}_`);
    })
    .join("\n  ")}`,
)}
fn source(n: u32, y: i32, column: i32, c: u32) -> f32 {
  let inside = u32(y) < p.h && u32(column) < p.w;
  let at = select(0u, (n * p.h + u32(y)) * p.w + u32(column), inside);
  return select(0.0, x[at * p.values + c], inside);
}
`;
  },
});

export interface LiveTiles {
  readonly live?: Storage | undefined;
}

/** Records V = B' d B of a run of tiles; `padding` is the convolution's. */
export function winogradInput(
  gpu: Gpu,
  s: TileRows,
  padding: readonly [number, number],
  b: { readonly x: Storage; readonly v: Storage } & LiveTiles,
  dead: DeadTiles,
): void {
  const params = { ...tileParams(s, 4 * s.c4), padH: padding[0], padW: padding[1], ...deadTiles(b.live, dead) };
  const grid = linearGrid(s.rows * s.tilesX * params.values);
  gpu.dispatch(winogradInputKernel, { tile: s.tile }, params, [b.x, b.live ?? b.x, b.v], grid);
}

export const winogradOutputKernel = defineKernel({
  name: "winogradOutput",
  params: { ...TILE_PARAMS, skipping: "u32", outC4: "u32", flags: "u32", scalePixels: "u32", slope: "f32" },
  bindings: ["read", "read", "read", "read", "read", "read", "read_write"],
  wgsl: (spec: WinogradSpec) => {
    const { tile, side, tiles, sides, At } = unrolled(spec);
    const matrix = At.map((row) => `array<f32, ${side}>(${row.map(Math.fround).join(", ")})`).join(", ");
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> m: array<vec2f>;                // [side^2,rows,tilesX,K]
@group(0) @binding(2) var<storage, read> live_tile: array<f32>;          // [2,rows,tilesX]: live, scales
@group(0) @binding(3) var<storage, read> bias: array<vec2f>;             // [K], or [2,K]: bias, gain
@group(0) @binding(4) var<storage, read> scale: array<f32>;              // [N|1,P,Q]
@group(0) @binding(5) var<storage, read> bias_scale: array<f32>;         // [N|1,P,Q]
@group(0) @binding(6) var<storage, read> base: array<vec2f>;             // [N,P,Q,K]
@group(0) @binding(7) var<storage, read_write> dst: array<vec2f>;        // [N,P,Q,K]
const A_T = array<array<f32, ${side}>, ${tile}>(${matrix});
${epilogue("vec2f")}
${linearMain(
  "p.rows * p.tilesX * p.values",
  `${WHERE}
  var computed = true;
  var scales = select(${SCALES.ones}, ${SCALES.unknown}, (p.flags & ${FLAG.scaled}u) != 0u);
  if (p.skipping != 0u) {
    computed = live_tile[tile] != 0.0;
    scales = live_tile[p.rows * p.tilesX + tile];
  }
  let channel = channel_of(c);
  if (computed) {
    ${sides.map((j) => tiles.map((i) => `var t_${i}_${j} = vec2f();`).join(" ")).join(" ")}
    ${sides
      .map((j) => {
        const loads = sides.map((i) => `let m_${i} = m[${side * i + j}u * plane + id];`).join(" ");
        const to = (i: number) => `t_${i}_${j}`;
        return `{ ${loads} ${linearMap(At, to, (i) => `m_${i}`, "column_")} }`;
      })
      .join("\n    ")}
    // A loop over the columns: unrolled, the epilogue would be most of the text.
    var j = 0u;
    loop {
      let a = A_T[j];
      ${tiles
        .map((i) => {
          const sum = sides.map((l) => `a[${l}] * t_${i}_${l}`).join(" + ");
          return `finish(n, ${tile}u * ty + ${i}u, ${tile}u * tx + j, c, ${sum}, true, scales, channel);`;
        })
        .join("\n      ")}
      continuing { j++; break if j == ${tile}u; }
    }
  } else {
    // In one loop: one in the other compiles for seconds on lavapipe.
    var t = 0u;
    loop {
      finish(n, ${tile}u * ty + t / ${tile}u, ${tile}u * tx + t % ${tile}u, c, vec2f(), false, scales, channel);
      continuing { t++; break if t == ${tile * tile}u; }
    }
  }`,
)}
fn finish(n: u32, y: u32, x: u32, k: u32, total: vec2f, computed: bool, scales: f32, channel: Channel) {
  if (y >= p.h || x >= p.w) { return; }
  let pixel = (n * p.h + y) * p.w + x;
  var share = select(vec2f(), vec2f(1.0), scales == ${SCALES.ones});
  if (scales == ${SCALES.unknown}) { share = share_of(pixel); }
  if (computed) { store_live(pixel, k, total, share, channel); } else { store_dead(pixel, k, share, channel); }
}
`;
  },
});

/** Storage and switches of the epilogue, as `gatherParams` and `gatherBuffers` give them. */
export interface WinogradEpilogue {
  readonly flags: number;
  readonly scalePixels: number;
  readonly slope: number;
  readonly bias: Storage;
  readonly scale: Storage;
  readonly biasScale: Storage;
  readonly base: Storage;
}

/** Records y = epilogue(A' M A) of a run of tiles; sizes are the output's. */
export function winogradOutput(
  gpu: Gpu,
  s: TileRows,
  b: { readonly m: Storage; readonly dst: Storage } & LiveTiles & WinogradEpilogue,
): void {
  const { flags, scalePixels, slope } = b;
  const skipping = Number(b.live !== undefined);
  const params = { ...tileParams(s, 2 * s.c4), skipping, outC4: s.c4, flags, scalePixels, slope };
  const buffers = [b.m, b.live ?? b.m, b.bias, b.scale, b.biasScale, b.base, b.dst];
  const grid = linearGrid(s.rows * s.tilesX * params.values);
  gpu.dispatch(winogradOutputKernel, { tile: s.tile }, params, buffers, grid);
}

export const winogradGradientKernel = defineKernel({
  name: "winogradGradient",
  params: { ...TILE_PARAMS, dead: "u32" },
  bindings: ["read", "read", "read_write"],
  wgsl: (spec: WinogradSpec) => {
    const { tile, side, tiles, sides, At } = unrolled(spec);
    const A = transposed(At);
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> dy: array<f32>;                 // [N,P,Q,K]
@group(0) @binding(2) var<storage, read> live_tile: array<f32>;          // [rows,tilesX]
@group(0) @binding(3) var<storage, read_write> v: array<f32>;            // [side^2,rows,tilesX,K]
${linearMain(
  "p.rows * p.tilesX * p.values",
  `${WHERE}
  ${skipDead(side)}
  ${tiles
    .map((j) => {
      const loads = tiles.map((i) => `let d_${i}_${j} = gradient(n, ${tile}u * ty + ${i}u, ${tile}u * tx + ${j}u, c);`);
      return `${loads.join(" ")}
  ${linearMap(
    A,
    (i) => `let t_${i}_${j}`,
    (i) => `d_${i}_${j}`,
    `column_${j}_`,
  )}`;
    })
    .join("\n  ")}
  ${sides
    .map((i) =>
      linearMap(
        A,
        (j) => `v[${side * i + j}u * plane + id]`,
        (j) => `t_${i}_${j}`,
        `row_${i}_`,
      ),
    )
    .join("\n  ")}`,
)}
fn gradient(n: u32, y: u32, x: u32, c: u32) -> f32 {
  let inside = y < p.h && x < p.w;
  return select(0.0, dy[select(0u, (n * p.h + y) * p.w + x, inside) * p.values + c], inside);
}
`;
  },
});

/** Records A dy A' of a run of tiles; sizes are dy's. */
export function winogradGradient(
  gpu: Gpu,
  s: TileRows,
  b: { readonly dy: Storage; readonly v: Storage } & LiveTiles,
  dead: DeadTiles,
): void {
  const params = { ...tileParams(s, 4 * s.c4), ...deadTiles(b.live, dead) };
  const grid = linearGrid(s.rows * s.tilesX * params.values);
  gpu.dispatch(winogradGradientKernel, { tile: s.tile }, params, [b.dy, b.live ?? b.dy, b.v], grid);
}

export const winogradLiveKernel = defineKernel({
  name: "winogradLive",
  params: { ...TILE_PARAMS, tile: "u32", livePixels: "u32", scaled: "u32", scalePixels: "u32" },
  bindings: ["read", "read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> live: array<f32>;               // [N|1,H,W]
@group(0) @binding(2) var<storage, read> scale: array<f32>;              // [N|1,H,W]
@group(0) @binding(3) var<storage, read> bias_scale: array<f32>;         // [N|1,H,W]
@group(0) @binding(4) var<storage, read_write> live_tile: array<f32>;    // [2,rows,tilesX]: live, scales
${linearMain(
  "p.rows * p.tilesX",
  `  let row_in_run = id / p.tilesX;
  let tx = id - row_in_run * p.tilesX;
  let row = p.row0 + row_in_run;
  let n = row / p.tilesY;
  let ty = row - n * p.tilesY;
  // Masks of one image are for all.
  let live_image = select(0u, n * p.h * p.w, p.livePixels > p.h * p.w);
  let scale_image = select(0u, n * p.h * p.w, p.scalePixels > p.h * p.w);
  var any = false;
  var ones = true;
  var zeros = p.scaled != 0u;
  // One loop with its condition at the end: adapters that run lanes under a mask go through others once more.
  let end_x = min(p.tile * tx + p.tile, p.w);
  let end_y = min(p.tile * ty + p.tile, p.h);
  var y = p.tile * ty;
  var x = p.tile * tx;
  loop {
    let at = y * p.w + x;
    any = any || live[live_image + at] != 0.0;
    if (p.scaled != 0u) {
      let of_bias = bias_scale[scale_image + at];
      ones = ones && scale[scale_image + at] == 1.0 && of_bias == 1.0;
      zeros = zeros && of_bias == 0.0;
    }
    continuing {
      x++;
      if (x == end_x) { x = p.tile * tx; y++; }
      break if y == end_y;
    }
  }
  live_tile[id] = f32(any);
  let known = select(${SCALES.unknown}, ${SCALES.ones}, ones);
  live_tile[p.rows * p.tilesX + id] = select(known, ${SCALES.zeros}, zeros && !any);`,
)}
`,
});

/** Records which tiles of a run have a live pixel, and what is known of the scales in each: [2,rows,tilesX]. */
export function winogradLive(
  gpu: Gpu,
  s: TileRows,
  b: { readonly live: PixelMask; readonly scale?: GatherBuffers["scale"]; readonly liveTile: Storage },
): void {
  const { live, scale, liveTile } = b;
  const scaled = { scaled: Number(scale !== undefined), scalePixels: (scale?.n ?? 1) * s.h * s.w };
  const params = { ...tileParams(s, 1), tile: s.tile, livePixels: live.n * s.h * s.w, ...scaled };
  const buffers = [live.mask, scale?.scale ?? live.mask, scale?.biasScale ?? live.mask, liveTile];
  gpu.dispatch(winogradLiveKernel, undefined, params, buffers, linearGrid(s.rows * s.tilesX));
}
