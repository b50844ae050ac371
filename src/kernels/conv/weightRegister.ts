/**
 * Weight backend without cooperation between invocations: each computes `in4` x `out4` blocks of 4x4 entries in registers. `simple`
 * is one block, the form that the others are checked against; 2 x 2 blocks use sixteen loaded values for 64 products.
 */
import { defineKernel } from "../../gpu/kernel.js";
import { linearMain } from "../../gpu/linear.js";
import { range } from "./range.js";
import { WEIGHT_BINDINGS, WEIGHT_PARAMS, weightPrelude } from "./weightPass.js";

export interface WeightRegisterSpec {
  /** vec4s of input and of output channels per invocation. */
  readonly in4: number;
  readonly out4: number;
}

export const weightRegisterKernel = defineKernel({
  name: "weightRegister",
  params: WEIGHT_PARAMS,
  bindings: WEIGHT_BINDINGS,
  wgsl: ({ in4, out4 }: WeightRegisterSpec) => {
    const I = range(in4);
    const O = range(out4);
    const L = range(4);
    return /* wgsl */ `
${weightPrelude()}
${linearMain(
  "p.items",
  `  var rest = id;
  let k0 = (rest % p.tilesK) * ${out4}u; rest /= p.tilesK;
  let c0 = (rest % p.tilesC) * ${in4}u; rest /= p.tilesC;
  let tap = rest % (p.kh * p.kw);
  let chunk = rest / (p.kh * p.kw);
  let i = i32(tap / p.kw) * i32(1u - p.imagePerTap);
  let j = i32(tap % p.kw) * i32(1u - p.imagePerTap);
  ${I.map((c) => `let c_${c} = min(c0 + ${c}u, p.c4 - 1u);`).join(" ")}
  ${O.map((k) => `let k_${k} = min(k0 + ${k}u, p.k4 - 1u);`).join(" ")}
  ${I.flatMap((c) => L.flatMap((l) => O.map((k) => `var a_${c}_${l}_${k} = vec4f();`))).join(" ")}
  // Columns whose source lies inside the image: q*stride + offset in [0, w).
  let offset = j * p.dilW - p.padW;
  let first = select(0, (-offset + p.strideW - 1) / p.strideW, offset < 0);
  let past = select(0, (i32(p.w) - 1 - offset) / p.strideW + 1, i32(p.w) - 1 >= offset);
  let last = min(i32(p.q), past);
  let rows = min((chunk + 1u) * p.chunkRows, p.rows);
  for (var r = chunk * p.chunkRows; r < rows; r++) {
    let row = first_row(tap) + r;
    let y = i32(row % p.p) * p.strideH + i * p.dilH - p.padH;
    if (y < 0 || y >= i32(p.h)) { continue; }
    let source = (row / p.p * p.h + u32(y)) * p.w;
    for (var q = first; q < last; q++) {
      if (p.skipping != 0u && live_mask[(row * p.q + u32(q)) % p.livePixels] == 0.0) { continue; }
      let x_at = (source + u32(q * p.strideW + offset)) * p.c4;
      let dy_at = (row * p.q + u32(q)) * p.k4;
      ${I.map((c) => `let x_${c} = x[x_at + c_${c}];`).join(" ")}
      ${O.map((k) => `let d_${k} = dy[dy_at + k_${k}];`).join(" ")}
      ${I.flatMap((c) => L.flatMap((l) => O.map((k) => `a_${c}_${l}_${k} = fma(vec4f(x_${c}.${"xyzw"[l]}), d_${k}, a_${c}_${l}_${k});`))).join(" ")}
    }
  }
  let to = ((chunk * p.kh * p.kw + tap) * p.c4 + c0) * 4u;
  ${I.map((c) => {
    const stores = L.flatMap((l) =>
      O.map((k) => `if (k0 + ${k}u < p.k4) { dw[(to + ${4 * c + l}u) * p.k4 + k0 + ${k}u] = a_${c}_${l}_${k}; }`),
    );
    return `if (c0 + ${c}u < p.c4) { ${stores.join(" ")} }`;
  }).join("\n  ")}`,
)}
`;
  },
});
