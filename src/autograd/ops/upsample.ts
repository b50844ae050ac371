import { ShapeError } from "../../errors.js";
import { maskJoin } from "../../kernels/maskJoin.js";
import { upsampleBackward, upsampleForward } from "../../kernels/upsample.js";
import type { Tape } from "../tape.js";
import type { Mask, Tensor } from "../tensor.js";

/** Nearest upsampling by two; dx adds up each 2x2 block. */
export function upsampleNearest(tape: Tape, x: Tensor): Tensor {
  const { n, h, w, c } = x.shape;
  const y = tape.alloc({ n, h: 2 * h, w: 2 * w, c }, "upsample", x.half);
  upsampleForward(tape.gpu, x.shape, { x: x.storage, y: y.storage });
  return tape.record("upsample", [x], y, [], (dy) => {
    const dx = tape.like(x, "upsample.dx");
    upsampleBackward(tape.gpu, x.shape, { dy: dy.storage, dx: dx.storage });
    return [dx];
  });
}

/** A mask and the channels that it is for. */
export interface MaskedChannels {
  readonly mask: Mask;
  readonly channels: number;
}

/**
 * Sizes of the mask of `concat([upsampleNearest(low), skip])`.
 * @throws {ShapeError} when the skip mask is not twice as large, or the batches differ.
 */
export function joinedSize(low: Mask, skip: Mask): { readonly n: number; readonly h: number; readonly w: number } {
  const { h, w } = skip;
  const n = Math.max(low.n, skip.n);
  if (h !== 2 * low.h || w !== 2 * low.w || [low, skip].some((s) => s.n !== n && s.n !== 1)) {
    const text = (m: Mask) => `${m.n}x${m.h}x${m.w}`;
    throw new ShapeError(
      "joinMasks",
      `expected a skip mask twice the size, got ${text(low)} and ${text(skip)}`,
      "check the levels",
    );
  }
  return { n, h, w };
}

/**
 * The mask of `concat([upsampleNearest(low), skip])`, or of the other order: one group per source.
 * @throws {ShapeError} when the skip mask is not twice as large, or the batches differ.
 */
export function joinMasks(tape: Tape, low: MaskedChannels, skip: MaskedChannels, order: "up-skip" | "skip-up"): Mask {
  const { n, h, w } = joinedSize(low.mask, skip.mask);
  const groups = [low.mask.channelsFor("joinMasks", low.channels), skip.mask.channelsFor("joinMasks", skip.channels)];
  const groupChannels = (order === "up-skip" ? groups : groups.reverse()).flat();
  const joined = tape.allocMask({ n, h, w }, groupChannels, low.mask.binary && skip.mask.binary);
  maskJoin(
    tape.gpu,
    {
      n,
      h,
      w,
      lowN: low.mask.n,
      lowGroups: low.mask.groups,
      skipN: skip.mask.n,
      skipGroups: skip.mask.groups,
      lowFirst: order === "up-skip",
    },
    { low: low.mask.storage, skip: skip.mask.storage, joined: joined.storage },
  );
  return joined;
}
