/** Layers with PyTorch's names, options and state-dict keys. */
import { batchNorm } from "../autograd/ops/batchNorm.js";
import { conv2d } from "../autograd/ops/conv2d.js";
import type { BatchNormOptions, BatchNormTensors } from "../autograd/ops/normalize.js";
import { pconv2d, pconv2dUp } from "../autograd/ops/pconv2d.js";
import type { MaskedSource } from "../autograd/ops/pconvSums.js";
import type { Tape } from "../autograd/tape.js";
import type { Mask, Tensor } from "../autograd/tensor.js";
import { ShapeError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import type { RunningVariance } from "../kernels/batchNormStats.js";
import type { PConvConvention } from "../kernels/maskUpdate.js";
import { Rng } from "../pconv/rng.js";
import { Counter, Module } from "./module.js";
import { Parameter } from "./parameter.js";

/** A number for both directions, or [height, width]. */
export type Pair = number | readonly [number, number];
const pair = (v: Pair): readonly [number, number] => (typeof v === "number" ? [v, v] : v);

/** Options of PyTorch's `Conv2d`; pairs are [height, width]. */
export interface Conv2dConfig {
  readonly inChannels: number;
  readonly outChannels: number;
  readonly kernelSize: Pair;
  readonly stride?: Pair;
  readonly padding?: Pair;
  readonly dilation?: Pair;
  readonly bias?: boolean;
  /** Where the initial weights come from; equal generators give equal weights. */
  readonly rng?: Rng;
  /** Initial weights are normal with deviation gain / sqrt(fan in); default sqrt(2), Kaiming's for ReLU. */
  readonly gain?: number;
  /** Initial value of the bias; default 0. */
  readonly initialBias?: number;
}

/** What `Conv2d` and `PConv2d` share: weight [O,I,kh,kw] (Kaiming normal, fan in), bias [O] (zeros), geometry. */
abstract class ConvBase extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  protected readonly geometry: {
    readonly stride: readonly [number, number];
    readonly padding: readonly [number, number];
    readonly dilation: readonly [number, number];
  };

  constructor(gpu: Gpu, c: Conv2dConfig) {
    super(gpu);
    const [kh, kw] = pair(c.kernelSize);
    const fanIn = c.inChannels * kh * kw;
    const rng = c.rng ?? Rng.of(0);
    const std = (c.gain ?? Math.SQRT2) / Math.sqrt(fanIn);
    const initial = Float32Array.from({ length: c.outChannels * fanIn }, () => std * rng.normal());
    this.weight = new Parameter(gpu, [c.outChannels, c.inChannels, kh, kw], "weight", initial);
    this.bias =
      (c.bias ?? true)
        ? new Parameter(gpu, [c.outChannels], "bias", new Float32Array(c.outChannels).fill(c.initialBias ?? 0))
        : null;
    this.geometry = { stride: pair(c.stride ?? 1), padding: pair(c.padding ?? 0), dilation: pair(c.dilation ?? 1) };
  }
}

/** Ordinary convolution. */
export class Conv2d extends ConvBase {
  /** `image`: the result is float32 on every tape. */
  forward(tape: Tape, x: Tensor, { image }: { readonly image?: boolean } = {}): Tensor {
    return conv2d(tape, x, this.weight, this.bias, { ...this.geometry, image });
  }
}

export interface PConv2dConfig extends Conv2dConfig {
  /** Whose ratio, mask update and bias rule; `paper` is Liu et al. 2018 and NVIDIA's layer. */
  readonly convention?: PConvConvention;
  /** The ratio counts every channel's mask (default); false: one mask channel shared by all (NVIDIA's `multi_channel`). */
  readonly multiChannel?: boolean;
}

/** What follows a partial convolution in the same op. */
export interface Then {
  readonly batchNorm?: BatchNorm2d | null;
  /** Activation max(v, 0) + slope min(v, 0): 0 is ReLU; none by default. */
  readonly slope?: number | undefined;
  /** The result is an image: float32 on every tape. */
  readonly image?: boolean | undefined;
}

/**
 * Partial convolution (Liu et al. 2018, eq. 1-2). Input [N,H,W,C] and its mask, 1 = valid; output [N,P,Q,K], exactly 0 where
 * no input was valid, and the new mask.
 *
 * @example
 * const layer = new PConv2d(gpu, { inChannels: 3, outChannels: 64, kernelSize: 7, stride: 2, padding: 3 });
 * const { y, mask: next } = layer.forward(tape, image, mask);
 */
export class PConv2d extends ConvBase {
  private readonly convention: PConvConvention;
  private readonly multiChannel: boolean;

  constructor(gpu: Gpu, c: PConv2dConfig) {
    super(gpu, c);
    this.convention = c.convention ?? "paper";
    this.multiChannel = c.multiChannel ?? true;
  }

  /**
   * `mask` null: only the padding is hole ("partial convolution based padding"). `then` is what follows, fused with the layer:
   * equal to the modules one after the other, with fewer passes over memory.
   */
  forward(tape: Tape, x: Tensor, mask: Mask | null, then: Then = {}): { y: Tensor; mask: Mask } {
    return pconv2d(tape, x, mask, this.weight, this.bias, { ...this.geometry, ...this.options(then) });
  }

  private options(then: Then) {
    const batchNorm = then.batchNorm?.next() ?? null;
    const { slope, image } = then;
    return { convention: this.convention, multiChannel: this.multiChannel, batchNorm, slope, image };
  }

  /**
   * The layer over `concat([upsampleNearest(low), skip])`, or the other order, without those two tensors. For 3x3 layers of
   * stride 1 and padding 1: a decoder level.
   */
  forwardUp(
    tape: Tape,
    low: MaskedSource,
    skip: MaskedSource,
    order: "up-skip" | "skip-up",
    then: Then = {},
  ): { y: Tensor; mask: Mask } {
    const { stride, padding, dilation } = this.geometry;
    if ([...stride, ...padding, ...dilation].some((v) => v !== 1)) {
      throw new ShapeError(
        "PConv2d.forwardUp",
        `expected stride, padding and dilation 1, got ${stride.join("x")}, ${padding.join("x")} and ${dilation.join("x")}`,
        "upsample and concatenate, then use forward",
      );
    }
    return pconv2dUp(tape, low, skip, order, this.weight, this.bias, this.options(then));
  }
}

export interface BatchNorm2dConfig {
  readonly eps?: number;
  /** Share of the batch in the running statistics. */
  readonly momentum?: number;
  /** Pixels that the statistics count when a mask is given. */
  readonly statistics?: "all" | "valid";
  /**
   * What the running variance is of: the pixels of all batches, or the mean of the batches' own. The default is `total` where valid
   * pixels are counted and `within`, PyTorch's, else.
   */
  readonly runningVariance?: RunningVariance;
  /** What a masked result holds in holes. */
  readonly holes?: "zero" | "keep";
}

/** Batch normalisation with running statistics, in training, evaluation and frozen form. */
export class BatchNorm2d extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;
  readonly running_mean: Parameter;
  readonly running_var: Parameter;
  readonly num_batches_tracked = new Counter();
  /** The running statistics are used and kept even in training (stage 2); weight and bias still train. */
  frozen = false;
  /** Share of the batch in the running statistics; 1 makes them those of the last batch. */
  momentum: number;

  constructor(
    gpu: Gpu,
    channels: number,
    private readonly config: BatchNorm2dConfig = {},
  ) {
    super(gpu);
    this.momentum = config.momentum ?? 0.1;
    const make = (name: string, value: number, trained: boolean) =>
      new Parameter(gpu, [channels], name, new Float32Array(channels).fill(value), trained);
    this.weight = make("weight", 1, true);
    this.bias = make("bias", 0, true);
    this.running_mean = make("running_mean", 0, false);
    this.running_var = make("running_var", 1, false);
  }

  /** What the next forward pass uses; it counts as one. */
  next(): { readonly tensors: BatchNormTensors; readonly options: BatchNormOptions } {
    const batch = this.training && !this.frozen;
    if (batch) this.num_batches_tracked.value++;
    const tensors = {
      gamma: this.weight,
      beta: this.bias,
      runningMean: this.running_mean,
      runningVar: this.running_var,
    };
    const statistics = this.config.statistics ?? "all";
    const options = {
      eps: this.config.eps ?? 1e-5,
      momentum: this.momentum,
      mode: batch ? "batch" : "fixed",
      statistics,
      runningVariance: this.config.runningVariance ?? (statistics === "valid" ? "total" : "within"),
      holes: this.config.holes ?? "zero",
    } as const;
    return { tensors, options };
  }

  /** Normalises [N,H,W,C]; with a mask, as `statistics` and `holes` say. */
  forward(tape: Tape, x: Tensor, mask: Mask | null = null): Tensor {
    const { tensors, options } = this.next();
    return batchNorm(tape, x, mask, tensors, options);
  }
}
