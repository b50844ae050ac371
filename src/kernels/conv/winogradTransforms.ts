/**
 * The transforms of Winograd's convolution F(2x2, 3x3): a 3x3 convolution of stride 1 as 16 products of matrices, with 4
 * multiplications per output pixel and channel pair instead of 9. For tiles of 2x2 outputs and the 4x4 inputs under them:
 *
 *   y = A' [ (G w G') . (B' d B) ] A
 *
 *   B' = | 1  0 -1  0 |     G = |  1   0   0  |     A' = | 1  1  1  0 |
 *        | 0  1  1  0 |         | 1/2 1/2 1/2 |          | 0  1 -1 -1 |
 *        | 0 -1  1  0 |         | 1/2-1/2 1/2 |
 *        | 0  1  0 -1 |         |  0   0   1  |
 *
 * The products over channels run between them (`winograd.ts`). Their adjoints give the weight's gradient:
 *
 *   dw = G' [ sum over tiles of (B' d B) x (A dy A') ] G
 *
 * Source: Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", sec. 4.1; the adjoint is ours.
 * Layout: x, y, dy NHWC padded to 4; V (transformed x or dy) and M (products) [16,rows,tilesX,C], where `rows` are tile rows
 * (image, tile row) from `row0` on; U [16,C,K]; w [3,3,C,K].
 */
import { defineKernel } from "../../gpu/kernel.js";
import type { Gpu } from "../../gpu/gpu.js";
import { linearGrid, linearMain } from "../../gpu/linear.js";
import type { Storage } from "../../gpu/pool.js";
import { QUOTIENT } from "../quotient.js";
import { EPILOGUE } from "./gather.js";
import { range } from "./range.js";

/** One run of tile rows over an activation of n images of h x w pixels. */
export interface TileRows {
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
  c4: "u32",
  tilesY: "u32",
  tilesX: "u32",
  row0: "u32",
  rows: "u32",
} as const;

const tileParams = ({ h, w, c4, tilesY, tilesX, row0, rows }: TileRows) => ({ h, w, c4, tilesY, tilesX, row0, rows });

const R4 = range(4);

/** Where this invocation's tile lies: image n, tile (ty, tx) and vec4 c; `tile` counts within the run. */
const WHERE = /* wgsl */ `
  let tile = quotient(id, p.c4);
  let c = id - tile * p.c4;
  let row_in_run = quotient(tile, p.tilesX);
  let tx = tile - row_in_run * p.tilesX;
  let row = p.row0 + row_in_run;
  let n = quotient(row, p.tilesY);
  let ty = row - n * p.tilesY;
  let plane = p.rows * p.tilesX * p.c4;`;

/** WGSL statements: `out_i = row i of B' applied to in_0..in_3`. */
const applyB = (to: (i: number) => string, from: (i: number) => string): string =>
  [
    `${to(0)} = ${from(0)} - ${from(2)};`,
    `${to(1)} = ${from(1)} + ${from(2)};`,
    `${to(2)} = ${from(2)} - ${from(1)};`,
    `${to(3)} = ${from(1)} - ${from(3)};`,
  ].join(" ");

/**
 * What stands in a transformed tile that is not live: its transform, whatever was there (nobody reads it), or zeros (products with it are
 * added).
 */
const DEAD_TILES = { computed: 0, left: 1, zero: 2 } as const;
type DeadTiles = Exclude<keyof typeof DEAD_TILES, "computed">;

const deadTiles = (live: Storage | undefined, dead: DeadTiles) => ({ dead: DEAD_TILES[live ? dead : "computed"] });

const SKIP_DEAD = /* wgsl */ `if (p.dead != ${DEAD_TILES.computed}u && live_tile[tile] == 0.0) {
    if (p.dead == ${DEAD_TILES.zero}u) { ${range(16)
      .map((t) => `v[${t}u * plane + id] = vec4f();`)
      .join(" ")} }
    return;
  }`;

export const winogradInputKernel = defineKernel({
  name: "winogradInput",
  params: { ...TILE_PARAMS, padH: "i32", padW: "i32", dead: "u32" },
  bindings: ["read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;                // [N,H,W,C]
@group(0) @binding(2) var<storage, read> live_tile: array<f32>;          // [rows,tilesX]
@group(0) @binding(3) var<storage, read_write> v: array<vec4f>;          // [16,rows,tilesX,C]
${QUOTIENT}${linearMain(
    "p.rows * p.tilesX * p.c4",
    `${WHERE}
  ${SKIP_DEAD}
  let y0 = i32(2u * ty) - p.padH;
  let x0 = i32(2u * tx) - p.padW;
  ${R4.map((j) => {
    const column = `x0 + ${j}`;
    const loads = R4.map((i) => `let d_${i}_${j} = source(n, y0 + ${i}, ${column}, c);`).join(" ");
    return `${loads}
  ${applyB(
    (i) => `let t_${i}_${j}`,
    (i) => `d_${i}_${j}`,
  )}`;
  }).join("\n  ")}
  ${R4.map((i) =>
    applyB(
      (j) => `v[${4 * i + j}u * plane + id]`,
      (j) => `t_${i}_${j}`,
    ),
  ).join("\n  ")}`,
  )}
fn source(n: u32, y: i32, column: i32, c: u32) -> vec4f {
  let inside = u32(y) < p.h && u32(column) < p.w;
  let at = select(0u, (n * p.h + u32(y)) * p.w + u32(column), inside);
  return select(vec4f(), x[at * p.c4 + c], inside);
}
`,
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
  const params = { ...tileParams(s), padH: padding[0], padW: padding[1], ...deadTiles(b.live, dead) };
  gpu.dispatch(winogradInputKernel, undefined, params, [b.x, b.live ?? b.x, b.v], linearGrid(s.rows * s.tilesX * s.c4));
}

export const winogradOutputKernel = defineKernel({
  name: "winogradOutput",
  params: { ...TILE_PARAMS, skipping: "u32", outC4: "u32", flags: "u32", scalePixels: "u32", slope: "f32" },
  bindings: ["read", "read", "read", "read", "read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> m: array<vec4f>;                // [16,rows,tilesX,K]
@group(0) @binding(2) var<storage, read> live_tile: array<f32>;          // [rows,tilesX]
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;             // [K], or [2,K]: bias, gain
@group(0) @binding(4) var<storage, read> scale: array<f32>;              // [N|1,P,Q]
@group(0) @binding(5) var<storage, read> bias_scale: array<f32>;         // [N|1,P,Q]
@group(0) @binding(6) var<storage, read> base: array<vec4f>;             // [N,P,Q,K]
@group(0) @binding(7) var<storage, read_write> dst: array<vec4f>;        // [N,P,Q,K]
${EPILOGUE}
${QUOTIENT}
${linearMain(
  "p.rows * p.tilesX * p.c4",
  `${WHERE}
  let computed = p.skipping == 0u || live_tile[tile] != 0.0;
  ${R4.map((i) => `var s_${i}_0 = vec4f(); var s_${i}_1 = vec4f();`).join(" ")}
  if (computed) {
    ${R4.map((i) => {
      const m = (j: number) => `m[${4 * i + j}u * plane + id]`;
      return `{ let a = ${m(0)}; let b = ${m(1)}; let e = ${m(2)}; let f = ${m(3)}; s_${i}_0 = a + b + e; s_${i}_1 = b - e - f; }`;
    }).join("\n    ")}
  }
  let channel = channel_of(c);
  ${[0, 1]
    .map(
      (j) => `finish(n, 2u * ty, 2u * tx + ${j}u, c, s_0_${j} + s_1_${j} + s_2_${j}, computed, channel);
  finish(n, 2u * ty + 1u, 2u * tx + ${j}u, c, s_1_${j} - s_2_${j} - s_3_${j}, computed, channel);`,
    )
    .join("\n  ")}`,
)}
fn finish(n: u32, y: u32, x: u32, k: u32, total: vec4f, computed: bool, channel: Channel) {
  if (y >= p.h || x >= p.w) { return; }
  let pixel = (n * p.h + y) * p.w + x;
  store_with(pixel, k, total, computed, share_of(pixel), channel);
}
`,
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
  const params = { ...tileParams(s), skipping: Number(b.live !== undefined), outC4: s.c4, flags, scalePixels, slope };
  const buffers = [b.m, b.live ?? b.m, b.bias, b.scale, b.biasScale, b.base, b.dst];
  gpu.dispatch(winogradOutputKernel, undefined, params, buffers, linearGrid(s.rows * s.tilesX * s.c4));
}

export const winogradGradientKernel = defineKernel({
  name: "winogradGradient",
  params: { ...TILE_PARAMS, dead: "u32" },
  bindings: ["read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;               // [N,P,Q,K]
@group(0) @binding(2) var<storage, read> live_tile: array<f32>;          // [rows,tilesX]
@group(0) @binding(3) var<storage, read_write> v: array<vec4f>;          // [16,rows,tilesX,K]
${QUOTIENT}${linearMain(
    "p.rows * p.tilesX * p.c4",
    `${WHERE}
  ${SKIP_DEAD}
  ${[0, 1].map((i) => [0, 1].map((j) => `let d_${i}_${j} = gradient(n, 2u * ty + ${i}u, 2u * tx + ${j}u, c);`).join(" ")).join("\n  ")}
  ${[0, 1].map((j) => `let t_0_${j} = d_0_${j}; let t_1_${j} = d_0_${j} + d_1_${j}; let t_2_${j} = d_0_${j} - d_1_${j}; let t_3_${j} = -d_1_${j};`).join("\n  ")}
  ${R4.map((i) => {
    const to = (j: number) => `v[${4 * i + j}u * plane + id]`;
    return `${to(0)} = t_${i}_0; ${to(1)} = t_${i}_0 + t_${i}_1; ${to(2)} = t_${i}_0 - t_${i}_1; ${to(3)} = -t_${i}_1;`;
  }).join("\n  ")}`,
  )}
fn gradient(n: u32, y: u32, x: u32, c: u32) -> vec4f {
  let inside = y < p.h && x < p.w;
  return select(vec4f(), dy[select(0u, (n * p.h + y) * p.w + x, inside) * p.c4 + c], inside);
}
`,
});

/** Records A dy A' of a run of tiles; sizes are dy's. */
export function winogradGradient(
  gpu: Gpu,
  s: TileRows,
  b: { readonly dy: Storage; readonly v: Storage } & LiveTiles,
  dead: DeadTiles,
): void {
  const params = { ...tileParams(s), ...deadTiles(b.live, dead) };
  gpu.dispatch(
    winogradGradientKernel,
    undefined,
    params,
    [b.dy, b.live ?? b.dy, b.v],
    linearGrid(s.rows * s.tilesX * s.c4),
  );
}

export const winogradLiveKernel = defineKernel({
  name: "winogradLive",
  params: { ...TILE_PARAMS, livePixels: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> live: array<f32>;               // [N|1,H,W]
@group(0) @binding(2) var<storage, read_write> live_tile: array<f32>;    // [rows,tilesX]
${linearMain(
  "p.rows * p.tilesX",
  `  let tx = id % p.tilesX;
  let row = p.row0 + id / p.tilesX;
  let ty = row % p.tilesY;
  let n = row / p.tilesY;
  var any = false;
  for (var y = 2u * ty; y < min(2u * ty + 2u, p.h); y++) {
    for (var x = 2u * tx; x < min(2u * tx + 2u, p.w); x++) {
      any = any || live[((n * p.h + y) * p.w + x) % p.livePixels] != 0.0;
    }
  }
  live_tile[id] = select(0.0, 1.0, any);`,
)}
`,
});

/** Records which tiles of a run have a live pixel; `liveN` is the batch of `live` (n or 1). */
export function winogradLive(
  gpu: Gpu,
  s: TileRows,
  liveN: number,
  b: { readonly live: Storage; readonly liveTile: Storage },
): void {
  const params = { ...tileParams(s), livePixels: liveN * s.h * s.w };
  gpu.dispatch(winogradLiveKernel, undefined, params, [b.live, b.liveTile], linearGrid(s.rows * s.tilesX));
}

export const winogradWeightKernel = defineKernel({
  name: "winogradWeight",
  params: { rows: "u32", k4: "u32", turned: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> w: array<vec4f>;                // [3,3,C,K]
@group(0) @binding(2) var<storage, read_write> u: array<vec4f>;          // [16,C,K]
${linearMain(
  "p.rows * p.k4",
  `  let plane = p.rows * p.k4;
  ${range(9)
    .map((t) => `let w_${t} = w[select(${t}u, ${8 - t}u, p.turned != 0u) * plane + id];`)
    .join(" ")}
  ${range(3)
    .map(
      (j) =>
        `let t_0_${j} = w_${j}; let t_1_${j} = 0.5 * (w_${j} + w_${3 + j} + w_${6 + j}); let t_2_${j} = 0.5 * (w_${j} - w_${3 + j} + w_${6 + j}); let t_3_${j} = w_${6 + j};`,
    )
    .join("\n  ")}
  ${R4.map((i) => {
    const to = (j: number) => `u[${4 * i + j}u * plane + id]`;
    const [a, b, c] = [0, 1, 2].map((j) => `t_${i}_${j}`);
    return `${to(0)} = ${a}; ${to(1)} = 0.5 * (${a} + ${b} + ${c}); ${to(2)} = 0.5 * (${a} - ${b} + ${c}); ${to(3)} = ${c};`;
  }).join("\n  ")}`,
)}
`,
});

/** Records U = G w G'; `turned` by 180 degrees for the input gradient. `rows` are input channels with padding. */
export function winogradWeight(
  gpu: Gpu,
  s: { readonly rows: number; readonly k4: number; readonly turned: boolean },
  b: { readonly w: Storage; readonly u: Storage },
): void {
  const params = { rows: s.rows, k4: s.k4, turned: Number(s.turned) };
  gpu.dispatch(winogradWeightKernel, undefined, params, [b.w, b.u], linearGrid(s.rows * s.k4));
}

export const winogradWeightBackwardKernel = defineKernel({
  name: "winogradWeightBackward",
  params: { rows: "u32", k4: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> du: array<vec4f>;               // [16,C,K]
@group(0) @binding(2) var<storage, read_write> dw: array<vec4f>;         // [3,3,C,K]
${linearMain(
  "p.rows * p.k4",
  `  let plane = p.rows * p.k4;
  ${range(16)
    .map((t) => `let u_${t} = du[${t}u * plane + id];`)
    .join(" ")}
  ${R4.map((j) => `let t_0_${j} = u_${j} + 0.5 * (u_${4 + j} + u_${8 + j}); let t_1_${j} = 0.5 * (u_${4 + j} - u_${8 + j}); let t_2_${j} = 0.5 * (u_${4 + j} + u_${8 + j}) + u_${12 + j};`).join("\n  ")}
  ${range(3)
    .map((i) => {
      const to = (j: number) => `dw[${3 * i + j}u * plane + id]`;
      const [a, b, c, d] = R4.map((j) => `t_${i}_${j}`);
      return `${to(0)} = ${a} + 0.5 * (${b} + ${c}); ${to(1)} = 0.5 * (${b} - ${c}); ${to(2)} = 0.5 * (${b} + ${c}) + ${d};`;
    })
    .join("\n  ")}`,
)}
`,
});

/** Records dw = G' dU G. */
export function winogradWeightBackward(
  gpu: Gpu,
  s: { readonly rows: number; readonly k4: number },
  b: { readonly du: Storage; readonly dw: Storage },
): void {
  gpu.dispatch(winogradWeightBackwardKernel, undefined, { ...s }, [b.du, b.dw], linearGrid(s.rows * s.k4));
}

/** The three matrices, for the references. */
export const WINOGRAD = {
  Bt: [
    [1, 0, -1, 0],
    [0, 1, 1, 0],
    [0, -1, 1, 0],
    [0, 1, 0, -1],
  ],
  G: [
    [1, 0, 0],
    [0.5, 0.5, 0.5],
    [0.5, -0.5, 0.5],
    [0, 0, 1],
  ],
  At: [
    [1, 1, 1, 0],
    [0, 1, -1, -1],
  ],
} as const;

/** L X L' in float64: a transform of one tile by L ([r][s], X is s x s), or by its transpose. */
export function winogradRef(
  l: readonly (readonly number[])[],
  tile: readonly (readonly number[])[],
  transposed = false,
): number[][] {
  const m = transposed ? l[0].map((_, j) => l.map((row) => row[j])) : l;
  const left = m.map((row) => tile[0].map((_, j) => row.reduce((sum, v, s) => sum + v * tile[s][j], 0)));
  return left.map((row) => m.map((right) => right.reduce((sum, v, s) => sum + v * row[s], 0)));
}
