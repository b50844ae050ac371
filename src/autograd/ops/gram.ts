import { gramBackward, gramForward } from "../../kernels/gram.js";
import type { Tape } from "../tape.js";
import type { Tensor } from "../tensor.js";

/** Gram matrix F^T F / (C H W) of [n,h,w,c] features, as [n,1,c,c]; dF = (dG + dG^T) F / (C H W). */
export function gram(tape: Tape, f: Tensor): Tensor {
  const { n, c } = f.shape;
  const g = tape.alloc({ n, h: 1, w: c, c }, "gram");
  gramForward(tape.gpu, f.shape, { f: f.storage, g: g.storage });
  return tape.record("gram", [f], g, [f], (dg) => {
    const df = tape.like(f, "gram.df");
    gramBackward(tape.gpu, f.shape, { f: f.storage, dg: dg.storage, df: df.storage });
    return [df];
  });
}
