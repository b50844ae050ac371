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
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
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

export const upWeightKernel = defineKernel({
  name: "upWeight",
  params: { c4: "u32", k4: "u32", first: "u32", count: "u32" },
  bindings: ["read", "read_write"],
  wgsl: ({ part, transposed }: PartSpec) => {
    const side = part === "low" ? 4 : 3;
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;             // [3,3,C,K]
@group(0) @binding(2) var<storage, read_write> taken: array<vec4f>;        // [side,side,count,K], or [side,side,K,count]
fn entry(i: u32, j: u32, row: u32, k: u32) -> vec4f {
  return weight[((i * 3u + j) * p.c4 * 4u + row) * p.k4 + k];
}
fn summed(tap: u32, row: u32, k: u32) -> vec4f {
  ${
    part === "low"
      ? `// Taps [2], [1, 2], [0, 1], [0] of each axis.
  let u = tap / 4u;
  let v = tap % 4u;
  var sum = vec4f();
  for (var i = select(2u - u, 0u, u >= 2u); i <= min(3u - u, 2u); i++) {
    for (var j = select(2u - v, 0u, v >= 2u); j <= min(3u - v, 2u); j++) { sum += entry(i, j, row, k); }
  }
  return sum;`
      : `return entry(tap / 3u, tap % 3u, row, k);`
  }
}
${linearMain(
  `${side * side}u * ((p.count + 3u) / 4u) * p.k4`,
  `  let rows4 = (p.count + 3u) / 4u;
  let k = id % p.k4;
  let row4 = (id / p.k4) % rows4;
  let tap = id / (p.k4 * rows4);
  var block = mat4x4f();
  for (var l = 0u; l < 4u; l++) {
    let c = row4 * 4u + l;
    if (c < p.count) { block[l] = summed(tap, p.first + c, k); }
  }
  ${
    transposed
      ? `block = transpose(block);
  for (var l = 0u; l < 4u; l++) { taken[((tap * p.k4 + k) * 4u + l) * rows4 + row4] = block[l]; }`
      : `for (var l = 0u; l < 4u; l++) { taken[((tap * rows4 + row4) * 4u + l) * p.k4 + k] = block[l]; }`
  }`,
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
  const side = spec.part === "low" ? 4 : 3;
  gpu.dispatch(upWeightKernel, spec, params, [weight, taken], linearGrid(side * side * vec4s(count) * params.k4));
}

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
@group(0) @binding(1) var<storage, read> low: array<f32>;              // [4,4,K,Cl]
@group(0) @binding(2) var<storage, read> skip: array<vec4f>;           // [3,3,Cs,K]
@group(0) @binding(3) var<storage, read_write> dw: array<vec4f>;       // [3,3,C,K]
${linearMain(
  "9u * p.c4 * 4u * p.k4",
  `  let k = id % p.k4;
  let row = (id / p.k4) % (p.c4 * 4u);
  let tap = id / (p.k4 * p.c4 * 4u);
  var sum = vec4f();
  if (row >= p.skipFirst && row < p.skipFirst + p.skipCount) {
    sum = skip[(tap * p.skip4 * 4u + row - p.skipFirst) * p.k4 + k];
  } else if (row >= p.lowFirst && row < p.lowFirst + p.lowCount) {
    // Tap i of an axis was added into taps 2 - i and 3 - i of the 4x4 kernel.
    let c = row - p.lowFirst;
    for (var u = 2u - tap / 3u; u <= 3u - tap / 3u; u++) {
      for (var v = 2u - tap % 3u; v <= 3u - tap % 3u; v++) {
        let at = ((u * 4u + v) * p.k4 + k) * 4u;
        for (var l = 0u; l < 4u; l++) { sum[l] += low[(at + l) * p.low4 * 4u + c]; }
      }
    }
  }
  dw[id] = sum;`,
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
    linearGrid(9 * params.c4 * 4 * params.k4),
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
