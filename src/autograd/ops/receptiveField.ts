import { type FieldWindow, fieldSize, receptiveField as kernel } from "../../kernels/receptiveField.js";
import type { Storage } from "../../gpu/pool.js";
import type { Tape } from "../tape.js";
import type { Mask } from "../tensor.js";

/** Pixels that hole pixels of the image reach: 1 there, else 0; [n,h,w], n is the batch or 1. Belongs to the tape. */
export interface HoleReach {
  readonly mask: Storage;
  readonly n: number;
  readonly h: number;
  readonly w: number;
}

function through(tape: Tape, source: Storage, o: FieldWindow): HoleReach {
  const [h, w] = fieldSize(o);
  const mask = tape.storage(o.n * h * w * 4, "holeReach");
  kernel(tape.gpu, o, { source, live: mask });
  return { mask, n: o.n, h, w };
}

/**
 * The pixels of an image that are not wholly valid.
 * @throws {ShapeError} when the mask has several groups.
 */
export function holeReach(tape: Tape, mask: Mask): HoleReach {
  const { n, h, w } = mask;
  mask.checkSingle("holeReach", { n, h, w, c: 1 });
  return through(tape, mask.storage, { n, h, w, kernel: 1, stride: 1, padding: 0, clear: 1 });
}

/** What they reach through a layer with a square window, a convolution or a pool. */
export function reachThrough(
  tape: Tape,
  { mask, n, h, w }: HoleReach,
  window: { readonly kernel: number; readonly stride: number; readonly padding: number },
): HoleReach {
  return through(tape, mask, { n, h, w, ...window, clear: 0 });
}
