/** The training loop's core: one step, and where its pictures come from. No files here. */
import { Tape } from "../autograd/tape.js";
import type { Tensor } from "../autograd/tensor.js";
import { UserError } from "../errors.js";
import { Adam } from "../optim/adam.js";
import type { InpaintingLoss, LossTerm } from "./loss.js";
import type { MaskPicture, MaskSource, Picture, PictureSource } from "./picture.js";
import { Prefetcher } from "./prefetch.js";
import type { PConvUNet } from "./unet.js";

export interface TrainerConfig {
  readonly model: PConvUNet;
  readonly loss: InpaintingLoss;
  readonly images: PictureSource;
  readonly masks: MaskSource;
  /** Side of the square training pictures, in pixels. */
  readonly imageSize: number;
  readonly batchSize: number;
  readonly lr: number;
  /** Everything random follows from it: equal seeds give equal runs on one adapter. */
  readonly seed: number;
  /** Stage 2: the encoder's batch norm uses its running statistics and keeps them. */
  readonly freezeEncoderBatchNorm: boolean;
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
}

interface Sample {
  readonly picture: Picture;
  readonly mask: MaskPicture;
}

/**
 * Trains a model step by step. Sample i of a run is a function of the seed and i alone, so a trainer whose model, optimizer
 * and `step` are restored continues exactly where the run stood.
 */
export class Trainer {
  readonly optimizer: Adam;
  /** Steps taken. */
  step = 0;
  private prefetcher: Prefetcher<Sample> | null = null;

  constructor(readonly config: TrainerConfig) {
    this.optimizer = new Adam(config.model.namedParameters(), { lr: config.lr });
  }

  private sample(index: number): Promise<Sample> {
    const { images, masks, imageSize, seed } = this.config;
    const both = [images.sample(seed, index, imageSize), masks.sample(seed, index, imageSize)] as const;
    return Promise.all(both).then(([picture, mask]) => ({ picture, mask }));
  }

  /** The next batch as [n,h,w,3] values and [n,h,w] masks. */
  private async batch(): Promise<{ pixels: Float32Array; valid: Float32Array }> {
    const { imageSize, batchSize, prefetch = 2 * batchSize } = this.config;
    this.prefetcher ??= new Prefetcher((i) => this.sample(i), this.step * batchSize, Math.max(1, prefetch));
    const area = imageSize * imageSize;
    const pixels = new Float32Array(batchSize * area * 3);
    const valid = new Float32Array(batchSize * area);
    for (let i = 0; i < batchSize; i++) {
      const { picture, mask } = await this.prefetcher.next();
      pixels.set(picture.pixels, i * area * 3);
      valid.set(mask.values, i * area);
    }
    return { pixels, valid };
  }

  /**
   * One step: batch, forward, loss, backward, Adam; one readback for the report.
   * @throws {UserError} when the loss is not finite; the parameters are then those of the step before.
   */
  async trainStep(): Promise<StepReport> {
    const { model, loss, imageSize: size, batchSize: n } = this.config;
    const { pixels, valid } = await this.batch();
    const { gpu } = model;
    model.train();
    model.freezeEncoderBatchNorm(this.config.freezeEncoderBatchNorm);
    const tape = new Tape(gpu);
    try {
      const truth = tape.upload({ n, h: size, w: size, c: 3 }, pixels, "truth");
      const mask = tape.uploadMask({ n, h: size, w: size }, valid);
      const { output } = model.forward(tape, truth, mask);
      const { total, terms } = loss.forward(tape, output, truth, mask);
      tape.backward(total);
      const scalars: [LossTerm | "total", Tensor][] = [["total", total], ...terms];
      const values = await gpu.read(...scalars.map(([, t]) => t.storage));
      const report = Object.fromEntries(scalars.map(([name], i) => [name, values[i][0]]));
      const bad = Object.entries(report).find(([, v]) => !Number.isFinite(v));
      if (bad) {
        throw new UserError(
          `step ${this.step + 1}`,
          `expected a finite loss, got ${bad[0]} = ${bad[1]}`,
          "resume from the last checkpoint with a smaller --lr",
        );
      }
      this.optimizer.step();
      this.step++;
      const { total: sum, ...parts } = report;
      return { step: this.step, loss: sum, terms: parts, lr: this.optimizer.lr };
    } finally {
      this.optimizer.zeroGrad();
      tape.dispose();
    }
  }

  /** Stops fetching ahead and frees the optimizer; the model stays. */
  async close(): Promise<void> {
    await this.prefetcher?.close();
    this.optimizer.free();
  }
}
