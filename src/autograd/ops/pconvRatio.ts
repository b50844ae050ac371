import { ShapeError } from "../../errors.js";
import { type PConvConvention, maskUpdate } from "../../kernels/maskUpdate.js";
import { maskUpdateUp } from "../../kernels/maskUpdateUp.js";
import { convOutputSize, type ConvShape } from "../../kernels/shape.js";
import type { Tape } from "../tape.js";
import type { Mask, MaskRatio } from "../tensor.js";
import { joinedSize, joinMasks, type MaskedChannels } from "./upsample.js";

export interface RatioOptions {
  readonly convention: PConvConvention;
  /** S counts every channel of the mask (the paper); false: one shared channel, NVIDIA's `multi_channel=False`. */
  readonly multiChannel: boolean;
  readonly biased: boolean;
}

/** The ratio and new mask of a layer of geometry `s`; computed once per tape, mask and geometry. */
export function pconvRatio(tape: Tape, mask: Mask, s: ConvShape, o: RatioOptions): MaskRatio {
  const counted = o.multiChannel ? mask.channelsFor("pconv2d", s.c) : [1];
  const key = JSON.stringify([s.kernel, s.stride, s.padding, s.dilation, o.convention, counted, o.biased]);
  const ofMask = tape.ratios.get(mask) ?? new Map<string, MaskRatio>();
  const known = ofMask.get(key);
  if (known) return known;
  if (!o.multiChannel && mask.groups !== 1) {
    throw new ShapeError(
      "pconv2d",
      `expected one mask group without multiChannel, got ${mask.groups}`,
      "set multiChannel",
    );
  }
  const shape = { ...s, n: mask.n, c: mask.groups, k: 1, channels: counted.reduce((a, b) => a + b, 0) };
  const [h, w] = convOutputSize("pconv2d", s);
  // u = clamp(S, 0, 1) of fractions may be a fraction; of integers it is not.
  const ratio = ratioOf(tape, tape.allocMask({ n: mask.n, h, w }, null, mask.binary || o.convention === "pytorch"));
  maskUpdate(tape.gpu, shape, specOf(o), { mask: mask.storage, weight: tape.gpu.constant(counted), ...targets(ratio) });
  tape.ratios.set(mask, ofMask.set(key, ratio));
  return ratio;
}

/**
 * The ratio and new mask of a decoder level: 3x3 over the masks of its two sources, without joining them where each has one group.
 * @param s the convolution over all channels
 */
export function pconvRatioUp(
  tape: Tape,
  low: MaskedChannels,
  skip: MaskedChannels,
  order: "up-skip" | "skip-up",
  s: ConvShape,
  o: RatioOptions,
): MaskRatio {
  if (!o.multiChannel || low.mask.groups > 1 || skip.mask.groups > 1) {
    return pconvRatio(tape, joinMasks(tape, low, skip, order), s, o);
  }
  const size = joinedSize(low.mask, skip.mask);
  const [[lowChannels], [skipChannels]] = [low, skip].map((m) => m.mask.channelsFor("pconv2dUp", m.channels));
  const binary = low.mask.binary && skip.mask.binary;
  // Each window has a pixel of low: where these are alike and valid, nothing is a hole.
  const out = tape.allocMask(size, null, binary || o.convention === "pytorch", binary && low.mask.uniform);
  const ratio = ratioOf(tape, out);
  const shape = { ...size, lowN: low.mask.n, skipN: skip.mask.n, lowChannels, skipChannels };
  maskUpdateUp(tape.gpu, shape, specOf(o), { low: low.mask.storage, skip: skip.mask.storage, ...targets(ratio) });
  return ratio;
}

/** What kernels are compiled for, and nothing else that the caller's object holds. */
const specOf = ({ convention, biased }: RatioOptions) => ({ convention, biased });

/** Room for what belongs to a new mask. */
function ratioOf(tape: Tape, mask: Mask): MaskRatio {
  const bytes = mask.n * mask.h * mask.w * 4;
  const scale = tape.storage(bytes, "pconv2d.scale");
  const biasScale = tape.storage(bytes, "pconv2d.biasScale");
  return { scale, biasScale, n: mask.n, mask };
}

const targets = ({ scale, biasScale, mask }: MaskRatio) => ({ scale, biasScale, maskOut: mask.storage });
