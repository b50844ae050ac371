/** What a trainer is given, and what one step gives. */
import type { Precision } from "../autograd/tensor.js";
import type { LossScalerConfig } from "../optim/lossScaler.js";
import type { ProcessGroup } from "../optim/processGroup.js";
import type { InpaintingLoss, LossTerm } from "./loss.js";
import type { MaskSource, PictureSource } from "./picture.js";
import type { FrozenBatchNorm, PConvUNet } from "./unet.js";

/** What a `Trainer` trains, on what, and how. */
export interface TrainerConfig {
  readonly model: PConvUNet;
  readonly loss: InpaintingLoss;
  readonly images: PictureSource;
  readonly masks: MaskSource;
  /** Side of the square training pictures, in pixels. */
  readonly imageSize: number;
  /** Samples of one step; with a process group on each rank. */
  readonly batchSize: number;
  /** Learning rate, or that of each step, counted from 1 (see `learningRate`). */
  readonly lr: number | ((step: number) => number);
  /** Gradients whose norm over all parameters is larger are scaled down to it; default: none are. */
  readonly maxGradNorm?: number;
  /** Decay of an exponential moving average of the parameters, see `Trainer.ema`; default: none is kept. */
  readonly emaDecay?: number;
  /** Everything random follows from it: equal seeds give equal runs on one adapter. */
  readonly seed: number;
  /** Stage 2: this batch norm uses its running statistics and keeps them; default `none`. See `reestimateStatistics`. */
  readonly freezeBatchNorm?: FrozenBatchNorm;
  /**
   * Of activations and their gradients; default `f32`. `f16` needs an adapter with half precision (`gpu.half`) and scales the loss:
   * steps whose gradients overflow change nothing but the scale.
   */
  readonly precision?: Precision;
  /** First scale and growth with `f16`; the defaults are torch's. */
  readonly lossScaling?: LossScalerConfig;
  /** Computes some activations again in the backward pass instead of keeping them: less memory, more time, the same bits. */
  readonly gradientCheckpointing?: boolean;
  /** Samples fetched ahead; changes nothing but the waiting. */
  readonly prefetch?: number;
  /**
   * The processes that train this model together: every one makes a trainer of the same configuration and takes the same steps, each on
   * samples of its own; gradients are averaged (see `Trainer.trainStep`). Between steps the group is free for other uses. A group of one is
   * as none.
   */
  readonly processGroup?: ProcessGroup;
  /**
   * Batch norm's statistics are those of all ranks' samples together, as if they were one batch; default `false`: each rank's own, as in
   * PyTorch's DistributedDataParallel, and rank 0's running statistics count. Waits for the other ranks twice a layer.
   */
  readonly syncBatchNorm?: boolean;
  /** Gradients are averaged in buckets of about this many bytes, the last layers' first; default 25 MiB. */
  readonly bucketBytes?: number;
}

/** What one step gave. Terms are unweighted, means over the batch, that of all ranks where there are several. */
export interface StepReport {
  /** Number of the step, counted from 1. */
  readonly step: number;
  readonly loss: number;
  readonly terms: Readonly<Partial<Record<LossTerm, number>>>;
  readonly lr: number;
  /** Norm of all gradients together, before clipping. */
  readonly gradNorm: number;
  /** With `f16`: the loss's scale in the next step, and how many steps were skipped so far. */
  readonly lossScale?: number;
  readonly skipped?: number;
}
