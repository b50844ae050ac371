import { ShapeError } from "../../errors.js";
import { channelSlice, concatForward } from "../../kernels/concat.js";
import type { Tape } from "../tape.js";
import { shapeText, type Tensor } from "../tensor.js";

/**
 * [a, b] along channels; the gradients are the two slices of dy.
 * @throws {ShapeError} when n, h or w differ.
 */
export function concat(tape: Tape, a: Tensor, b: Tensor): Tensor {
  const { n, h, w, c: ca } = a.shape;
  const cb = b.shape.c;
  if (b.shape.n !== n || b.shape.h !== h || b.shape.w !== w) {
    throw new ShapeError(
      "concat",
      `expected equal n, h and w, got ${shapeText(a.shape)} and ${shapeText(b.shape)}`,
      "resize one of them",
    );
  }
  const pixels = n * h * w;
  const y = tape.alloc({ n, h, w, c: ca + cb }, "concat", a.half);
  concatForward(tape.gpu, { pixels, ca, cb }, { a: a.storage, b: b.storage, y: y.storage });
  return tape.record("concat", [a, b], y, [], (dy) =>
    [a, b].map((part, i) => {
      if (!part.requiresGrad) return null;
      const d = tape.like(part, "concat.dx");
      const slice = { pixels, c: ca + cb, first: i * ca, count: part.shape.c };
      channelSlice(tape.gpu, slice, { x: dy.storage, y: d.storage });
      return d;
    }),
  );
}
