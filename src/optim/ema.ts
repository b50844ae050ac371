/** An exponential moving average of parameters: often the better weights to keep, since it averages the noise of the last steps out. */
import { FormatError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";
import { movingAverage } from "../kernels/movingAverage.js";
import type { LoadableTensor } from "../nn/module.js";
import type { Parameter } from "../nn/parameter.js";

interface Slot {
  readonly name: string;
  readonly parameter: Parameter;
  readonly average: Storage;
}

/**
 * Averages of a fixed list of parameters; they live on the device and begin as the parameters' values. The first steps count more:
 * the decay of step t is min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten.
 */
export class Ema {
  private readonly gpu: Gpu;
  private readonly slots: readonly Slot[];

  /** @param decay above 0 and below 1; 0.999 averages over some thousand steps */
  constructor(
    parameters: readonly [string, Parameter][],
    readonly decay: number,
  ) {
    this.gpu = parameters[0][1].gpu;
    this.slots = parameters.map(([name, parameter]) => {
      const { storage } = parameter;
      const average = this.gpu.alloc(storage.bytes, `average of ${name}`);
      this.gpu.copy(storage, average, storage.bytes);
      return { name, parameter, average };
    });
  }

  /**
   * Records one step of the averages, after the optimizer's of step number `step`.
   * @param guard not 0 in its first word: nothing changes (see `Adam.step`)
   */
  step(step: number, guard: Storage): void {
    const decay = Math.min(this.decay, (1 + step) / (10 + step));
    for (const { parameter, average } of this.slots)
      movingAverage(this.gpu, parameter.vec4s, decay, { parameter: parameter.storage, guard, average });
  }

  /** Runs `work` while the averages stand in the parameters; what they held before is back afterwards, bit for bit. */
  async whileApplied<T>(work: () => Promise<T>): Promise<T> {
    const { gpu, slots } = this;
    const own = slots.map(({ name, parameter }) => gpu.alloc(parameter.storage.bytes, name));
    try {
      slots.forEach(({ parameter: { storage }, average }, i) => {
        gpu.copy(storage, own[i], storage.bytes);
        gpu.copy(average, storage, storage.bytes);
      });
      return await work();
    } finally {
      slots.forEach(({ parameter: { storage } }, i) => {
        gpu.copy(own[i], storage, storage.bytes);
        gpu.free(own[i]);
      });
    }
  }

  /**
   * Restores the averages from a model's state dict that was taken while they stood in the parameters.
   * @throws {FormatError} naming a parameter that is missing or of another shape; nothing is changed then.
   */
  loadStateDict(state: ReadonlyMap<string, LoadableTensor>, where = "averaged weights"): void {
    const entries = this.slots.map(({ name, parameter }) => {
      const entry = state.get(name);
      const wanted = parameter.torchShape.join("x");
      if (entry?.shape.join("x") === wanted) return entry;
      const got = entry ? entry.shape.join("x") : "none";
      throw new FormatError(where, `expected ${name} of shape ${wanted}, got ${got}`, "resume with the same model");
    });
    this.slots.forEach(({ parameter, average }, i) => {
      this.gpu.write(average, parameter.fromTorch(entries[i].toFloat32()));
    });
  }

  /** Frees the averages; the parameters stay. */
  free(): void {
    for (const { average } of this.slots) this.gpu.free(average);
  }
}
