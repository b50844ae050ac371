import { reluPoolBackward, reluPoolForward, winnerBytes } from "../../kernels/reluPool.js";
import type { Tape } from "../tape.js";
import type { Tensor } from "../tensor.js";

/**
 * ReLU, then 2x2 max pooling, stride 2, odd rests dropped; the gradient goes to the first maximum of each block where that is
 * above 0. Keeps nothing of x for the backward pass.
 */
export function reluPool2d(tape: Tape, x: Tensor): Tensor {
  const { n, h, w, c } = x.shape;
  const y = tape.alloc({ n, h: h >> 1, w: w >> 1, c }, "reluPool", x.half);
  const winners = tape.storage(winnerBytes(x.shape), "reluPool.winners");
  reluPoolForward(tape.gpu, x.shape, { x: x.storage, y: y.storage, winners });
  return tape.record("reluPool", [x], y, [winners], (dy) => {
    const dx = tape.like(x, "reluPool.dx");
    reluPoolBackward(tape.gpu, x.shape, { winners, dy: dy.storage, dx: dx.storage });
    return [dx];
  });
}
