/**
 * Convolution and partial convolution, forward.
 *
 *   y[n,p,q,k] = scale[n,p,q] * sum_{i,j,c} weight[i,j,c,k] * x[n, p*s+i*d-pad, q*s+j*d-pad, c]  +  biasScale[n,p,q] * bias[k]
 *
 * Without a mask scale = biasScale = 1: an ordinary convolution. Outside the image x counts as 0.
 *
 * Source: Liu et al. 2018, eq. 1; scale and biasScale come from `maskUpdate`.
 * Layout: x [N,H,W,C], weight [kh,kw,C,K], bias [K], scale and biasScale [Nm,P,Q] (Nm = N or 1) -> y [N,P,Q,K]; channels padded to 4.
 * Units: x must hold exact zeros in holes, so that x*M = x and NaN under a hole never gets here (see `maskMultiply`).
 * @throws ShapeError when the window does not fit.
 *
 * Versions: `simple` one pixel and one vec4 of channels per invocation, the one the others are checked against;
 *           `tile`   4 pixels x 2 vec4s in registers: a loaded weight serves 4 pixels, a loaded pixel 8 channels.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { CONV_PARAMS, convOutputSize, convParams, type ConvShape, vec4s } from "./shape.js";
import { type ConvVariant, TILE_PARAMS, tileMain, tileParams, tileOf, type TileSpec } from "./convTile.js";

interface ForwardSpec extends TileSpec {
  readonly masked: boolean;
  readonly biased: boolean;
}

export const pconvForwardKernel = defineKernel({
  name: "pconvForward",
  params: { ...CONV_PARAMS, ...TILE_PARAMS, maskN: "u32" },
  bindings: ["read", "read", "read", "read", "read", "read_write"],
  wgsl: (spec: ForwardSpec) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> src: array<vec4f>;          // [N,H,W,C]
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;       // [kh,kw,C,K]
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;         // [K]
@group(0) @binding(4) var<storage, read> scale: array<f32>;          // [Nm,P,Q]
@group(0) @binding(5) var<storage, read> bias_scale: array<f32>;     // [Nm,P,Q]
@group(0) @binding(6) var<storage, read_write> dst: array<vec4f>;    // [N,P,Q,K]

fn store(n: u32, y: u32, x: u32, k: u32, sum: vec4f) {
  let at = ((n % p.maskN) * p.p + y) * p.q + x;
  let scaled = ${spec.masked ? "sum * scale[at]" : "sum"};
  dst[((n * p.p + y) * p.q + x) * p.k4 + k] = scaled${spec.biased ? ` + bias[k]${spec.masked ? " * bias_scale[at]" : ""}` : ""};
}
${tileMain(spec, { source: ["h", "w", "c4"], output: ["p", "q", "k4"], direction: "forward" })}
`,
});

export interface PConvForwardBuffers {
  readonly x: Storage;
  readonly weight: Storage;
  readonly y: Storage;
  readonly bias?: Storage | undefined;
  /** What `maskUpdate` made; absent for an ordinary convolution. */
  readonly ratio?: { readonly scale: Storage; readonly biasScale: Storage; readonly n: number } | undefined;
}

/** Records one forward convolution. */
export function pconvForward(gpu: Gpu, s: ConvShape, b: PConvForwardBuffers, variant: ConvVariant = "tile"): void {
  const size = convOutputSize("pconvForward", s);
  const spec = { ...tileOf(variant, vec4s(s.k)), masked: b.ratio !== undefined, biased: b.bias !== undefined };
  // A binding must name some buffer even where the text does not read it.
  const { scale, biasScale } = b.ratio ?? { scale: b.x, biasScale: b.x };
  const tiles = tileParams(spec, s.n, size[0], size[1], vec4s(s.k), 1);
  const params = { ...convParams(s, size), ...tiles, maskN: b.ratio?.n ?? 1 };
  const buffers = [b.x, b.weight, b.bias ?? b.weight, scale, biasScale, b.y];
  gpu.dispatch(pconvForwardKernel, spec, params, buffers, linearGrid(tiles.items));
}

/** Loops over every (output, tap) pair inside the image; shared by the three references. */
export function forEachTap(
  s: ConvShape,
  visit: (output: number, input: number, tap: number) => void,
  only?: (output: number) => boolean,
): void {
  const [P, Q] = convOutputSize("pconv reference", s);
  for (let n = 0; n < s.n; n++)
    for (let p = 0; p < P; p++)
      for (let q = 0; q < Q; q++) {
        const output = (n * P + p) * Q + q;
        if (only && !only(output)) continue;
        for (let i = 0; i < s.kernel[0]; i++) {
          const y = p * s.stride[0] + i * s.dilation[0] - s.padding[0];
          if (y < 0 || y >= s.h) continue;
          for (let j = 0; j < s.kernel[1]; j++) {
            const x = q * s.stride[1] + j * s.dilation[1] - s.padding[1];
            if (x < 0 || x >= s.w) continue;
            visit(output, (n * s.h + y) * s.w + x, i * s.kernel[1] + j);
          }
        }
      }
}

export interface RatioRef {
  readonly scale: ArrayLike<number>;
  readonly biasScale: ArrayLike<number>;
  /** Batch of the mask: N or 1. */
  readonly n: number;
}

/**
 * The same equation in float64, channels unpadded. `only` restricts it to some output pixels (the others stay 0), so that large
 * layers can be checked on samples.
 */
export function pconvForwardRef(
  s: ConvShape,
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  bias: ArrayLike<number> | undefined,
  ratio?: RatioRef,
  only?: (output: number) => boolean,
): Float64Array {
  const [P, Q] = convOutputSize("pconvForward", s);
  const y = new Float64Array(s.n * P * Q * s.k);
  forEachTap(
    s,
    (output, input, tap) => {
      for (let c = 0; c < s.c; c++) {
        const v = x[input * s.c + c];
        const row = (tap * s.c + c) * s.k;
        for (let k = 0; k < s.k; k++) y[output * s.k + k] += weight[row + k] * v;
      }
    },
    only,
  );
  for (let output = 0; output < s.n * P * Q; output++) {
    if (only && !only(output)) continue;
    const at = output % ((ratio?.n ?? s.n) * P * Q);
    for (let k = 0; k < s.k; k++) {
      const scaled = y[output * s.k + k] * (ratio ? ratio.scale[at] : 1);
      y[output * s.k + k] = scaled + (bias ? bias[k] * (ratio ? ratio.biasScale[at] : 1) : 0);
    }
  }
  return y;
}
