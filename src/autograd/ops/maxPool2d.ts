import { maxPoolBackward, maxPoolForward } from "../../kernels/maxPool.js";
import type { Tape } from "../tape.js";
import type { Tensor } from "../tensor.js";

/** 2x2 max pooling, stride 2, odd rests dropped; the gradient goes to the first maximum of each block. */
export function maxPool2d(tape: Tape, x: Tensor): Tensor {
  const { n, h, w, c } = x.shape;
  const y = tape.alloc({ n, h: h >> 1, w: w >> 1, c }, "maxPool", x.half);
  maxPoolForward(tape.gpu, x.shape, { x: x.storage, y: y.storage });
  return tape.record("maxPool", [x], y, [x], (dy) => {
    const dx = tape.like(x, "maxPool.dx");
    maxPoolBackward(tape.gpu, x.shape, { x: x.storage, dy: dy.storage, dx: dx.storage });
    return [dx];
  });
}
