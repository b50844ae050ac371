/** Batch normalisation with the activation after it, as the steps that `batchNorm` and `pconvBlock` record. */
import type { Storage } from "../../gpu/pool.js";
import { batchNormBackward, batchNormForward } from "../../kernels/batchNorm.js";
import { batchNormFixed, batchNormStats, type RunningVariance } from "../../kernels/batchNormStats.js";
import { channelSlice } from "../../kernels/concat.js";
import { vec4s } from "../../kernels/shape.js";
import type { Tape } from "../tape.js";
import type { Tensor } from "../tensor.js";

/** How batch norm takes its statistics, and what it does in holes. */
export interface BatchNormOptions {
  readonly eps: number;
  /** Share of the batch in the running statistics (PyTorch's momentum). */
  readonly momentum: number;
  /** What the running variance is of; default `within`, PyTorch's. */
  readonly runningVariance?: RunningVariance;
  /** `batch`: statistics of this batch, which also update the running ones; `fixed`: the running ones, unchanged (eval, frozen). */
  readonly mode: "batch" | "fixed";
  /** Pixels that batch statistics count: all of them (PyTorch), or valid ones only. `valid` needs a mask. */
  readonly statistics: "all" | "valid";
  /** Holes of the result: exact zeros (the invariant of this library), or beta as the reference implementations leave them. */
  readonly holes: "zero" | "keep";
}

/** Parameters and running statistics of batch norm, each [1,1,1,c]. */
export interface BatchNormTensors {
  readonly gamma: Tensor;
  readonly beta: Tensor;
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
}

export interface Normalization {
  readonly tensors: BatchNormTensors;
  readonly options: BatchNormOptions;
  /** Not 0 in valid pixels; `n` is the batch or 1. */
  readonly valid: { readonly mask: Storage; readonly n: number } | null;
  /** Of the activation: 0 is ReLU, 1 none. */
  readonly slope: number;
}

/** Statistics of x [3,C], from the batch or the running ones. */
export function statistics(tape: Tape, x: Tensor, { tensors, options: o, valid }: Normalization): Storage {
  const { gpu } = tape;
  const stats = tape.storage(3 * vec4s(x.shape.c) * 16, "batchNorm.stats");
  const running = { runningMean: tensors.runningMean.storage, runningVar: tensors.runningVar.storage };
  if (o.mode === "fixed") {
    batchNormFixed(gpu, { c: x.shape.c, eps: o.eps }, { ...running, stats });
    return stats;
  }
  const mask = o.statistics === "valid" ? valid?.mask : undefined;
  const { eps, momentum, runningVariance = "within" } = o;
  const settings = { eps, momentum, runningVariance, maskN: valid?.n ?? 1 };
  batchNormStats(gpu, x.shape, settings, { x: x.storage, mask, stats, ...running }, tape.options.ranks);
  return stats;
}

const zeroesHoles = (n: Normalization): boolean => n.valid !== null && n.options.holes === "zero";

/** y = f(gamma xhat + beta), in a new tensor. */
export function normalize(tape: Tape, x: Tensor, stats: Storage, n: Normalization): Tensor {
  const y = tape.like(x, "batchNorm");
  batchNormForward(
    tape.gpu,
    x.shape,
    n.valid?.n ?? 1,
    {
      x: x.storage,
      stats,
      gamma: n.tensors.gamma.storage,
      beta: n.tensors.beta.storage,
      mask: zeroesHoles(n) ? n.valid?.mask : undefined,
      y: y.storage,
    },
    n.slope,
  );
  return y;
}

/** Gradients; `scaled` multiplies dx by the values of the mask. */
export function normalizeBackward(
  tape: Tape,
  x: Tensor,
  stats: Storage,
  n: Normalization,
  dy: Tensor,
  scaled = false,
): { readonly dx: Tensor; readonly dgamma: Tensor; readonly dbeta: Tensor } {
  const { gpu } = tape;
  const { gamma, beta } = n.tensors;
  const c4 = vec4s(x.shape.c);
  const sums = tape.alloc({ n: 1, h: 1, w: 1, c: 8 * c4 }, "batchNorm.sums");
  const dx = tape.like(x, "batchNorm.dx");
  const counted = n.valid !== null && n.options.statistics === "valid" ? "valid" : "all";
  batchNormBackward(
    gpu,
    x.shape,
    {
      statistics: n.options.mode === "fixed" ? "fixed" : counted,
      masked: zeroesHoles(n),
      maskN: n.valid?.n ?? 1,
      slope: n.slope,
      scaled,
    },
    {
      x: x.storage,
      dy: dy.storage,
      stats,
      gamma: gamma.storage,
      beta: beta.storage,
      mask: n.valid?.mask,
      sums: sums.storage,
      dx: dx.storage,
    },
    tape.options.ranks,
  );
  const half = (first: number, like: Tensor) => {
    const d = tape.alloc(like.shape, `${like.name}.grad`);
    channelSlice(gpu, { pixels: 1, c: 8 * c4, first, count: x.shape.c }, { x: sums.storage, y: d.storage });
    return d;
  };
  const dbeta = half(0, beta);
  const dgamma = half(4 * c4, gamma);
  tape.release(sums.storage);
  return { dx, dgamma, dbeta };
}
