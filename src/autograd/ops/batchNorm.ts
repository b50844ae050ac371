import { batchNormBackward, batchNormForward } from "../../kernels/batchNorm.js";
import { batchNormFixed, batchNormStats } from "../../kernels/batchNormStats.js";
import { channelSlice } from "../../kernels/concat.js";
import { vec4s } from "../../kernels/shape.js";
import type { Tape } from "../tape.js";
import type { Mask, Tensor } from "../tensor.js";

export interface BatchNormOptions {
  readonly eps: number;
  /** Share of the batch in the running statistics (PyTorch's momentum). */
  readonly momentum: number;
  /** `batch`: statistics of this batch, which also update the running ones; `fixed`: the running ones, unchanged (eval, frozen). */
  readonly mode: "batch" | "fixed";
  /** Pixels that batch statistics count: all of them (PyTorch), or valid ones only. `valid` needs a mask. */
  readonly statistics: "all" | "valid";
  /** Holes of the result: exact zeros (the invariant of this library), or beta as the reference implementations leave them. */
  readonly holes: "zero" | "keep";
}

export interface BatchNormTensors {
  readonly gamma: Tensor;
  readonly beta: Tensor;
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
}

/**
 * Batch normalisation over n, h, w (see the kernels `batchNormStats` and `batchNorm`).
 * @throws {ShapeError} when the mask does not fit.
 */
export function batchNorm(
  tape: Tape,
  x: Tensor,
  mask: Mask | null,
  { gamma, beta, runningMean, runningVar }: BatchNormTensors,
  o: BatchNormOptions,
): Tensor {
  const { gpu } = tape;
  const { shape } = x;
  mask?.checkSingle("batchNorm", shape);
  const maskN = mask?.n ?? 1;
  const masked = mask !== null && o.holes === "zero";
  const validOnly = mask !== null && o.statistics === "valid";
  const stats = tape.storage(3 * vec4s(shape.c) * 16, "batchNorm.stats");
  if (o.mode === "batch") {
    batchNormStats(
      gpu,
      shape,
      { eps: o.eps, momentum: o.momentum, maskN },
      {
        x: x.storage,
        mask: validOnly ? mask.storage : undefined,
        stats,
        runningMean: runningMean.storage,
        runningVar: runningVar.storage,
      },
    );
  } else {
    batchNormFixed(
      gpu,
      { c: shape.c, eps: o.eps },
      {
        runningMean: runningMean.storage,
        runningVar: runningVar.storage,
        stats,
      },
    );
  }
  const y = tape.alloc(shape, "batchNorm");
  batchNormForward(gpu, shape, maskN, {
    x: x.storage,
    stats,
    gamma: gamma.storage,
    beta: beta.storage,
    mask: masked ? mask.storage : undefined,
    y: y.storage,
  });
  if (masked) y.zeroUnder = mask;

  return tape.record("batchNorm", [x, gamma, beta], y, [x, stats], (dy) => {
    const c4 = vec4s(shape.c);
    const sums = tape.alloc({ n: 1, h: 1, w: 1, c: 8 * c4 }, "batchNorm.sums");
    const dx = tape.alloc(shape, "batchNorm.dx");
    const statistics = o.mode === "fixed" ? "fixed" : validOnly ? "valid" : "all";
    batchNormBackward(
      gpu,
      shape,
      { statistics, masked, maskN },
      {
        x: x.storage,
        dy: dy.storage,
        stats,
        gamma: gamma.storage,
        mask: mask?.storage,
        sums: sums.storage,
        dx: dx.storage,
      },
    );
    const half = (first: number, like: Tensor) => {
      const d = tape.alloc(like.shape, `${like.name}.grad`);
      channelSlice(gpu, { pixels: 1, c: 8 * c4, first, count: shape.c }, { x: sums.storage, y: d.storage });
      return d;
    };
    const dbeta = half(0, beta);
    const dgamma = half(4 * c4, gamma);
    tape.release(sums.storage);
    return [dx, dgamma, dbeta];
  });
}
