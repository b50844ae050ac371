/**
 * The weight pass: the gradient of a convolution in its weight, and Winograd's batched products. The weight is a matrix of
 * rows (tap, c4) and columns k4, both in vec4s; every entry sums over the output pixels:
 *
 *   dw[tap,c,k] = sum_{n,p,q} x[n, source(p,q,tap), c] * dy[n,p,q,k]
 *
 * The rows (n, p) of output pixels are split into chunks that are summed separately and then added in a fixed order: enough
 * work for small kernels, and shorter float32 sums (256x256 outputs add 65,536 products an entry). With `imagePerTap`
 * tap t reads image t alone, of x and of dy: the product of matrices that Winograd's form needs.
 *
 * Backends differ in how a block of dw is computed, in files of their own.
 */
import type { Access } from "../../gpu/kernel.js";
import { CONV_PARAMS } from "../shape.js";

export const WEIGHT_PARAMS = {
  ...CONV_PARAMS,
  chunks: "u32",
  chunkRows: "u32",
  /** Rows (n, p) that one tap sums over. */
  rows: "u32",
  tilesC: "u32",
  tilesK: "u32",
  items: "u32",
  imagePerTap: "u32",
  livePixels: "u32",
  /** Rows of the mask, and entries of each as `liveRows.ts` lists it. */
  liveRows: "u32",
  livePitch: "u32",
  skipping: "u32",
} as const;

export const WEIGHT_BINDINGS: readonly Access[] = ["read", "read", "read", "read_write"];

/**
 * WGSL that every backend starts with.
 * @param live the third binding: the mask of live pixels [N|1,P,Q], dy is zero where it is; or what the backend has made of it
 */
export const weightPrelude = (live = "live_mask: array<f32>"): string => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;            // [N,H,W,C]
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;           // [N,P,Q,K]
@group(0) @binding(3) var<storage, read> ${live};
@group(0) @binding(4) var<storage, read_write> dw: array<vec4f>;     // [chunks,kh,kw,C,K]

/** First of the output rows that a tap sums over. */
fn first_row(tap: u32) -> u32 { return p.imagePerTap * tap * p.p; }
`;
