/** Whether a run goes on after its device failed, and how. */
import { GpuError } from "../../src/errors.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { GpuMemoryError } from "../../src/gpu/memoryError.js";
import { openGpu } from "../../src/gpu/node.js";
import { mebibytes } from "../../src/mebibytes.js";
import { lossOf, lossText } from "../deviceLoss.js";
import type { TrainOptions } from "./options.js";
import type { StopSignal } from "./stop.js";

/** Seconds before each new try at one and the same step: a driver that restarts needs some. Then the run ends. */
const WAITS = [0, 1, 5, 15, 30];

export interface Failure {
  readonly error: unknown;
  readonly gpu: Gpu;
  readonly o: TrainOptions;
  /** The step that was under way, counted from 1; the last that is kept; whether this device has made a step. */
  readonly step: number;
  readonly kept: number;
  readonly worked: boolean;
}

export class Recovery {
  /** The furthest step that failed, and how often since. */
  private furthest = 0;
  private failures = 0;

  constructor(
    private readonly warn: (text: string) => void,
    private readonly stop: StopSignal,
  ) {}

  /** Opens a device; after a failure it may take the driver a while to have one again. */
  async open(): Promise<Gpu> {
    if (this.failures === 0) return openGpu();
    for (const seconds of WAITS.slice(this.failures)) {
      const gpu = await openGpu().catch((error: unknown) => {
        if (!(error instanceof GpuError)) throw error;
        return null;
      });
      if (gpu) return gpu;
      this.warn(`no device yet: trying again in ${seconds} s`);
      await this.stop.wait(seconds);
    }
    return openGpu();
  }

  /**
   * Makes sense of an error.
   * @returns the options to go on with, on another device
   * @throws the error, when the device is not what failed; {@link GpuError} when there is no way on
   */
  async after(failure: Failure): Promise<TrainOptions> {
    const { error, o, step, worked } = failure;
    const lost = await lossOf(failure.gpu);
    const memory = error instanceof GpuMemoryError;
    if (!lost && !memory) throw error;
    if (!lost && !worked) return this.smaller(failure);
    this.failures = step > this.furthest ? 1 : this.failures + 1;
    this.furthest = Math.max(this.furthest, step);
    const what = lost ? lossText(lost) : "the device has no more room";
    if (this.failures > WAITS.length) {
      throw new GpuError(
        "GPU",
        `expected step ${step} to be made, got ${this.failures} failures in a row: ${what}`,
        "the last checkpoint is kept: end other programs that use the GPU, use a smaller --image-size or --batch-size or " +
          "--gradient-checkpointing, or update the driver, and go on with --resume",
        { cause: error },
      );
    }
    this.warn(`step ${step}: ${what}; opening it again and going on after step ${failure.kept}`);
    await this.stop.wait(WAITS[this.failures - 1]);
    return o;
  }

  /** A first step that does not fit: with less memory, if there is a way that gives the same bits. */
  private smaller({ error, gpu, o }: Failure): TrainOptions {
    const { allocated } = gpu.memory();
    const { message, problem } = error as GpuMemoryError;
    const run = `--image-size ${o.imageSize} --batch-size ${o.batchSize} --width ${o.width} --depth ${o.depth} --precision ${o.precision}`;
    if (!o.gradientCheckpointing) {
      this.warn(`${message.split("\n")[0]}; training with --gradient-checkpointing, which gives the same in more time`);
      return { ...o, gradientCheckpointing: true };
    }
    const half = gpu.half && o.precision === "f32" ? ", --precision f16" : "";
    throw new GpuError(
      "GPU memory",
      `expected a step of ${run} to fit with --gradient-checkpointing, got no room beyond ${mebibytes(allocated)}: ${problem}`,
      `use a smaller --batch-size (if above 1) or --image-size${half}, or a smaller --width; end other programs that use the GPU`,
      { cause: error },
    );
  }
}
