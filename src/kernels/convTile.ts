/**
 * The tile that forward and input gradient share: both gather, per output pixel and tap, one source pixel times one weight
 * matrix, and differ only in which source pixel a tap reads.
 *
 *   forward:         source = output * stride + tap * dilation - padding
 *   input gradient:  source = (output + padding - tap * dilation) / stride   where that divides, else nothing
 *
 * One invocation computes `pixels` outputs in a row times `channels4` vec4s of output channels in registers. Pixels of a tile
 * are `stride` apart in the input gradient (one parity class), so that every tap reads consecutive source pixels there too.
 * Neighbouring invocations take neighbouring output channels: their weight reads are contiguous, their source reads shared.
 */
import { linearMain } from "../gpu/linear.js";

/** `simple`: one pixel, one vec4 of channels, no tile; the variant that the fast ones are checked against. */
export type ConvVariant = "simple" | "tile";

export interface TileSpec {
  readonly pixels: number;
  readonly channels4: number;
}

/**
 * Tile of a variant; `out4` is the number of output vec4s. Eight vec4s of sums per invocation: twice as many (8 x 2, 16 x 1)
 * take 1.4 to 2 times as long on a software adapter, because they spill.
 */
export function tileOf(variant: ConvVariant, out4: number): TileSpec {
  return variant === "simple"
    ? { pixels: 1, channels4: 1 }
    : out4 > 1
      ? { pixels: 4, channels4: 2 }
      : { pixels: 8, channels4: 1 };
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** How the two passes differ, as WGSL fragments. */
export interface TilePass {
  /** Names of the uniform fields: source height, width and vec4s; output height, width and vec4s. */
  readonly source: readonly [h: string, w: string, c4: string];
  readonly output: readonly [h: string, w: string, c4: string];
  readonly direction: "forward" | "backwardInput";
}

/**
 * WGSL of `main` and of the tile loop. The caller has declared `src` and `weight` (arrays of vec4f) and
 * `fn store(n: u32, y: u32, x: u32, k: u32, sum: vec4f)`, which writes vec4 `k` of output pixel (n, y, x).
 */
export function tileMain({ pixels, channels4 }: TileSpec, pass: TilePass): string {
  const [srcH, srcW, srcC] = pass.source.map((f) => `p.${f}`);
  const [outH, outW, outC] = pass.output.map((f) => `p.${f}`);
  const forward = pass.direction === "forward";
  const T = range(pixels);
  const U = range(channels4);
  const L = range(4);
  // Output columns of a tile: consecutive (forward) or strideW apart within one parity class (input gradient).
  const classes = forward ? "1u" : "u32(p.strideW)";
  return /* wgsl */ `
${linearMain(
  "p.items",
  `  let classes = ${classes};
  var rest = id;
  let k0 = (rest % p.tilesK) * ${channels4}u; rest /= p.tilesK;
  let tile = rest % p.tiles; rest /= p.tiles;
  let cls = rest % classes; rest /= classes;
  let oy = rest % ${outH};
  let n = rest / ${outH};
  let ox0 = tile * ${pixels}u * classes + cls;
  ${U.map((u) => `let k_${u} = min(k0 + ${u}u, ${outC} - 1u);`).join(" ")}
  ${T.flatMap((t) => U.map((u) => `var a_${t}_${u} = vec4f();`)).join(" ")}
  for (var i = 0u; i < p.kh; i++) {
    ${
      forward
        ? `let sy = i32(oy) * p.strideH + i32(i) * p.dilH - p.padH;
    if (sy < 0 || sy >= i32(${srcH})) { continue; }`
        : `let num_y = i32(oy) + p.padH - i32(i) * p.dilH;
    if (num_y < 0 || num_y % p.strideH != 0) { continue; }
    let sy = num_y / p.strideH;
    if (sy >= i32(${srcH})) { continue; }`
    }
    let row = (n * ${srcH} + u32(sy)) * ${srcW};
    for (var j = 0u; j < p.kw; j++) {
      ${
        forward
          ? `let sx = i32(ox0) * p.strideW + i32(j) * p.dilW - p.padW;
      let step = p.strideW;`
          : `let num_x = i32(ox0) + p.padW - i32(j) * p.dilW;
      if (num_x % p.strideW != 0) { continue; }
      let sx = num_x / p.strideW;
      let step = 1;`
      }
      ${T.map((t) => `let x_${t} = sx + step * ${t}; let in_${t} = x_${t} >= 0 && x_${t} < i32(${srcW}); let at_${t} = (row + u32(select(0, x_${t}, in_${t}))) * ${srcC};`).join("\n      ")}
      if (!(${T.map((t) => `in_${t}`).join(" || ")})) { continue; }
      var w_at = (i * p.kw + j) * ${srcC} * 4u * ${outC};
      for (var c = 0u; c < ${srcC}; c++) {
        ${U.flatMap((u) => L.map((l) => `let w_${u}_${l} = weight[w_at + ${l}u * ${outC} + k_${u}];`)).join("\n        ")}
        ${T.map((t) => {
          const load = `let s_${t} = select(vec4f(), src[at_${t} + c], in_${t});`;
          // fma and not a sum of four products: one rounding an addition keeps more of float32.
          const fma = U.flatMap((u) =>
            L.map((l) => `a_${t}_${u} = fma(vec4f(s_${t}.${"xyzw"[l]}), w_${u}_${l}, a_${t}_${u});`),
          );
          return [load, ...fma].join(" ");
        }).join("\n        ")}
        w_at += 4u * ${outC};
      }
    }
  }
  ${T.map((t) => {
    const column = `ox0 + classes * ${t}u`;
    const stores = U.map((u) => `if (k0 + ${u}u < ${outC}) { store(n, oy, ${column}, k0 + ${u}u, a_${t}_${u}); }`);
    return `if (${column} < ${outW}) { ${stores.join(" ")} }`;
  }).join("\n  ")}`,
)}
`;
}

/** Uniform fields that `tileMain` reads beside the convolution's. */
export const TILE_PARAMS = { tiles: "u32", tilesK: "u32", items: "u32" } as const;

/** Their values: `tiles` in a row of one parity class, `tilesK` over the output channels, `items` invocations in all. */
export function tileParams(spec: TileSpec, n: number, h: number, w: number, c4: number, classes: number) {
  const tiles = Math.ceil(Math.ceil(w / classes) / spec.pixels);
  const tilesK = Math.ceil(c4 / spec.channels4);
  return { tiles, tilesK, items: n * h * classes * tiles * tilesK };
}
