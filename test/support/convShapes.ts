/** Random convolutions for the kernels' tests. */
import type { ConvShape } from "../../src/kernels/shape.js";
import type { Draw } from "./draw.js";

/** A shape whose window fits; small, so that the references take milliseconds. */
export function randomShape(draw: Draw): ConvShape {
  for (;;) {
    const pair = (lo: number, hi: number) => [draw.integer(lo, hi), draw.integer(lo, hi)] as const;
    const kernel = draw.pick([[1, 1], [3, 3], [5, 5], [7, 7], pair(1, 5), pair(1, 7)] as const);
    const s: ConvShape = {
      n: draw.integer(1, 3),
      h: draw.integer(1, 18),
      w: draw.integer(1, 27),
      c: draw.integer(1, 13),
      k: draw.integer(1, 13),
      kernel,
      stride: draw.pick([[1, 1], [2, 2], pair(1, 3)] as const),
      padding: draw.pick([[0, 0], [kernel[0] >> 1, kernel[1] >> 1], pair(0, 4)] as const),
      dilation: draw.pick([[1, 1], [1, 1], pair(1, 3)] as const),
    };
    const fits = ([0, 1] as const).every(
      (a) => [s.h, s.w][a] + 2 * s.padding[a] >= (s.kernel[a] - 1) * s.dilation[a] + 1,
    );
    if (fits) return s;
  }
}
