/** The training loop's core: one step, and where its pictures come from. No files here. */
import { Tape, type TapeOptions } from "../autograd/tape.js";
import type { Precision, Tensor } from "../autograd/tensor.js";
import { UserError } from "../errors.js";
import type { BufferPlan } from "../gpu/bufferPlan.js";
import type { Storage } from "../gpu/pool.js";
import { GUARD_BYTES, lossGuard, readGuard } from "../kernels/lossGuard.js";
import { readScale } from "../kernels/lossScale.js";
import { Adam } from "../optim/adam.js";
import { Ema } from "../optim/ema.js";
import { LossScaler, type LossScalerConfig } from "../optim/lossScaler.js";
import type { InpaintingLoss, LossTerm } from "./loss.js";
import type { MaskPicture, MaskSource, Picture, PictureSource } from "./picture.js";
import { Prefetcher } from "./prefetch.js";
import { NotFiniteFinder } from "./notFinite.js";
import type { FrozenBatchNorm, PConvUNet } from "./unet.js";

/** What a {@link Trainer} trains, on what, and how. */
export interface TrainerConfig {
  readonly model: PConvUNet;
  readonly loss: InpaintingLoss;
  readonly images: PictureSource;
  readonly masks: MaskSource;
  /** Side of the square training pictures, in pixels. */
  readonly imageSize: number;
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
}

/** What one step gave. Terms are unweighted, means over the batch. */
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

/** A run whose scale falls below this overflows whatever the scale; at 2^-14 float16 has lost the gradients anyway. */
const LEAST_SCALE = 2 ** -14;

/**
 * Steps that may wait on the device when nobody reads their loss. The device is never idle with two; more would only hold the
 * memory of their uploads.
 */
const MAX_IN_FLIGHT = 2;

interface Sample {
  readonly picture: Picture;
  readonly mask: MaskPicture;
}

/** One recorded step, to be read and then disposed of. */
interface Recorded {
  readonly tape: Tape;
  readonly total: Tensor;
  readonly terms: ReadonlyMap<LossTerm, Tensor>;
}

/**
 * Trains a model step by step. Sample i of a run is a function of the seed and i alone, so a trainer whose model, optimizer
 * and `step` are restored continues exactly where the run stood.
 */
export class Trainer {
  readonly optimizer: Adam;
  /** Averages of the parameters, where the config asks for them. */
  readonly ema: Ema | null;
  /** Steps taken. */
  step = 0;
  private frozen: FrozenBatchNorm;
  /** Batches of steps that a bad loss undid: pictures go on after them. */
  private ahead = 0;
  private prefetcher: Prefetcher<Sample> | null = null;
  /** Set by the device at the first loss that is not finite. */
  private readonly guard: Storage;
  private readonly inFlight: Promise<unknown>[] = [];
  private plan: BufferPlan | null = null;

  constructor(readonly config: TrainerConfig) {
    const { gpu } = config.model;
    const scaler = config.precision === "f16" ? new LossScaler(gpu, config.lossScaling) : undefined;
    const parameters = config.model.namedParameters();
    const lr = typeof config.lr === "number" ? config.lr : config.lr(1);
    this.optimizer = new Adam(parameters, { lr, scaler, maxGradNorm: config.maxGradNorm });
    this.ema = config.emaDecay === undefined ? null : new Ema(parameters, config.emaDecay);
    this.frozen = config.freezeBatchNorm ?? "none";
    this.guard = gpu.alloc(GUARD_BYTES, "loss guard");
    this.clearGuard();
  }

  /** Stage 2 from the next step on, or stage 1 again: see `TrainerConfig.freezeBatchNorm`. */
  freezeBatchNorm(frozen: FrozenBatchNorm): void {
    if (this.frozen === frozen) return;
    this.frozen = frozen;
    if (this.plan) this.config.model.gpu.dropPlan(this.plan); // other buffers are asked for now
    this.plan = null;
  }

  private clearGuard(): void {
    this.config.model.gpu.write(this.guard, new Uint32Array(GUARD_BYTES / 4));
  }

  private sample(index: number): Promise<Sample> {
    const { images, masks, imageSize, seed } = this.config;
    const both = [images.sample(seed, index, imageSize), masks.sample(seed, index, imageSize)] as const;
    return Promise.all(both).then(([picture, mask]) => ({ picture, mask }));
  }

  /** The next batch as [n,h,w,3] values and [n,h,w] masks. */
  private async batch(): Promise<{ pixels: Float32Array; valid: Float32Array }> {
    const { batchSize, prefetch = 2 * batchSize } = this.config;
    this.prefetcher ??= new Prefetcher(
      (i) => this.sample(i),
      (this.step + this.ahead) * batchSize,
      Math.max(1, prefetch),
    );
    const samples: Sample[] = [];
    while (samples.length < batchSize) samples.push(await this.prefetcher.next());
    return this.stack(samples);
  }

  private stack(samples: readonly Sample[]): { pixels: Float32Array; valid: Float32Array } {
    const area = this.config.imageSize ** 2;
    const pixels = new Float32Array(samples.length * area * 3);
    const valid = new Float32Array(samples.length * area);
    samples.forEach(({ picture, mask }, i) => {
      pixels.set(picture.pixels, i * area * 3);
      valid.set(mask.values, i * area);
    });
    return { pixels, valid };
  }

  /**
   * One step: batch, forward, loss, backward, Adam, all in one submit; one readback for the report.
   *
   * With `report: false` nothing is read back and the host goes on while the device works. A loss that is not finite is found
   * all the same: from that step on the device changes no parameter, and the next step with a report, or
   * {@link checkFinite}, throws.
   * @returns null without a report
   * @throws {UserError} when gradients overflow at any loss scale.
   * @throws {UserError} when a loss is not finite, naming its step; parameters, optimizer and `step` are then those of the step
   * before. Batch norm's running statistics have seen the later batches. The next call goes on with the next pictures.
   */
  async trainStep(): Promise<StepReport>;
  async trainStep(o: { readonly report: boolean }): Promise<StepReport | null>;
  async trainStep({ report = true }: { readonly report?: boolean } = {}): Promise<StepReport | null> {
    const { model } = this.config;
    const { pixels, valid } = await this.batch();
    const { gpu } = model;
    model.train();
    model.freezeBatchNorm(this.frozen);
    const { lr } = this.config;
    if (typeof lr === "function") this.optimizer.lr = lr(this.step + 1);
    this.plan ??= this.rehearse(pixels, valid);
    const { tape, total, terms } = gpu.followPlan(this.plan, () => this.record(pixels, valid));
    try {
      const { scaler } = this.optimizer;
      this.step++;
      if (!report) {
        gpu.flush();
        await this.throttle();
        return null;
      }
      const [guard, gradNorm, sum, ...parts] = await gpu.read(
        this.guard,
        this.optimizer.gradNorm,
        total.storage,
        ...[...terms.values()].map((t: Tensor) => t.storage),
        ...(scaler ? [scaler.state] : []),
      );
      this.inFlight.length = 0; // the readback came after all of them
      const scaling = scaler && readScale(parts.pop()!);
      await this.check(guard, scaling?.scale);
      const values = [...terms.keys()].map((name, i): [LossTerm, number] => [name, parts[i][0]]);
      return {
        step: this.step,
        loss: sum[0],
        terms: Object.fromEntries(values),
        lr: this.optimizer.lr,
        gradNorm: gradNorm[0],
        ...(scaling && { lossScale: scaling.scale, skipped: scaling.skipped }),
      };
    } finally {
      tape.dispose();
    }
  }

  /** Records everything of one step on a new tape. */
  private record(pixels: Float32Array, valid: Float32Array, watch?: TapeOptions["watch"]): Recorded {
    const { model, loss, imageSize: size, batchSize: n, precision = "f32" } = this.config;
    const { gpu } = model;
    const checkpoint = this.config.gradientCheckpointing ?? false;
    const tape = new Tape(gpu, { grad: true, precision, checkpoint, ...(watch && { watch }) });
    try {
      // A write submits what was recorded before it: both uploads come first.
      const truth = tape.upload({ n, h: size, w: size, c: 3 }, pixels, "truth");
      const mask = tape.uploadMask({ n, h: size, w: size }, valid);
      const { output } = model.forward(tape, truth, mask);
      const { total, terms } = loss.forward(tape, output, truth, mask);
      tape.backward(total, this.optimizer.scaler?.scale);
      lossGuard(gpu, this.step + 1, { loss: total.storage, guard: this.guard });
      this.optimizer.step(this.guard, this.step + 1);
      this.ema?.step(this.step + 1, this.optimizer.scaler?.state ?? this.guard);
      return { tape, total, terms };
    } catch (error) {
      this.optimizer.zeroGrad();
      tape.dispose();
      throw error;
    }
  }

  /** The plan of buffers that all steps follow: every step asks for the same ones. Leaves model and optimizer as they are. */
  private rehearse(pixels: Float32Array, valid: Float32Array): BufferPlan {
    return this.keepingCounts(() =>
      this.config.model.gpu.rehearse(() => {
        this.record(pixels, valid).tape.dispose();
      }),
    );
  }

  /** Runs something that counts as no step. */
  private keepingCounts<T>(run: () => T): T {
    const { optimizer } = this;
    const counters = this.config.model.counters();
    const counts = counters.map((c) => c.value);
    const { steps } = optimizer;
    try {
      return run();
    } finally {
      counters.forEach((c, i) => (c.value = counts[i]));
      optimizer.steps = steps;
    }
  }

  /** Waits until the device has only a few steps ahead of it. */
  private async throttle(): Promise<void> {
    const { queue } = this.config.model.gpu.device;
    this.inFlight.push(queue.onSubmittedWorkDone().catch(() => undefined)); // a lost device shows at the next dispatch
    if (this.inFlight.length > MAX_IN_FLIGHT) await this.inFlight.shift();
  }

  /**
   * Makes sure that the losses of all steps so far were finite: before saving what steps without a report have made.
   * @throws {UserError} as {@link trainStep} does
   */
  async checkFinite(): Promise<void> {
    const { scaler } = this.optimizer;
    const [guard, state] = await this.config.model.gpu.read(this.guard, ...(scaler ? [scaler.state] : []));
    await this.check(guard, state && readScale(state).scale);
  }

  private async check(guard: Float32Array, scale = 1): Promise<void> {
    const bad = readGuard(guard);
    if (!bad && scale < LEAST_SCALE) {
      throw new UserError(
        `step ${this.step}`,
        `expected finite gradients, got an overflow in every step down to a loss scale of ${scale}`,
        "train with float32 (--precision f32), or with a smaller learning rate",
      );
    }
    if (!bad) return;
    const undone = this.step - (bad.step - 1);
    this.optimizer.steps -= undone;
    this.step = bad.step - 1;
    if (this.plan) this.config.model.gpu.dropPlan(this.plan); // the search needs its memory
    this.plan = null;
    // The search only says more: whatever hinders it, such as full memory, must not hide what it was for.
    const first = await this.firstBadTensor(bad.step).catch(() => null);
    this.clearGuard();
    this.ahead += undone;
    const what = bad.what === "loss" ? "loss, got total" : "gradient, got a norm";
    throw new UserError(
      `step ${bad.step}`,
      `expected a finite ${what} = ${bad.value}${first === null ? "" : `; the first tensor that is not finite is ${first}`}`,
      "resume from the last checkpoint with a smaller --lr, or with --clip-grad-norm 1",
    );
  }

  /** Goes through a step again, whose parameters the guard has kept, and names the first tensor with an infinity or NaN. */
  private async firstBadTensor(step: number): Promise<string | null> {
    const { model, batchSize } = this.config;
    const found = new NotFiniteFinder(model);
    try {
      const samples = await Promise.all(
        Array.from({ length: batchSize }, (_, i) => this.sample((step - 1 + this.ahead) * batchSize + i)),
      );
      const { pixels, valid } = this.stack(samples);
      if (!pixels.every(Number.isFinite)) return "a training picture";
      found.watchParameters();
      this.keepingCounts(() => this.record(pixels, valid, found.watch).tape.dispose());
      return await found.first();
    } finally {
      found.free();
    }
  }

  /** Stops fetching ahead and frees the optimizer; the model stays. */
  async close(): Promise<void> {
    await this.prefetcher?.close();
    this.optimizer.free();
    this.ema?.free();
    const { gpu } = this.config.model;
    gpu.free(this.guard);
    if (this.plan) gpu.dropPlan(this.plan);
  }
}
