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

/**
 * The mask of `concat([upsampleNearest(low), skip])`, or of the other order: one group per source.
 * @throws {ShapeError} when the skip mask is not twice as large, or the batches differ.
 */
export function joinMasks(
  tape: Tape,
  low: { readonly mask: Mask; readonly channels: number },
  skip: { readonly mask: Mask; readonly channels: number },
  order: "up-skip" | "skip-up",
): Mask {
  const { h, w } = skip.mask;
  const n = Math.max(low.mask.n, skip.mask.n);
  if (h !== 2 * low.mask.h || w !== 2 * low.mask.w || [low, skip].some((s) => s.mask.n !== n && s.mask.n !== 1)) {
    const text = (m: Mask) => `${m.n}x${m.h}x${m.w}`;
    throw new ShapeError(
      "joinMasks",
      `expected a skip mask twice the size, got ${text(low.mask)} and ${text(skip.mask)}`,
      "check the levels",
    );
  }
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
