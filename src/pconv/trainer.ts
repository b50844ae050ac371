/** The training loop's core: one step, and where its pictures come from. No files here. */
import { Tape, type TapeOptions } from "../autograd/tape.js";
import type { Tensor } from "../autograd/tensor.js";
import { UserError } from "../errors.js";
import type { BufferPlan } from "../gpu/bufferPlan.js";
import type { Storage } from "../gpu/pool.js";
import { GUARD_BYTES, lossGuard, readGuard } from "../kernels/lossGuard.js";
import { readScale } from "../kernels/lossScale.js";
import { Adam } from "../optim/adam.js";
import { Ema } from "../optim/ema.js";
import { LossScaler } from "../optim/lossScaler.js";
import type { ExchangeTime } from "../optim/deviceGroup.js";
import { DataParallel, shardedIndex, stateHash } from "./dataParallel.js";
import type { LossTerm } from "./loss.js";
import type { MaskPicture, Picture } from "./picture.js";
import { Prefetcher } from "./prefetch.js";
import { NotFiniteFinder } from "./notFinite.js";
import type { StepReport, TrainerConfig } from "./trainerConfig.js";
import type { FrozenBatchNorm } from "./unet.js";

export type { StepReport, TrainerConfig } from "./trainerConfig.js";

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
  /** Steps taken; {@link resume} sets it. */
  step = 0;
  private frozen: FrozenBatchNorm;
  /** Batches of steps that a bad loss undid: pictures go on after them. */
  private ahead = 0;
  private prefetcher: Prefetcher<Sample> | null = null;
  /** Set by the device at the first loss that is not finite. */
  private readonly guard: Storage;
  private readonly inFlight: Promise<unknown>[] = [];
  private plan: BufferPlan | null = null;
  private readonly parallel: DataParallel | null;
  /** All ranks have the same state. */
  private shared = false;
  /** Samples of the run before `step` 0, as if it had always taken steps of this size; other sizes before a resume make it so. */
  private origin = 0;

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
    const { processGroup: group } = config;
    this.parallel = group && group.size > 1 ? new DataParallel(config, group) : null;
  }

  /** Samples of one step, on all ranks together. */
  private get globalBatch(): number {
    return this.config.batchSize * (this.config.processGroup?.size ?? 1);
  }

  /** Samples that the run has used, on all ranks together: the next step begins with sample of this index. */
  get samples(): number {
    return this.origin + (this.step + this.ahead) * this.globalBatch;
  }

  /**
   * Goes on after a step of an interrupted run, whose parameters and optimizer have been restored (with a process group on rank 0).
   * @param samples what the run had used then, `Trainer.samples`: it may have taken steps of another size, on another number of ranks.
   * The default is that all its steps were of this size.
   */
  resume(step: number, samples = step * this.globalBatch): void {
    this.step = step;
    this.ahead = 0;
    this.origin = samples - step * this.globalBatch;
    void this.prefetcher?.close();
    this.prefetcher = null;
  }

  /**
   * Gives all ranks rank 0's parameters, statistics, moments, averages and place in the run. Every rank calls it, after rank 0 has
   * restored what it resumes from; the first step, and the first after {@link freezeBatchNorm}, does it too.
   */
  async broadcast(): Promise<void> {
    this.shared = true;
    if (!this.parallel) return;
    const { step, samples } = await this.parallel.broadcast(this);
    if (step !== this.step || samples !== this.samples) this.resume(step, samples);
  }

  /** SHA-256, as hex, of the trained parameters and the optimizer's state; ranks of one run have the same. */
  hash(): Promise<string> {
    return stateHash(this);
  }

  /** What exchanging numbers with other ranks took so far; null with one process. */
  get exchanged(): ExchangeTime | null {
    return this.parallel?.exchanged ?? null;
  }

  /** Stage 2 from the next step on, or stage 1 again: see `TrainerConfig.freezeBatchNorm`. */
  freezeBatchNorm(frozen: FrozenBatchNorm): void {
    if (this.frozen === frozen) return;
    this.frozen = frozen;
    if (this.plan) this.config.model.gpu.dropPlan(this.plan); // other buffers are asked for now
    this.plan = null;
    this.shared = false; // running statistics may be each rank's own, and are used from now on
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
    const { samples: first } = this;
    this.prefetcher ??= new Prefetcher((i) => this.sample(first + this.sharded(i)), 0, Math.max(1, prefetch));
    const samples: Sample[] = [];
    while (samples.length < batchSize) samples.push(await this.prefetcher.next());
    return this.stack(samples);
  }

  /** Index of this rank's sample number `i`, counted from a step's first one. */
  private sharded(i: number): number {
    const { processGroup = { rank: 0, size: 1 }, batchSize } = this.config;
    return shardedIndex(processGroup, batchSize, i);
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
   * With a process group step s is one on samples s n b to (s + 1) n b, of which each of the n ranks takes b that follow each other. Losses and
   * gradients are averaged over the ranks, in buckets that are on their way while the backward pass goes on, before anything is made of
   * them: norm, clipping, guard and loss scaling see the means, and decide the same on all ranks.
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
    if (!this.shared) await this.broadcast();
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
        await this.parallel?.begun(); // whoever uses the group between steps must come behind it, on all ranks
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

  /** Records everything of one step on a new tape; where it is watched, of this rank alone. */
  private record(pixels: Float32Array, valid: Float32Array, watch?: TapeOptions["watch"]): Recorded {
    const { model, loss, imageSize: size, batchSize: n, precision = "f32" } = this.config;
    const { gpu } = model;
    const checkpoint = this.config.gradientCheckpointing ?? false;
    const parallel = watch ? null : this.parallel;
    const tape = new Tape(gpu, { grad: true, precision, checkpoint, watch, ...parallel?.tapeOptions });
    try {
      // A write submits what was recorded before it: both uploads come first.
      const truth = tape.upload({ n, h: size, w: size, c: 3 }, pixels, "truth");
      const mask = tape.uploadMask({ n, h: size, w: size }, valid);
      const { output } = model.forward(tape, truth, mask);
      const { total, terms } = loss.forward(tape, output, truth, mask);
      parallel?.averageLosses([total, ...terms.values()]);
      tape.backward(total, this.optimizer.scaler?.scale);
      parallel?.settle();
      lossGuard(gpu, this.step + 1, { loss: total.storage, guard: this.guard });
      this.optimizer.step(this.guard, this.step + 1);
      this.ema?.step(this.step + 1, this.optimizer.scaler?.state ?? this.guard);
      return { tape, total, terms };
    } catch (error) {
      this.optimizer.zeroGrad();
      parallel?.reset();
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
    this.inFlight.push(this.config.model.gpu.sync().catch(() => undefined)); // what went wrong shows at the next dispatch
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
    const own = await this.firstBadTensor().catch(() => null);
    const first = this.parallel ? await this.parallel.firstToSay(own) : own;
    this.shared = false; // each rank searched alone, which its running statistics have seen
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
  private async firstBadTensor(): Promise<string | null> {
    const { model, batchSize } = this.config;
    const found = new NotFiniteFinder(model);
    try {
      const samples = await Promise.all(
        Array.from({ length: batchSize }, (_, i) => this.sample(this.samples + this.sharded(i))),
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
