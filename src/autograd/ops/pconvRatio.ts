import { ShapeError } from "../../errors.js";
import { type PConvConvention, maskUpdate } from "../../kernels/maskUpdate.js";
import { convOutputSize, type ConvShape } from "../../kernels/shape.js";
import type { Tape } from "../tape.js";
import type { Mask, MaskRatio } from "../tensor.js";

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
  const out = tape.allocMask({ n: mask.n, h, w }, null, mask.binary || o.convention === "pytorch");
  const scale = tape.storage(mask.n * h * w * 4, "pconv2d.scale");
  const biasScale = tape.storage(mask.n * h * w * 4, "pconv2d.biasScale");
  maskUpdate(
    tape.gpu,
    shape,
    { convention: o.convention, biased: o.biased },
    { mask: mask.storage, weight: tape.gpu.constant(counted), scale, biasScale, maskOut: out.storage },
  );
  const ratio = { scale, biasScale, n: mask.n, mask: out };
  tape.ratios.set(mask, ofMask.set(key, ratio));
  return ratio;
}
