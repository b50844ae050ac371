/** A network on a device, for all pictures of a command: on another device when that is lost, in smaller tiles when it is full. */
import { GpuError } from "../../src/errors.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { GpuMemoryError } from "../../src/gpu/memoryError.js";
import { defaultTile } from "../../src/pconv/inpaint.js";
import type { PConvUNet } from "../../src/pconv/unet.js";
import { lossOf, lossText } from "../deviceLoss.js";
import { type Filled, fillFile, type FillOptions } from "./fillFile.js";
import type { Job } from "./jobs.js";

/** How often a device that is lost at one and the same picture is opened again. */
const MOST_LOSSES = 3;
/** Smaller tiles show the network too little. */
const LEAST_TILE = 32;

export class Painter {
  private constructor(
    private readonly openNetwork: (gpu: Gpu) => Promise<PConvUNet>,
    private readonly openGpu: () => Promise<Gpu>,
    private readonly say: (text: string) => void,
    private gpu: Gpu,
    private model: PConvUNet,
    private tile: number,
  ) {}

  /**
   * Opens both; `say` is told of what changes on the way.
   * @param tile side of the tiles in pixels; undefined: the network's own
   * @throws {UserError} when there is no device, or no such network
   */
  static async open(o: {
    readonly openGpu: () => Promise<Gpu>;
    readonly openNetwork: (gpu: Gpu) => Promise<PConvUNet>;
    readonly say: (text: string) => void;
    readonly tile: number | undefined;
  }): Promise<Painter> {
    const gpu = await o.openGpu();
    try {
      const model = await o.openNetwork(gpu);
      return new Painter(o.openNetwork, o.openGpu, o.say, gpu, model, o.tile ?? defaultTile(model));
    } catch (error) {
      gpu.close();
      throw error;
    }
  }

  get adapterName(): string {
    return this.gpu.adapter.name;
  }

  /**
   * Fills one file, see `fillFile`.
   * @throws {GpuError} when the device is lost again and again, or has no room for the smallest tiles
   */
  async fill(job: Job, options: Omit<FillOptions, "tile">): Promise<Filled> {
    for (let losses = 0; ;) {
      try {
        return await fillFile(this.model, job, { ...options, tile: this.tile });
      } catch (error) {
        if (!(error instanceof GpuError) || options.signal.aborted) throw error;
        if (error instanceof GpuMemoryError) this.shrink(error);
        else {
          const lost = await lossOf(this.gpu);
          if (!lost || ++losses > MOST_LOSSES) throw error;
          this.say(`${job.image}: ${lossText(lost)}; opening it again`);
        }
        await this.reopen();
      }
    }
  }

  /** Halves the tiles, from now on. @throws {GpuError} when they are the smallest */
  private shrink(error: GpuMemoryError): void {
    const multiple = 2 ** this.model.config.depth;
    const half = multiple * Math.ceil(Math.max(LEAST_TILE, this.tile / 2) / multiple);
    if (half >= this.tile) {
      throw new GpuError(
        "GPU memory",
        `expected room for a tile of ${this.tile} pixels, the smallest, got none: ${error.problem}`,
        "end other programs that use the GPU, or use weights of a smaller network",
        { cause: error },
      );
    }
    this.say(`no room on the device for tiles of ${this.tile} pixels: going on with ${half} (--tile ${half})`);
    this.tile = half;
  }

  private async reopen(): Promise<void> {
    this.gpu.close();
    this.gpu = await this.openGpu();
    this.model = await this.openNetwork(this.gpu);
  }

  close(): void {
    this.gpu.close();
  }
}
