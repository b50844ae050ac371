/**
 * Gather backend without any cooperation between invocations: each computes `pixels` outputs times `channels4` vec4s in
 * registers. `simple` is 1 x 1, the form that all others are checked against; the register tile serves outputs of few
 * channels, where neighbouring invocations could share nothing but weights.
 */
import { linearGrid, linearMain } from "../../gpu/linear.js";
import { defineKernel } from "../../gpu/kernel.js";
import { GATHER_BINDINGS, GATHER_PARAMS, GATHER_PRELUDE, type TileSize } from "./gather.js";
import { range } from "./range.js";

export interface RegisterSpec {
  readonly pixels: number;
  readonly channels4: number;
}

export const SIMPLE: RegisterSpec = { pixels: 1, channels4: 1 };

/**
 * Tile for `out4` vec4s of output channels. Eight vec4s of sums per invocation: twice as many (8 x 2, 16 x 1) take 1.4 to 2
 * times as long on a software adapter, because they spill.
 */
export const registerSpec = (out4: number): RegisterSpec =>
  out4 > 1 ? { pixels: 4, channels4: 2 } : { pixels: 8, channels4: 1 };

export const registerTile = (spec: RegisterSpec): TileSize => ({ ...spec, grid: linearGrid });

export const gatherRegisterKernel = defineKernel({
  name: "gatherRegister",
  params: GATHER_PARAMS,
  bindings: GATHER_BINDINGS,
  wgsl: ({ pixels, channels4 }: RegisterSpec) => {
    const T = range(pixels);
    const U = range(channels4);
    const L = range(4);
    return /* wgsl */ `
${GATHER_PRELUDE}
${linearMain(
  "p.items",
  `  let tile = tile_of(id);
  let k0 = tile.k * ${channels4}u;
  ${U.map((u) => `let k_${u} = min(k0 + ${u}u, p.outC4 - 1u);`).join(" ")}
  ${T.map((t) => `let pixel_${t} = pixel_of(tile, tile.first * ${pixels}u + ${t}u);`).join("\n  ")}
  ${T.flatMap((t) => U.map((u) => `var a_${t}_${u} = vec4f();`)).join(" ")}
  let computed = ${T.map((t) => `pixel_${t}.live`).join(" || ")};
  if (computed) {
    // Conditions are at the end, as in \`subgroup.ts\`.
    var i = 0u;
    loop {
      let row = row_offset(tile, i);
      let down = row / p.divH;
      if (down * p.divH != row) { continue; }
      var j = 0u;
      loop {
        let column = column_offset(tile, j);
        let across = column / p.divW;
        if (across * p.divW != column) { continue; }
        let offset = vec2<i32>(down, across);
        ${T.map((t) => `let from_${t} = pixel_${t}.source + offset; let in_${t} = in_image(from_${t}); let at_${t} = address(pixel_${t}, from_${t});`).join("\n        ")}
        if (!(${T.map((t) => `in_${t}`).join(" || ")})) { continue; }
        var w_at = tile.image * p.weightStride + (i * p.kw + j) * p.srcC4 * 4u * p.outC4;
        var c = 0u;
        loop {
          ${U.flatMap((u) => L.map((l) => `let w_${u}_${l} = weight[w_at + ${l}u * p.outC4 + k_${u}];`)).join("\n          ")}
          ${T.map((t) => {
            const load = `let s_${t} = select(vec4f(), src[at_${t} + c], in_${t});`;
            // fma and not a sum of four products: one rounding an addition keeps more of float32.
            const fma = U.flatMap((u) =>
              L.map((l) => `a_${t}_${u} = fma(vec4f(s_${t}.${"xyzw"[l]}), w_${u}_${l}, a_${t}_${u});`),
            );
            return [load, ...fma].join(" ");
          }).join("\n          ")}
          w_at += 4u * p.outC4;
          continuing { c++; break if c == p.srcC4; }
        }
        continuing { j++; break if j == p.kw; }
      }
      continuing { i++; break if i == p.kh; }
    }
  }
  ${U.map((u) => `let channel_${u} = channel_of(k_${u});`).join(" ")}
  ${T.map((t) => {
    const stores = U.map(
      (u) =>
        `if (k0 + ${u}u < p.outC4) { store_with(pixel_${t}.out, k0 + ${u}u, a_${t}_${u}, computed, channel_${u}); }`,
    );
    return `if (pixel_${t}.out != NOWHERE) { ${stores.join(" ")} }`;
  }).join("\n  ")}`,
)}
`;
  },
});
