/** The partial convolution U-Net of Liu et al. 2018, sec. 3.2, and the variants that released weights need. */
import { sigmoid } from "../autograd/ops/activation.js";
import { harmonic } from "../autograd/ops/harmonic.js";
import { maskMultiply } from "../autograd/ops/maskMultiply.js";
import type { MaskedSource } from "../autograd/ops/pconvSums.js";
import { weightedSum } from "../autograd/ops/weightedSum.js";
import { resizeCanvas, resizeMaskCanvas } from "../autograd/ops/window.js";
import type { Tape } from "../autograd/tape.js";
import type { Mask, Tensor } from "../autograd/tensor.js";
import { UserError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import { readSource, type WeightSource } from "../io/source.js";
import { readWeights } from "../io/weights.js";
import type { PConvConvention } from "../kernels/maskUpdate.js";
import { BatchNorm2d, Conv2d, PConv2d, type Then } from "../nn/layers.js";
import { Module } from "../nn/module.js";
import { Rng } from "./rng.js";
import { unetFromCheckpoint } from "./unetWeights.js";

/** Everything that decides the network's shape and arithmetic; stored with its weights. */
export interface UNetConfig {
  /** Levels down and up; the paper has 8 for 512x512. */
  readonly depth: number;
  /** Factor on the paper's channels 64, 128, 256, 512, ...; rounded to multiples of 4. Ignored when `channels` is given. */
  readonly width: number;
  /** Output channels of each encoder level. */
  readonly channels: readonly number[];
  /** Whose partial convolution (see `maskUpdate`). */
  readonly convention: PConvConvention;
  /** Order of the decoder's concatenation. */
  readonly concat: "up-skip" | "skip-up";
  /** Bias in every convolution (PConv-Keras), or in the last one only. */
  readonly convBias: "last" | "all";
  readonly bnEps: number;
  readonly bnMomentum: number;
  /** Pixels that batch statistics count: valid ones, or all (the references, where holes count as zeros). */
  readonly bnStatistics: "valid" | "all";
  /** What follows the last partial convolution: nothing (the paper), or LeakyReLU, 1x1 convolution and sigmoid (PConv-Keras). */
  readonly head: "none" | "sigmoid";
  /**
   * What the last layer's result is added to: nothing (the paper), or the smooth interpolation of the picture into its holes (see the
   * kernel `harmonic`), so that the network has only to learn what that lacks, and no hole is ever black.
   */
  readonly base: "none" | "harmonic";
  /** Pixel values that the network reads and writes: 0..1, or normalised by ImageNet's mean and deviation. */
  readonly range: "unit" | "imagenet";
}

/** Whose batch norm is frozen. */
export type FrozenBatchNorm = "none" | "encoder" | "all";

const PAPER_CHANNELS = [64, 128, 256, 512, 512, 512, 512, 512];
const KERNELS = [7, 5, 5];
export const LEAKY_SLOPE = 0.2;

/** Channels of each encoder level at a width; never below 4. */
export const widthChannels = (width: number, depth: number): number[] =>
  Array.from({ length: depth }, (_, i) => Math.max(4, 4 * Math.round(((PAPER_CHANNELS[i] ?? 512) * width) / 4)));

/**
 * Fills in the defaults (the paper's network).
 * @throws {UserError} when a value is out of range or `channels` does not have `depth` entries.
 */
export function unetConfig(given: Partial<UNetConfig> = {}): UNetConfig {
  const depth = given.depth ?? given.channels?.length ?? 8;
  const width = given.width ?? 1;
  if (!Number.isInteger(depth) || depth < 1 || depth > 12) {
    throw new UserError("depth", `expected an integer from 1 to 12, got ${depth}`, "the paper's network has 8 levels");
  }
  if (!(width > 0 && width <= 8))
    throw new UserError("width", `expected a factor above 0 and up to 8, got ${width}`, "1 is the paper's width");
  const channels = given.channels ?? widthChannels(width, depth);
  if (channels.length !== depth || channels.some((c) => !Number.isInteger(c) || c < 1)) {
    throw new UserError(
      "channels",
      `expected ${depth} positive integers, got ${channels.join(", ")}`,
      "give one number per encoder level",
    );
  }
  return {
    convention: "paper",
    concat: "up-skip",
    convBias: "last",
    bnEps: 1e-5,
    bnMomentum: 0.1,
    bnStatistics: "valid",
    head: "none",
    base: "none",
    range: "unit",
    ...given,
    depth,
    width,
    channels,
  };
}

/** Side of the window of encoder level `level`, counted from 1. */
export const encoderKernel = (level: number): number => KERNELS[level - 1] ?? 3;

/** Channels that decoder level `level`, counted from 1, reads from below and over its skip link, and gives. */
export function decoderChannels({ channels, depth }: UNetConfig, level: number): { below: number; skip: number } {
  // The level below gave its skip link's channels, but for the deepest, which reads the encoder's last output.
  const below = channels[level === depth ? depth - 1 : level - 1];
  return { below, skip: level === 1 ? 3 : channels[level - 2] };
}

/**
 * Names and shapes (PyTorch's layout) of every parameter and running statistic of a network, in no particular order: what a
 * weight file of it must hold, known before anything is allocated. `num_batches_tracked` is not among them.
 */
export function unetTensorShapes(c: UNetConfig): Map<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>();
  const batchNorm = (block: string, channels: number) => {
    for (const name of ["weight", "bias", "running_mean", "running_var"]) shapes.set(`${block}.bn.${name}`, [channels]);
  };
  for (let level = 1; level <= c.depth; level++) {
    const [encoder, decoder] = [`enc_${level}`, `dec_${level}`];
    const outputs = c.channels[level - 1];
    const side = encoderKernel(level);
    shapes.set(`${encoder}.conv.weight`, [outputs, level === 1 ? 3 : c.channels[level - 2], side, side]);
    const { below, skip } = decoderChannels(c, level);
    shapes.set(`${decoder}.conv.weight`, [skip, below + skip, 3, 3]);
    if (c.convBias === "all") shapes.set(`${encoder}.conv.bias`, [outputs]);
    if (c.convBias === "all" || level === 1) shapes.set(`${decoder}.conv.bias`, [skip]);
    if (level === 1) continue;
    batchNorm(encoder, outputs);
    batchNorm(decoder, skip);
  }
  if (c.head === "sigmoid") shapes.set("head.weight", [3, 3, 1, 1]).set("head.bias", [3]);
  return shapes;
}

/** One level: partial convolution, batch norm where there is one, activation. The decoder's upsampling is the U-Net's. */
class PConvBlock extends Module {
  readonly conv: PConv2d;
  readonly bn: BatchNorm2d | null;

  constructor(
    gpu: Gpu,
    c: UNetConfig,
    readonly role: {
      readonly inChannels: number;
      readonly outChannels: number;
      readonly kernel: number;
      readonly stride: number;
      readonly bn: boolean;
      readonly activation: "relu" | "leakyRelu" | "none";
      readonly bias: boolean;
      /** What it gives is the network's output. */
      readonly image?: boolean;
      readonly rng: Rng;
      readonly gain?: number;
      readonly initialBias?: number;
    },
  ) {
    super(gpu);
    this.conv = new PConv2d(gpu, {
      inChannels: role.inChannels,
      outChannels: role.outChannels,
      kernelSize: role.kernel,
      stride: role.stride,
      padding: (role.kernel - 1) / 2,
      bias: role.bias,
      convention: c.convention,
      rng: role.rng,
      gain: role.gain,
      initialBias: role.initialBias,
    });
    const bn = { eps: c.bnEps, momentum: c.bnMomentum, statistics: c.bnStatistics };
    this.bn = role.bn ? new BatchNorm2d(gpu, role.outChannels, bn) : null;
  }

  forward(tape: Tape, x: Tensor, mask: Mask): { y: Tensor; mask: Mask } {
    return this.conv.forward(tape, x, mask, this.then());
  }

  /** A decoder level: over the upsampled `low` and the skip link. */
  forwardUp(tape: Tape, low: MaskedSource, skip: MaskedSource, order: UNetConfig["concat"]): { y: Tensor; mask: Mask } {
    return this.conv.forwardUp(tape, low, skip, order, this.then());
  }

  private then(): Then {
    const slope = { relu: 0, leakyRelu: LEAKY_SLOPE, none: undefined }[this.role.activation];
    return { batchNorm: this.bn, slope, image: this.role.image };
  }
}

/**
 * The U-Net: `depth` encoder levels of stride 2 (7x7, 5x5, 5x5, then 3x3; ReLU; batch norm but for the first) and as many
 * decoder levels (upsample, concatenate the skip link, 3x3, batch norm, LeakyReLU 0.2; the last is the bare convolution).
 * State-dict names: `enc_1.conv.weight`, `enc_2.bn.weight`, ..., `dec_1.conv.bias`, and `head.weight` with a sigmoid head.
 */
export class PConvUNet extends Module {
  readonly config: UNetConfig;
  private readonly encoder: readonly PConvBlock[];
  private readonly decoder: readonly PConvBlock[];
  private readonly headConv: Conv2d | null;

  constructor(gpu: Gpu, config: Partial<UNetConfig> = {}, seed = 0) {
    super(gpu);
    const c = unetConfig(config);
    this.config = c;
    const { channels } = c;
    const rng = Rng.of(seed, 0x756e6574); // "unet": weights and data draw from different streams of one seed
    this.encoder = channels.map((outChannels, i) => {
      const bias = c.convBias === "all";
      const inChannels = i === 0 ? 3 : channels[i - 1];
      return new PConvBlock(gpu, c, {
        inChannels,
        outChannels,
        kernel: encoderKernel(i + 1),
        stride: 2,
        bn: i > 0,
        activation: "relu",
        bias,
        rng,
      });
    });
    this.decoder = channels.map((_, i) => {
      const { below, skip } = decoderChannels(c, i + 1);
      const last = i === 0;
      return new PConvBlock(gpu, c, {
        inChannels: below + skip,
        outChannels: skip,
        kernel: 3,
        stride: 1,
        bn: !last,
        activation: last && c.head === "none" ? "none" : "leakyRelu",
        bias: last || c.convBias === "all",
        image: last && c.head === "none",
        rng,
        // The bare last layer starts near mid-grey: with Kaiming's gain for ReLU it would start with noise as strong as the
        // picture, which takes hundreds of steps to unlearn.
        ...(last && c.head === "none"
          ? { gain: 0.1, initialBias: c.range === "unit" && c.base === "none" ? 0.5 : 0 }
          : {}),
      });
    });
    this.headConv =
      c.head === "sigmoid" ? new Conv2d(gpu, { inChannels: 3, outChannels: 3, kernelSize: 1, rng }) : null;
  }

  /**
   * A network from weights: a safetensors file of this library, or a checkpoint of the PyTorch port or of PConv-Keras.
   *
   * @param source bytes, a URL, or on Node a path
   * @throws {UserError} when the file cannot be had; {@link FormatError} when it is damaged or holds something else
   * @example
   * const model = await PConvUNet.load(gpu, "weights.safetensors");
   */
  static async load(gpu: Gpu, source: WeightSource): Promise<PConvUNet> {
    const { bytes, name } = await readSource(source);
    return unetFromCheckpoint(gpu, await readWeights(bytes, name), name);
  }

  override children(): [string, Module][] {
    return [
      ...this.encoder.map((block, i): [string, Module] => [`enc_${i + 1}`, block]),
      ...this.decoder.map((block, i): [string, Module] => [`dec_${i + 1}`, block]).reverse(),
      ...(this.headConv ? [["head", this.headConv] as [string, Module]] : []),
    ];
  }

  /**
   * Freezes batch norm and frees the rest: frozen layers use their running statistics and keep them; weight and bias still train.
   * Stage 2 of Liu et al. 2018, sec. 4.2, freezes the encoder's.
   */
  freezeBatchNorm(which: FrozenBatchNorm): void {
    for (const { bn } of this.encoder) if (bn) bn.frozen = which !== "none";
    for (const { bn } of this.decoder) if (bn) bn.frozen = which === "all";
  }

  /**
   * Runs the network on [N,H,W,3] and its mask, 1 = valid ([N or 1,H,W], one group). Any size: up to a multiple of 2^depth the
   * image is padded with hole. Returns the whole output image [N,H,W,3] and its mask.
   * @throws {ShapeError} when the mask does not fit.
   */
  forward(tape: Tape, image: Tensor, mask: Mask): { output: Tensor; mask: Mask } {
    const { h, w } = image.shape;
    mask.checkSingle("PConvUNet", image.shape);
    const multiple = 2 ** this.config.depth;
    const up = (size: number) => multiple * Math.ceil(size / multiple);
    let m = resizeMaskCanvas(tape, mask, up(h), up(w));
    const canvas = resizeCanvas(tape, image, up(h), up(w));
    // Masked once: the first level and the last skip link both read it. Fractions would be multiplied twice.
    let x = m.binary ? maskMultiply(tape, canvas, m) : canvas;
    const skips: { x: Tensor; mask: Mask }[] = [];
    for (const block of this.encoder) {
      skips.push({ x, mask: m });
      ({ y: x, mask: m } = block.forward(tape, x, m));
    }
    const order = this.config.concat;
    for (let i = this.decoder.length - 1; i >= 0; i--) {
      const skip = skips[i];
      const low = { x, mask: m };
      ({ y: x, mask: m } = this.decoder[i].forwardUp(tape, low, skip, order));
      tape.consume(low.x);
      if (skip.x !== image) tape.consume(skip.x); // the caller's image stays the caller's
    }
    if (this.headConv) x = sigmoid(tape, this.headConv.forward(tape, x, { image: true }));
    const drawn = resizeCanvas(tape, x, h, w);
    const output =
      this.config.base === "none" ? drawn : weightedSum(tape, [drawn, harmonic(tape, image, mask)], [1, 1]);
    return { output, mask: resizeMaskCanvas(tape, m, h, w) };
  }
}
