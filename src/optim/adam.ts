/** Adam (Kingma & Ba 2015) in the form of torch.optim.Adam. */
import { FormatError } from "../errors.js";
import { adam } from "../kernels/adam.js";
import { GUARD_BYTES } from "../kernels/lossGuard.js";
import { gradientNorm } from "../kernels/gradientNorm.js";
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";
import type { LoadableTensor, StateDict } from "../nn/module.js";
import type { Parameter } from "../nn/parameter.js";
import type { LossScaler } from "./lossScaler.js";

/** Options of {@link Adam}. */
export interface AdamConfig {
  readonly lr: number;
  readonly betas?: readonly [number, number];
  readonly eps?: number;
  /** Given: the gradients are those of the loss times its scale; steps whose gradients overflow are skipped. Adam frees it. */
  readonly scaler?: LossScaler | undefined;
  /** Gradients whose norm, taken over all parameters, is larger are scaled down to it (torch's clip_grad_norm_). */
  readonly maxGradNorm?: number | undefined;
}

interface Slot {
  readonly name: string;
  readonly parameter: Parameter;
  readonly m: Storage;
  readonly v: Storage;
}

/** The optimizer of a fixed list of parameters; its moments live on the device. */
export class Adam {
  /** Learning rate of the next step. */
  lr: number;
  /** Steps taken, or skipped by the scaler. */
  steps = 0;
  readonly scaler: LossScaler | null;
  /** Norm of the last step's gradients before clipping, and the factor: one vec4 (norm, factor, 0, 0). Steps with a guard only. */
  readonly gradNorm: Storage;
  private readonly gpu: Gpu;
  private readonly maxGradNorm: number | null;
  /** Where the clipping factor goes when no guard is given. */
  private readonly ownGuard: Storage | undefined;
  private readonly slots: readonly Slot[];
  private readonly betas: readonly [number, number];
  private readonly eps: number;

  constructor(parameters: readonly [string, Parameter][], config: AdamConfig) {
    this.lr = config.lr;
    this.betas = config.betas ?? [0.9, 0.999];
    this.eps = config.eps ?? 1e-8;
    this.scaler = config.scaler ?? null;
    this.maxGradNorm = config.maxGradNorm ?? null;
    this.gpu = parameters[0][1].gpu;
    this.gradNorm = this.gpu.alloc(16, "gradient norm");
    if (this.maxGradNorm !== null) {
      this.ownGuard = this.gpu.alloc(GUARD_BYTES, "own guard");
      this.gpu.write(this.ownGuard, new Uint32Array(GUARD_BYTES / 4));
    }
    this.slots = parameters.map(([name, parameter]) => {
      const zeros = () => {
        const storage = parameter.gpu.alloc(parameter.storage.bytes, `adam ${name}`);
        parameter.gpu.write(storage, new Float32Array(storage.bytes / 4));
        return storage;
      };
      return { name, parameter, m: zeros(), v: zeros() };
    });
  }

  /**
   * Updates every parameter that has a gradient, and clears the gradients.
   * @param guard given: the device leaves everything as it is once this has been set (see the kernel `lossGuard`), as it is set
   * here when the gradients are not finite
   * @param number of the step, for the guard
   */
  step(guard = this.ownGuard, number = this.steps + 1): void {
    this.steps++;
    const { gpu, scaler, maxGradNorm } = this;
    const [beta1, beta2] = this.betas;
    const options = { lr: this.lr, beta1, beta2, eps: this.eps, t: this.steps };
    const gradients = this.slots.flatMap(({ parameter }) => parameter.grad ?? []);
    scaler?.finish(gradients, { steps: this.steps, beta1, beta2 }, guard);
    if (guard) {
      const control = scaler?.state ?? guard;
      const norm = { step: number, most: maxGradNorm, scaled: scaler !== null };
      gradientNorm(gpu, norm, { gradients, control, norm: this.gradNorm });
    }
    for (const { parameter, m, v } of this.slots) {
      if (!parameter.grad) continue;
      adam(gpu, parameter.vec4s, options, {
        parameter: parameter.storage,
        gradient: parameter.grad.storage,
        m,
        v,
        guard,
        clipped: guard !== undefined && maxGradNorm !== null,
        scaling: scaler?.state,
      });
    }
    this.zeroGrad();
  }

  /** Drops the gradients without a step. */
  zeroGrad(): void {
    for (const { parameter } of this.slots) {
      parameter.grad?.free();
      parameter.grad = null;
    }
  }

  /** Moments as `m.<parameter>` and `v.<parameter>` in PyTorch's layout, `steps`, and the scaler's state. */
  async stateDict(): Promise<StateDict> {
    const values = await this.gpu.read(...this.slots.flatMap(({ m, v }) => [m, v]));
    const state: StateDict = new Map();
    this.slots.forEach(({ name, parameter }, i) => {
      for (const [j, key] of ["m", "v"].entries()) {
        state.set(`${key}.${name}`, {
          dtype: "F32",
          shape: parameter.torchShape,
          values: parameter.toTorch(values[2 * i + j]).slice(),
        });
      }
    });
    state.set("steps", { dtype: "I64", shape: [], values: BigInt64Array.of(BigInt(this.steps)) });
    for (const [name, entry] of (await this.scaler?.stateDict()) ?? []) state.set(name, entry);
    return state;
  }

  /**
   * Restores what {@link stateDict} gave; nothing is changed unless everything fits.
   * @throws {FormatError} naming a moment that is missing or of another shape.
   */
  loadStateDict(state: ReadonlyMap<string, LoadableTensor>, where = "optimizer state"): void {
    const loads: [Slot, Storage, LoadableTensor][] = [];
    for (const slot of this.slots) {
      for (const key of ["m", "v"] as const) {
        const entry = state.get(`${key}.${slot.name}`);
        const wanted = slot.parameter.torchShape;
        if (!entry || entry.shape.join() !== wanted.join()) {
          const got = entry ? entry.shape.join("x") : "none";
          throw new FormatError(
            where,
            `expected ${key}.${slot.name} of shape ${wanted.join("x")}, got ${got}`,
            "resume with the same model",
          );
        }
        loads.push([slot, slot[key], entry]);
      }
    }
    const steps = state.get("steps");
    if (!steps)
      throw new FormatError(where, "expected the number of steps, got none", "use a checkpoint made by this library");
    const scaling = this.scaler?.loading(state, where);
    for (const [slot, storage, entry] of loads)
      slot.parameter.gpu.write(storage, slot.parameter.fromTorch(entry.toFloat32()));
    this.steps = Math.trunc(steps.toFloat32()[0]);
    scaling?.();
  }

  /** Frees the moments and pending gradients. */
  free(): void {
    this.zeroGrad();
    this.scaler?.free();
    this.gpu.free(this.gradNorm);
    if (this.ownGuard) this.gpu.free(this.ownGuard);
    for (const { parameter, m, v } of this.slots) {
      parameter.gpu.free(m);
      parameter.gpu.free(v);
    }
  }
}
