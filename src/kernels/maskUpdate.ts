/**
 * Mask update and ratio of a partial convolution: everything about a layer that depends on the mask alone.
 *
 *   S[n,p,q]  = sum over window and mask groups of weight[g] * m[n,y,x,g]     (outside the image is hole: adds 0)
 *   paper:      u = clamp(S, 0, 1)    scale = window / (S + 1e-8) * u    biasScale = u
 *   pytorch:    u = [S != 0]          scale = u / S                      biasScale = u
 *   keras:      u = clamp(S, 0, 1)    scale = kh kw / (S + 1e-8) * u     biasScale = 1
 *   unscaled:   u = clamp(S, 0, 1)    scale = u                          biasScale = u
 *
 * The layer is then y = scale * (W * (x.M)) + biasScale * b, and its new mask is u. weight[g] is the number of channels that
 * share group g; window = kh kw * sum(weight). With binary masks all forms of `paper` equal sum(1)/sum(M); with fractional
 * ones NVIDIA's layer multiplies by u once more when it has a bias (`biased`).
 *
 * Source: `paper` Liu et al. 2018 eq. 1-2 as in NVIDIA's PartialConv2d; `pytorch` naoto0804/pytorch-inpainting-with-partial-conv
 * (arXiv v1 eq. 1, no sum(1)); `keras` PConv-Keras; `unscaled` ours: the paper's layer without its ratio, to see what that is worth.
 * Layout: m [Nm,H,W,G] -> scale, biasScale, u [Nm,P,Q]; no channel padding. Nm is the batch or 1 (shared by the batch).
 * Units: m is 1 = valid, 0 = hole; fractions are allowed and mean what the conventions above say.
 * @throws ShapeError when the window does not fit.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { range } from "./conv/range.js";
import { CONV_PARAMS, convOutputSize, convParams, type ConvShape } from "./shape.js";

/** Which implementation's layer: they differ in ratio, mask update and what the bias does in holes. */
export type PConvConvention = "paper" | "pytorch" | "keras" | "unscaled";

/** What {@link maskUpdate} is compiled for. */
export interface MaskUpdateSpec {
  readonly convention: PConvConvention;
  /** The layer has a bias; only `paper` with fractional masks depends on it. */
  readonly biased: boolean;
}

/** The mask's own sizes; `c` is the number of groups, `k` unused (1). */
export interface MaskUpdateShape extends ConvShape {
  /** Sum of the group weights: how many channels the mask stands for. */
  readonly channels: number;
}

interface MaskUpdateTile extends MaskUpdateSpec {
  /** Width of the window: a loop over it takes longer than what it does. */
  readonly kw: number;
  /** One mask group, the usual case. */
  readonly single: boolean;
  /** Outputs of an invocation, one below the other: 1, or with dilH 1 more. */
  readonly rows: number;
}

/** Their windows overlap: four of 7x7 and stride 2 have 13 rows and not 28. */
const ROWS = 4;
/** From so many outputs on there are enough invocations with {@link ROWS} of them each. */
const MANY_OUTPUTS = 4096;

const { n, h, w, p, q, kh, strideH, strideW, padH, padW, dilH, dilW } = CONV_PARAMS;

/** WGSL of the results' bindings and of `store`: what follows from an output's sum S. Needs `p.window`. */
export const storeRatio = ({ convention, biased }: MaskUpdateSpec): string => /* wgsl */ `
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;        // [N,P,Q]
@group(0) @binding(4) var<storage, read_write> bias_scale: array<f32>;   // [N,P,Q]
@group(0) @binding(5) var<storage, read_write> mask_out: array<f32>;     // [N,P,Q]
fn store(id: u32, sum: f32) {
  ${
    convention === "pytorch"
      ? `let u = select(0.0, 1.0, sum != 0.0);
  let s = select(0.0, 1.0 / sum, sum != 0.0);`
      : `let u = clamp(sum, 0.0, 1.0);
  let s = ${convention === "unscaled" ? "u" : "p.window / (sum + 1e-8) * u"}${convention === "paper" && biased ? " * u" : ""};`
  }
  scale[id] = s;
  bias_scale[id] = ${convention === "keras" ? "1.0" : "u"};
  mask_out[id] = u;
}
`;

export const maskUpdateKernel = defineKernel({
  name: "maskUpdate",
  params: { n, h, w, p, q, kh, strideH, strideW, padH, padW, dilH, dilW, groups: "u32", window: "f32" },
  bindings: ["read", "read", "read_write", "read_write", "read_write"],
  wgsl: ({ convention, biased, kw, single, rows }: MaskUpdateTile) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> mask: array<f32>;               // [N,H,W,G]
@group(0) @binding(2) var<storage, read> weight: array<f32>;             // [G] channels per group
${storeRatio({ convention, biased })}${linearMain(
    rows === 1 ? "p.n * p.p * p.q" : `p.n * ((p.p + ${rows - 1}u) / ${rows}u) * p.q`,
    `  let blocks = ${rows === 1 ? "p.p" : `(p.p + ${rows - 1}u) / ${rows}u`};
  let over_q = id / p.q;
  let n = over_q / blocks;
  let q = id - over_q * p.q;
  let row = (over_q - n * blocks) * ${rows}u;
  let x0 = i32(q) * p.strideW - p.padW;
  let y0 = i32(row) * p.strideH - p.padH;
  ${range(rows)
    .map((o) => `var sum_${o} = 0.0;`)
    .join(" ")}
  // Conditions at the end: adapters that run lanes under a mask go through the body once more where they are at the beginning.
  let last = p.kh + ${rows - 1}u * u32(p.strideH);
  var i = 0u;
  loop {
    let y = y0 + i32(i) * p.dilH;
    if (u32(y) >= p.h) { continue; }
    let line = (n * p.h + u32(y)) * p.w;
    var sum = 0.0;
    ${range(kw)
      .map((j) => {
        const x = `let x_${j} = u32(x0 + ${j} * p.dilW); let at_${j} = line + min(x_${j}, p.w - 1u);`;
        const add = single
          ? `sum += select(0.0, mask[at_${j}], x_${j} < p.w);`
          : `if (x_${j} < p.w) { var g = 0u; loop { sum += weight[g] * mask[at_${j} * p.groups + g]; continuing { g++; break if g == p.groups; } } }`;
        return `${x} ${add}`;
      })
      .join("\n    ")}
    ${
      rows === 1
        ? "sum_0 += sum;"
        : range(rows)
            .map((o) => `if (i - ${o}u * u32(p.strideH) < p.kh) { sum_${o} += sum; }`) // wraps below 0
            .join("\n    ")
    }
    continuing { i++; break if i == last; }
  }
  let first = (n * p.p + row) * p.q + q;
  ${range(rows)
    .map((o) => {
      const sum = `sum_${o}${single ? " * weight[0]" : ""}`;
      return o === 0 ? `store(first, ${sum});` : `if (row + ${o}u < p.p) { store(first + ${o}u * p.q, ${sum}); }`;
    })
    .join("\n  ")}`,
  )}
`,
});

/** What {@link maskUpdate} reads and writes. */
export interface MaskUpdateBuffers {
  readonly mask: Storage;
  readonly weight: Storage;
  readonly scale: Storage;
  readonly biasScale: Storage;
  readonly maskOut: Storage;
}

/** The numerator of the ratio: channels times window for the paper's form, the window alone for PConv-Keras. */
export const windowSize = (s: Pick<MaskUpdateShape, "kernel" | "channels">, convention: PConvConvention): number =>
  s.kernel[0] * s.kernel[1] * (convention === "keras" ? 1 : s.channels);

/** Records the mask update of one layer. */
export function maskUpdate(gpu: Gpu, s: MaskUpdateShape, spec: MaskUpdateSpec, b: MaskUpdateBuffers): void {
  const [p, q] = convOutputSize("maskUpdate", s);
  const params = { ...convParams(s, [p, q]), groups: s.c, window: windowSize(s, spec.convention) };
  const buffers = [b.mask, b.weight, b.scale, b.biasScale, b.maskOut];
  const rows = s.dilation[0] === 1 && s.n * p * q >= MANY_OUTPUTS ? ROWS : 1;
  const tile = { ...spec, kw: s.kernel[1], single: s.c === 1, rows };
  gpu.dispatch(maskUpdateKernel, tile, params, buffers, linearGrid(s.n * Math.ceil(p / rows) * q));
}

/** The same equations in float64. */
export function maskUpdateRef(
  s: MaskUpdateShape,
  spec: MaskUpdateSpec,
  mask: ArrayLike<number>,
  weight: ArrayLike<number>,
) {
  const [P, Q] = convOutputSize("maskUpdate", s);
  const window = windowSize(s, spec.convention);
  const scale = new Float64Array(s.n * P * Q);
  const biasScale = new Float64Array(s.n * P * Q);
  const maskOut = new Float64Array(s.n * P * Q);
  for (let n = 0; n < s.n; n++)
    for (let p = 0; p < P; p++)
      for (let q = 0; q < Q; q++) {
        let sum = 0;
        for (let i = 0; i < s.kernel[0]; i++)
          for (let j = 0; j < s.kernel[1]; j++) {
            const y = p * s.stride[0] + i * s.dilation[0] - s.padding[0];
            const x = q * s.stride[1] + j * s.dilation[1] - s.padding[1];
            if (y < 0 || y >= s.h || x < 0 || x >= s.w) continue;
            for (let g = 0; g < s.c; g++) sum += weight[g] * mask[((n * s.h + y) * s.w + x) * s.c + g];
          }
        const at = (n * P + p) * Q + q;
        const u = spec.convention === "pytorch" ? Number(sum !== 0) : Math.min(1, Math.max(0, sum));
        maskOut[at] = u;
        if (spec.convention === "pytorch") scale[at] = sum === 0 ? 0 : 1 / sum;
        else if (spec.convention === "unscaled") scale[at] = u;
        else scale[at] = (window / (sum + 1e-8)) * u * (spec.convention === "paper" && spec.biased ? u : 1);
        biasScale[at] = spec.convention === "keras" ? 1 : u;
      }
  return { scale, biasScale, maskOut };
}
