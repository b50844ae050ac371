import { vec4s } from "../../kernels/shape.js";
import { window2d } from "../../kernels/window.js";
import type { Tape } from "../tape.js";
import type { Mask, Tensor } from "../tensor.js";

/** The top left h x w of x, padded with zeros where x is smaller; the gradient is the opposite window. */
export function resizeCanvas(tape: Tape, x: Tensor, h: number, w: number): Tensor {
  const { shape } = x;
  if (shape.h === h && shape.w === w) return x;
  const c = vec4s(shape.c);
  const y = tape.alloc({ ...shape, h, w }, "resizeCanvas", x.half);
  const forward = { n: shape.n, h: shape.h, w: shape.w, c, p: h, q: w, top: 0, left: 0 };
  window2d(tape.gpu, forward, true, { x: x.storage, y: y.storage });
  return tape.record("resizeCanvas", [x], y, [], (dy) => {
    const dx = tape.like(x, "resizeCanvas.dx");
    const backward = { n: shape.n, h, w, c, p: shape.h, q: shape.w, top: 0, left: 0 };
    window2d(tape.gpu, backward, true, { x: dy.storage, y: dx.storage });
    return [dx];
  });
}

/** The same for a mask: what is added is hole. */
export function resizeMaskCanvas(tape: Tape, mask: Mask, h: number, w: number): Mask {
  if (mask.h === h && mask.w === w) return mask;
  const out = tape.allocMask({ n: mask.n, h, w }, mask.groupChannels, mask.binary);
  const shape = { n: mask.n, h: mask.h, w: mask.w, c: mask.groups, p: h, q: w, top: 0, left: 0 };
  window2d(tape.gpu, shape, false, { x: mask.storage, y: out.storage });
  return out;
}
