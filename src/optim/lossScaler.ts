/**
 * Loss scaling for half-precision activations, in the form of torch.amp.GradScaler, without a readback: gradients too small for
 * float16 would be lost, so the loss is multiplied by a scale before the backward pass and the parameters' gradients are divided by it.
 * A step whose gradients overflow is skipped.
 */
import { Tensor } from "../autograd/tensor.js";
import { FormatError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";
import { gradientCheck } from "../kernels/gradientCheck.js";
import {
  lossScale,
  type LossScaleStep,
  readScale,
  SCALE_STATE_BYTES,
  type ScaleProgress,
  scaleWords,
} from "../kernels/lossScale.js";
import type { LoadableTensor, StateDict } from "../nn/module.js";

/** Options of {@link LossScaler}. */
export interface LossScalerConfig {
  /** First scale; default 65536. */
  readonly initialScale?: number;
  /** Good steps after which it is doubled; default 2000. */
  readonly interval?: number;
}

const NAMES = { scale: "scaler.scale", good: "scaler.good", skipped: "scaler.skipped" } as const;

/** The scale and what decides on it; both live on the device. `Adam` uses it, see its config. */
export class LossScaler {
  /** The gradient of the loss, for `Tape.backward`. */
  readonly scale: Tensor;
  /** See the kernel `lossScale`. */
  readonly state: Storage;
  private readonly interval: number;

  constructor(
    readonly gpu: Gpu,
    { initialScale = 65536, interval = 2000 }: LossScalerConfig = {},
  ) {
    this.interval = interval;
    this.scale = Tensor.alloc(gpu, { n: 1, h: 1, w: 1, c: 1 }, "loss scale");
    this.state = gpu.alloc(SCALE_STATE_BYTES, "loss scale state");
    this.restore({ scale: initialScale, good: 0, skipped: 0 });
  }

  private restore(progress: ScaleProgress): void {
    this.gpu.write(this.state, scaleWords(progress));
    this.gpu.write(this.scale.storage, new Float32Array([progress.scale, 0, 0, 0]));
  }

  /**
   * Records the end of a step: whether the gradients are finite, and what follows from it for the optimizer and the next scale.
   * @param guard as in `Adam.step`
   */
  finish(gradients: readonly Tensor[], o: Omit<LossScaleStep, "interval">, guard?: Storage): void {
    const { gpu, state, interval } = this;
    for (const g of gradients) gradientCheck(gpu, g.vec4s, { gradient: g.storage, state });
    lossScale(gpu, { ...o, interval }, { guard: guard ?? gpu.constant([0]), state, scale: this.scale.storage });
  }

  /** Reads the progress back. */
  async progress(): Promise<ScaleProgress> {
    const [state] = await this.gpu.read(this.state);
    return readScale(state);
  }

  /** The progress as tensors of a checkpoint. */
  async stateDict(): Promise<StateDict> {
    const { scale, good, skipped } = await this.progress();
    const count = (value: number) => ({ dtype: "I64", shape: [], values: BigInt64Array.of(BigInt(value)) }) as const;
    const state: StateDict = new Map();
    state.set(NAMES.scale, { dtype: "F32", shape: [1], values: Float32Array.of(scale) });
    return state.set(NAMES.good, count(good)).set(NAMES.skipped, count(skipped));
  }

  /**
   * Checks what {@link stateDict} gave, and returns how to restore it.
   * @throws {FormatError} when a part is missing or out of range.
   */
  loading(state: ReadonlyMap<string, LoadableTensor>, where: string): () => void {
    const value = (key: keyof ScaleProgress, holds: (v: number) => boolean): number => {
      const [v] = state.get(NAMES[key])?.toFloat32() ?? [];
      if (v !== undefined && holds(v)) return v;
      const problem = `expected ${NAMES[key]} of a run with half precision, got ${v ?? "none"}`;
      throw new FormatError(where, problem, "resume with a checkpoint of the same precision");
    };
    const count = (v: number) => Number.isSafeInteger(v) && v >= 0;
    const progress = {
      scale: value("scale", (v) => Number.isFinite(v) && v > 0),
      good: value("good", (v) => count(v) && v < this.interval),
      skipped: value("skipped", count),
    };
    return () => this.restore(progress);
  }

  /** Frees the scale and its state. */
  free(): void {
    this.scale.free();
    this.gpu.free(this.state);
  }
}
