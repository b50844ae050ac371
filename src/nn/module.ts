/** Modules: named parameters, buffers and submodules with PyTorch's names, and state dicts in PyTorch's layout. */
import { FormatError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import { Parameter } from "./parameter.js";

/** One tensor of a state dict: row-major values in PyTorch's layout. */
export type StateTensor =
  | { readonly dtype: "F32"; readonly shape: readonly number[]; readonly values: Float32Array }
  | { readonly dtype: "I64"; readonly shape: readonly number[]; readonly values: BigInt64Array };

/** Tensors by name, as {@link Module.stateDict} gives them. */
export type StateDict = Map<string, StateTensor>;

/** What `loadStateDict` accepts: anything that gives floats and a shape, such as an entry of a weight file. */
export interface LoadableTensor {
  readonly shape: readonly number[];
  /** Its values, row by row, in PyTorch's layout. */
  toFloat32(): Float32Array;
}

/** A count kept on the host and saved as PyTorch's int64 scalar (`num_batches_tracked`). */
export class Counter {
  value = 0;
}

/** The number of a saved {@link Counter}. Nothing depends on it, so one that is missing or damaged is 0. */
export function countOf(tensor: LoadableTensor | undefined): bigint {
  const value = Math.trunc(tensor?.toFloat32()[0] ?? 0);
  return Number.isSafeInteger(value) && value >= 0 ? BigInt(value) : 0n;
}

/**
 * Base of all layers. Properties that are parameters, counters or modules are found by themselves and named by the property,
 * as in PyTorch; a module with lists of children overrides {@link children}.
 */
export abstract class Module {
  /** Batch norm uses and updates batch statistics; set by {@link train} and {@link eval}. */
  training = true;

  constructor(readonly gpu: Gpu) {}

  /** Direct submodules with their names. */
  children(): [string, Module][] {
    return Object.entries(this).filter((entry): entry is [string, Module] => entry[1] instanceof Module);
  }

  private *own<T>(type: abstract new (...args: never[]) => T, prefix: string): Generator<[string, T]> {
    for (const [name, value] of Object.entries(this) as [string, unknown][]) {
      if (value instanceof type) yield [prefix + name, value];
    }
    for (const [name, child] of this.children()) yield* child.own(type, `${prefix}${name}.`);
  }

  /** Trainable parameters by name, in a fixed order. */
  namedParameters(): [string, Parameter][] {
    return [...this.own(Parameter, "")].filter(([, p]) => p.requiresGrad);
  }

  /** Counters here and below. */
  counters(): Counter[] {
    return [...this.own(Counter, "")].map(([, counter]) => counter);
  }

  /** Sets training mode here and below. */
  train(mode = true): this {
    this.training = mode;
    for (const [, child] of this.children()) child.train(mode);
    return this;
  }

  /** Sets evaluation mode: running statistics are used and kept. */
  eval(): this {
    return this.train(false);
  }

  /** All parameters and buffers, read back from the device in one go. */
  async stateDict(): Promise<StateDict> {
    const tensors = [...this.own(Parameter, "")];
    const values = await this.gpu.read(...tensors.map(([, p]) => p.storage));
    const state: StateDict = new Map();
    tensors.forEach(([name, p], i) =>
      state.set(name, { dtype: "F32", shape: p.torchShape, values: p.toTorch(values[i]).slice() }),
    );
    for (const [name, counter] of this.own(Counter, "")) {
      state.set(name, { dtype: "I64", shape: [], values: BigInt64Array.of(BigInt(counter.value)) });
    }
    return state;
  }

  /**
   * Loads every parameter and buffer. Nothing is changed unless all of them fit.
   * @throws {FormatError} naming what is missing, unexpected or of another shape. `num_batches_tracked` may be missing.
   */
  loadStateDict(state: ReadonlyMap<string, LoadableTensor>, where = "state dict"): void {
    const wanted = new Map(this.own(Parameter, ""));
    const counters = new Map(this.own(Counter, ""));
    const missing = [...wanted.keys()].filter((name) => !state.has(name));
    const unexpected = [...state.keys()].filter((name) => !wanted.has(name) && !counters.has(name));
    const list = (names: string[]) =>
      names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");
    const help = "use weights of the same architecture, width and depth";
    if (missing.length)
      throw new FormatError(where, `expected the tensors of this model, got none named ${list(missing)}`, help);
    if (unexpected.length)
      throw new FormatError(where, `expected only this model's tensors, got also ${list(unexpected)}`, help);
    for (const [name, parameter] of wanted) {
      const { shape } = state.get(name)!;
      if (shape.join() !== parameter.torchShape.join()) {
        throw new FormatError(
          where,
          `expected ${name} of shape ${parameter.torchShape.join("x")}, got ${shape.join("x")}`,
          help,
        );
      }
    }
    for (const [name, parameter] of wanted) parameter.set(state.get(name)!.toFloat32());
    for (const [name, counter] of counters) counter.value = Number(countOf(state.get(name)));
  }

  /** Frees every parameter and buffer; the module cannot be used afterwards. */
  free(): void {
    for (const [, p] of this.own(Parameter, "")) p.free();
  }
}
