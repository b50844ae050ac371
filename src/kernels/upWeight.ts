/**
 * Weights of a convolution over [nearest-upsampled `low`, `skip`] (in either order of channels), taken apart so that neither the
 * upsampled nor the concatenated tensor need exist.
 *
 * A 3x3 convolution (stride 1, padding 1) of a nearest-upsampled image is the transpose of a 4x4 convolution of stride 2 and
 * padding 1 from the large image to the small one, because upsampling makes several of its taps read the same pixel:
 *
 *   y[2Y]   = w0 low[Y-1] + (w1 + w2) low[Y]          4x4 taps, per axis: [w2, w1 + w2, w0 + w1, w0]
 *   y[2Y+1] = (w0 + w1) low[Y] + w2 low[Y+1]
 *
 * so each output pixel needs 4 taps of `low` instead of 9. Exact in real arithmetic; outside the image both read nothing.
 *
 * Source: ours (the algebra of sub-pixel convolution, Shi et al. 2016, run backwards).
 * Layout: weight [3,3,C,K]; low's part [4,4,Cl,K] or transposed [4,4,K,Cl]; skip's part [3,3,Cs,K] or [3,3,K,Cs]; C = Cl + Cs;
 * all channel counts padded to 4 on their own, padding zero.
 */
import type { Derivation } from "../gpu/derived.js";
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { range } from "./conv/range.js";
import { vec4s } from "./shape.js";

/** Channels of the joined input: `first` is where low's (or skip's) begin. */
export interface JoinedChannels {
  readonly low: number;
  readonly skip: number;
  readonly k: number;
  readonly lowFirst: boolean;
}

export type WeightPart = "low" | "skip";

/** Per axis: the taps of the 3x3 kernel that tap u of the 4x4 kernel sums. */
const UP_TAPS = [[2], [1, 2], [0, 1], [0]] as const;

const total = (s: JoinedChannels) => s.low + s.skip;
const firstOf = (s: JoinedChannels, part: WeightPart) => ((part === "low") === s.lowFirst ? 0 : total(s) - s[part]);

interface PartSpec {
  readonly part: WeightPart;
  readonly transposed: boolean;
}

const TAPS = range(4);
const ROWS = range(4);
const COLUMNS = range(3);

/** WGSL that stores the four rows of `block_N` as tap `tap` of the part. */
const storeBlock = (block: string, tap: string, transposed: boolean) =>
  transposed
    ? `{ let to = transpose(${block}); let at = (${tap} * p.k4 + k) * 4u * rows4 + row4; ${ROWS.map((l) => `taken[at + ${l}u * rows4] = to[${l}];`).join(" ")} }`
    : `{ let at = (${tap} * rows4 + row4) * 4u * p.k4 + k; ${ROWS.map((l) => `taken[at + ${l}u * p.k4] = ${block}[${l}];`).join(" ")} }`;

// An invocation of low's part makes the four taps of one row: six or three loads give four taps, where each tap alone takes up to four.
export const upWeightKernel = defineKernel({
  name: "upWeight",
  params: { c4: "u32", k4: "u32", first: "u32", count: "u32" },
  bindings: ["read", "read_write"],
  wgsl: ({ part, transposed }: PartSpec) => {
    const low = part === "low";
    const blocks = low ? TAPS : [0];
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;             // [3,3,C,K]
@group(0) @binding(2) var<storage, read_write> taken: array<vec4f>;        // [side,side,count,K], or [side,side,K,count]
fn entry(tap: u32, c: u32, k: u32) -> vec4f {
  let value = weight[(tap * p.c4 * 4u + p.first + min(c, p.count - 1u)) * p.k4 + k];
  return select(vec4f(), value, c < p.count);
}
${linearMain(
  `${low ? 4 : 9}u * ((p.count + 3u) / 4u) * p.k4`,
  `  let rows4 = (p.count + 3u) / 4u;
  let rest = id / p.k4;
  let k = id - rest * p.k4;
  let over = rest / rows4; // row of taps of low, tap of skip
  let row4 = rest - over * rows4;
  ${blocks.map((v) => `var block_${v} = mat4x4f();`).join(" ")}
  ${
    low
      ? `// Rows of taps [2], [1, 2], [0, 1], [0]: the first of them, and whether there is one more.
  let upper = select(2u - over, 0u, over >= 2u) * 3u;
  let two = over == 1u || over == 2u;`
      : ""
  }
  ${ROWS.map((l) => {
    const c = `row4 * 4u + ${l}u`;
    if (!low) return `block_0[${l}] = entry(over, ${c}, k);`;
    return `{
    ${COLUMNS.map((v) => `var e_${v} = entry(upper + ${v}u, ${c}, k);`).join(" ")}
    if (two) { ${COLUMNS.map((v) => `e_${v} += entry(upper + ${3 + v}u, ${c}, k);`).join(" ")} }
    block_0[${l}] = e_2; block_1[${l}] = e_1 + e_2; block_2[${l}] = e_0 + e_1; block_3[${l}] = e_0;
  }`;
  }).join("\n  ")}
  ${blocks.map((v) => storeBlock(`block_${v}`, low ? `(over * 4u + ${v}u)` : "over", transposed)).join("\n  ")}`,
)}
`;
  },
});

/** Bytes of one part. */
export const upWeightBytes = (s: JoinedChannels, part: WeightPart): number =>
  (part === "low" ? 16 : 9) * vec4s(s[part]) * 4 * vec4s(s.k) * 16;

/** Records taking one part out of the joined weight. */
export function upWeight(gpu: Gpu, s: JoinedChannels, spec: PartSpec, weight: Storage, taken: Storage): void {
  const count = s[spec.part];
  const params = { c4: vec4s(total(s)), k4: vec4s(s.k), first: firstOf(s, spec.part), count };
  const rows = spec.part === "low" ? 4 : 9;
  gpu.dispatch(upWeightKernel, spec, params, [weight, taken], linearGrid(rows * vec4s(count) * params.k4));
}

/** One part of a weight, for {@link Gpu.derived}. */
export const upWeightPart = (gpu: Gpu, s: JoinedChannels, spec: PartSpec, weight: Storage): Derivation => ({
  what: `${spec.transposed ? "transposed " : ""}weight of ${spec.part}, ${s.low}+${s.skip}->${s.k} ${s.lowFirst}`,
  from: [weight],
  bytes: upWeightBytes(s, spec.part),
  make: (taken) => upWeight(gpu, s, spec, weight, taken),
});

// Of low's part an invocation makes the three taps of a column, from the sums of neighbours in each row of the 4x4 kernel.
export const upWeightBackwardKernel = defineKernel({
  name: "upWeightBackward",
  params: {
    c4: "u32",
    k4: "u32",
    low4: "u32",
    lowFirst: "u32",
    lowCount: "u32",
    skip4: "u32",
    skipFirst: "u32",
    skipCount: "u32",
  },
  bindings: ["read", "read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> low: array<vec4f>;            // [4,4,K,Cl]
@group(0) @binding(2) var<storage, read> skip: array<vec4f>;           // [3,3,Cs,K]
@group(0) @binding(3) var<storage, read_write> dw: array<vec4f>;       // [3,3,C,K]
/** Four rows by four columns, transposed, of tap (u, v) of the 4x4 kernel. */
fn tap_of(u: u32, v: u32, row4: u32, k: u32) -> mat4x4f {
  let at = ((u * 4u + v) * p.k4 + k) * 4u * p.low4 + row4;
  return mat4x4f(${ROWS.map((l) => `low[at + ${l}u * p.low4]`).join(", ")});
}
fn store(i: u32, j: u32, row4: u32, k: u32, block: mat4x4f) {
  let rows = transpose(block);
  for (var l = 0u; l < 4u; l++) {
    let c = row4 * 4u + l;
    if (c < p.lowCount) { dw[((i * 3u + j) * p.c4 * 4u + p.lowFirst + c) * p.k4 + k] = rows[l]; }
  }
}
${linearMain(
  "(3u * p.low4 + 9u * (p.c4 * 4u - p.lowCount)) * p.k4",
  `  let columns = 3u * p.low4;
  let rest = id / p.k4;
  let k = id - rest * p.k4;
  if (rest < columns) {
    let j = rest / p.low4;
    let row4 = rest - j * p.low4;
    // Tap i of an axis was added into taps 2 - i and 3 - i of the 4x4 kernel.
    ${TAPS.map((u) => `let row_${u} = tap_of(${u}u, 2u - j, row4, k) + tap_of(${u}u, 3u - j, row4, k);`).join("\n    ")}
    ${COLUMNS.map((i) => `store(${i}u, j, row4, k, row_${2 - i} + row_${3 - i});`).join("\n    ")}
    return;
  }
  // Rows that are not low's: skip's, and the padding.
  let others = p.c4 * 4u - p.lowCount;
  let tap = (rest - columns) / others;
  let other = rest - columns - tap * others;
  let row = select(other, other + p.lowCount, other >= p.lowFirst);
  let c = row - p.skipFirst;
  let inside = row >= p.skipFirst && c < p.skipCount;
  let taken = skip[(tap * p.skip4 * 4u + select(0u, c, inside)) * p.k4 + k];
  dw[(tap * p.c4 * 4u + row) * p.k4 + k] = select(vec4f(), taken, inside);`,
)}
`,
});

/** Records the gradient of the joined weight from those of its parts, as the weight passes give them. */
export function upWeightBackward(
  gpu: Gpu,
  s: JoinedChannels,
  b: { readonly low: Storage; readonly skip: Storage; readonly dw: Storage },
): void {
  const params = {
    c4: vec4s(total(s)),
    k4: vec4s(s.k),
    low4: vec4s(s.low),
    lowFirst: firstOf(s, "low"),
    lowCount: s.low,
    skip4: vec4s(s.skip),
    skipFirst: firstOf(s, "skip"),
    skipCount: s.skip,
  };
  gpu.dispatch(
    upWeightBackwardKernel,
    undefined,
    params,
    [b.low, b.skip, b.dw],
    linearGrid((3 * params.low4 + 9 * (params.c4 * 4 - s.low)) * params.k4),
  );
}

/** One part in float64, channels unpadded, not transposed. */
export function upWeightRef(s: JoinedChannels, part: WeightPart, weight: ArrayLike<number>): Float64Array {
  const [c, count, first] = [total(s), s[part], firstOf(s, part)];
  const taps = part === "low" ? UP_TAPS : [[0], [1], [2]];
  const side = taps.length;
  const taken = new Float64Array(side * side * count * s.k);
  taps.forEach((rows, u) =>
    taps.forEach((columns, v) => {
      for (const i of rows)
        for (const j of columns)
          for (let r = 0; r < count; r++)
            for (let k = 0; k < s.k; k++)
              taken[((u * side + v) * count + r) * s.k + k] += weight[((i * 3 + j) * c + first + r) * s.k + k];
    }),
  );
  return taken;
}

/** The adjoint in float64, channels unpadded; `low` is [4,4,K,Cl]. */
export function upWeightBackwardRef(s: JoinedChannels, low: ArrayLike<number>, skip: ArrayLike<number>): Float64Array {
  const c = total(s);
  const dw = new Float64Array(9 * c * s.k);
  for (let tap = 0; tap < 9; tap++)
    for (let r = 0; r < s.skip; r++)
      for (let k = 0; k < s.k; k++)
        dw[(tap * c + firstOf(s, "skip") + r) * s.k + k] = skip[(tap * s.skip + r) * s.k + k];
  UP_TAPS.forEach((rows, u) =>
    UP_TAPS.forEach((columns, v) => {
      for (const i of rows)
        for (const j of columns)
          for (let r = 0; r < s.low; r++)
            for (let k = 0; k < s.k; k++)
              dw[((i * 3 + j) * c + firstOf(s, "low") + r) * s.k + k] += low[((u * 4 + v) * s.k + k) * s.low + r];
    }),
  );
  return dw;
}
