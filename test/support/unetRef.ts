/** The U-Net in float64, written down from the paper's table with the kernels' references and PyTorch's names. */
import { activationRef } from "../../src/kernels/activation.js";
import { batchNormForwardRef } from "../../src/kernels/batchNorm.js";
import { batchNormStatsRef } from "../../src/kernels/batchNormStats.js";
import { concatForwardRef } from "../../src/kernels/concat.js";
import { maskJoinRef } from "../../src/kernels/maskJoin.js";
import { maskMultiplyRef } from "../../src/kernels/maskMultiply.js";
import { harmonicRef } from "../../src/kernels/harmonic.js";
import { maskUpdateRef } from "../../src/kernels/maskUpdate.js";
import { pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { convOutputSize, type ConvShape } from "../../src/kernels/shape.js";
import { upsampleForwardRef } from "../../src/kernels/upsample.js";
import type { UNetConfig } from "../../src/pconv/unet.js";
import { fromOihw } from "./ops.js";

/** Parameters and running statistics by PyTorch's name, in PyTorch's layout. */
export type Weights = ReadonlyMap<string, Float64Array>;

interface Level {
  readonly x: ArrayLike<number>;
  readonly h: number;
  readonly w: number;
  readonly c: number;
  readonly mask: ArrayLike<number>;
  /** Channels of each mask group. */
  readonly groups: readonly number[];
}

/**
 * Output of the network for x [n,h,w,3] and a mask [n,h,w]; h and w are multiples of 2^depth.
 * @param training batch statistics, over valid pixels as `bnStatistics` says; else the running ones
 */
export function unetRef(
  c: UNetConfig,
  weights: Weights,
  n: number,
  input: { readonly h: number; readonly w: number; readonly x: ArrayLike<number>; readonly mask: ArrayLike<number> },
  training: boolean,
): { y: Float64Array; mask: ArrayLike<number> } {
  const block = (
    name: string,
    at: Level,
    k: number,
    kernel: number,
    stride: number,
    activation: "relu" | "leakyRelu" | "none",
  ) => {
    const pad = (kernel - 1) / 2;
    const s: ConvShape = { n, h: at.h, w: at.w, c: at.c, k, kernel: [kernel, kernel], stride: [stride, stride], padding: [pad, pad], dilation: [1, 1] }; // prettier-ignore
    const [h, w] = convOutputSize(name, s);
    const groupOf = at.groups.flatMap((size, g) => Array<number>(size).fill(g));
    const bias = weights.get(`${name}.conv.bias`);
    const layer = maskUpdateRef({ ...s, c: at.groups.length, k: 1, channels: at.c }, { convention: c.convention, biased: bias !== undefined }, at.mask, at.groups); // prettier-ignore
    const masked = maskMultiplyRef(s, at.x, at.mask, groupOf, n, at.groups.length);
    const weight = fromOihw(weights.get(`${name}.conv.weight`)!, kernel * kernel, at.c, k);
    let y = pconvForwardRef(s, masked, weight, bias, { ...layer, n });
    const gamma = weights.get(`${name}.bn.weight`);
    if (gamma) {
      const shape = { n, h, w, c: k };
      const counted = c.bnStatistics === "valid" ? layer.maskOut : undefined;
      const stats = training
        ? batchNormStatsRef(shape, y, counted, n)
        : { mean: weights.get(`${name}.bn.running_mean`)!, variance: weights.get(`${name}.bn.running_var`)! };
      const beta = weights.get(`${name}.bn.bias`)!;
      y = batchNormForwardRef(shape, { x: y, ...stats, eps: c.bnEps, gamma, beta, mask: layer.maskOut, maskN: n });
    }
    if (activation !== "none") y = activationRef(activation, 0.2, y);
    return { x: y, h, w, c: k, mask: layer.maskOut, groups: [k] };
  };

  let at: Level = { x: input.x, h: input.h, w: input.w, c: 3, mask: input.mask, groups: [3] };
  // The image itself is a skip link too; what stands in its holes is not.
  at = { ...at, x: maskMultiplyRef({ n, h: at.h, w: at.w, c: 3 }, at.x, at.mask, [0, 0, 0], n, 1) };
  const skips: Level[] = [];
  c.channels.forEach((k, i) => {
    skips.push(at);
    at = block(`enc_${i + 1}`, at, k, [7, 5, 5][i] ?? 3, 2, "relu");
  });
  for (let i = c.depth - 1; i >= 0; i--) {
    const skip = skips[i];
    const { h, w } = skip;
    const large = upsampleForwardRef({ n, h: at.h, w: at.w, c: at.c }, at.x);
    const upFirst = c.concat === "up-skip";
    const [a, b] = upFirst ? [at.c, skip.c] : [skip.c, at.c];
    const x = concatForwardRef(n * h * w, a, b, upFirst ? large : skip.x, upFirst ? skip.x : large);
    const mask = maskJoinRef({ n, h, w, lowN: n, lowGroups: 1, skipN: n, skipGroups: 1, lowFirst: upFirst }, at.mask, skip.mask); // prettier-ignore
    const last = i === 0;
    const activation = last && c.head === "none" ? "none" : "leakyRelu";
    at = block(`dec_${i + 1}`, { x, h, w, c: a + b, mask, groups: [a, b] }, skip.c, 3, 1, activation);
  }
  const head = weights.get("head.weight");
  if (head) {
    const s: ConvShape = { n, h: at.h, w: at.w, c: 3, k: 3, kernel: [1, 1], stride: [1, 1], padding: [0, 0], dilation: [1, 1] }; // prettier-ignore
    const y = pconvForwardRef(s, at.x, fromOihw(head, 1, 3, 3), weights.get("head.bias"));
    return { y: activationRef("sigmoid", 0, y), mask: at.mask };
  }
  if (c.base === "none") return { y: Float64Array.from(at.x), mask: at.mask };
  const base = harmonicRef({ n, h: input.h, w: input.w, masks: n }, input.x, input.mask);
  return { y: base.map((v, i) => v + at.x[i]), mask: at.mask };
}
