/** Workloads of kernels that are not convolutions: operands with names, a launch, and the reference's results. */
import type { Gpu } from "../src/gpu/gpu.js";
import type { Storage } from "../src/gpu/pool.js";
import { unpadChannels } from "../src/autograd/layout.js";
import { type ActivationShape, convOutputSize, type ConvShape, vec4s } from "../src/kernels/shape.js";
import { Rng } from "../src/pconv/rng.js";
import { fixedFlops } from "./flops.js";
import { DeviceMemory, floats } from "./tensors.js";
import { type Check, ErrorMeter, type Pass, type Workload } from "./workload.js";

/** Draws the values of one input. */
export type Draw = (rng: Rng, count: number) => Float32Array;

export const uniform: Draw = (rng, count) => floats(rng, count);
export const positive: Draw = (rng, count) => floats(rng, count, 0.5, 2);
export const zeros: Draw = (_, count) => new Float32Array(count);
/** A random mask, or region, with a quarter of zeros. */
export const binary: Draw = (rng, count) => floats(rng, count, 0, 4).map((v) => Number(v >= 1));

/** Rows of `c` channels on the device, padded; masks and scalars have no padding and `c` 0. */
export class Operand {
  readonly storage: Storage;
  /** What is on the device, unpadded; inputs only. */
  values: Float32Array = new Float32Array();

  constructor(
    private readonly memory: DeviceMemory,
    readonly rows: number,
    readonly c: number,
    private readonly draw: Draw | null,
  ) {
    this.storage = c === 0 ? memory.room(rows) : memory.activation(rows, c);
  }

  fill(rng: Rng): void {
    if (!this.draw) return this.memory.poison(this.storage);
    this.values = this.draw(rng, this.rows * Math.max(1, this.c));
    if (this.c === 0) this.memory.gpu.write(this.storage, this.values);
    else this.memory.upload(this.storage, this.values, this.c);
  }

  unpad(padded: Float32Array): Float32Array {
    return this.c === 0 ? padded.subarray(0, this.rows) : unpadChannels(padded, this.c);
  }

  get bytes(): number {
    return this.c === 0 ? 4 * this.rows : 16 * vec4s(this.c) * this.rows;
  }
}

export interface OpPlan {
  /** Operations of one pass, roughly: memory is what limits all but `gram`. */
  readonly flops: number;
  readonly record: () => void;
  /** The reference: every result with what it should be after the last launch. */
  readonly want: () => readonly (readonly [operand: Operand, values: ArrayLike<number>])[];
}

/** What a plan builds from: a layer's output, and operands that are drawn and checked. Plans take it apart, hence the arrows. */
export class OpKit {
  readonly operands: Operand[] = [];
  readonly memory: DeviceMemory;
  /** The layer's output, height and width made even for kernels that halve them. */
  readonly s: ActivationShape;
  readonly pixels: number;
  /** Entries without padding, and vec4s with it. */
  readonly count: number;
  readonly vec4s: number;

  constructor(
    readonly gpu: Gpu,
    readonly layer: ConvShape,
  ) {
    this.memory = new DeviceMemory(gpu);
    const [p, q] = convOutputSize("pconv-bench", layer);
    this.s = { n: layer.n, h: p + (p % 2), w: q + (q % 2), c: layer.k };
    this.pixels = this.s.n * this.s.h * this.s.w;
    this.count = this.pixels * this.s.c;
    this.vec4s = this.pixels * vec4s(this.s.c);
  }

  /** An input of `rows` x `c`, the layer's output if not given. */
  readonly input = (rows = this.pixels, c = this.s.c, draw = uniform): Operand =>
    this.own(new Operand(this.memory, rows, c, draw));

  /** Likewise a result. */
  readonly result = (rows = this.pixels, c = this.s.c): Operand => this.own(new Operand(this.memory, rows, c, null));

  /** A random mask of the output, one group. */
  readonly mask = (): Operand => this.input(this.pixels, 0, binary);

  private own(operand: Operand): Operand {
    this.operands.push(operand);
    return operand;
  }
}

/** One row of the benchmark: a kernel, its pass, the kernels that it dispatches, and what it does. */
export interface Op {
  readonly kernel: string;
  readonly pass: Pass;
  readonly covers: readonly string[];
  plan(kit: OpKit): OpPlan;
}

/** The storages of some operands, by their names. */
export const storages = <T extends Record<string, Operand>>(operands: T): { [K in keyof T]: Storage } =>
  Object.fromEntries(Object.entries(operands).map(([name, o]) => [name, o.storage])) as { [K in keyof T]: Storage };

/** A kernel over a layer's output, as a workload. */
export function makeOp(gpu: Gpu, op: Op, layer: ConvShape): Workload {
  const kit = new OpKit(gpu, layer);
  const { flops, record, want } = op.plan(kit);
  return {
    flops: fixedFlops(flops),
    bytes: kit.operands.reduce((sum, o) => sum + o.bytes, 0),
    fill: (seed) => {
      const rng = Rng.of(seed);
      for (const operand of kit.operands) operand.fill(rng);
    },
    record,
    check: async () => {
      const started = performance.now();
      const pairs = want();
      const referenceMs = performance.now() - started;
      const got = await gpu.read(...pairs.map(([operand]) => operand.storage));
      return compareAll(pairs.map(([operand, values], i) => [operand.unpad(got[i]), values]), referenceMs); // prettier-ignore
    },
    free: () => kit.memory.free(),
  };
}

/** Several tensors of different sizes of values: each relative to its own largest, the worst counts. */
export function compareAll(
  pairs: readonly (readonly [got: ArrayLike<number>, want: ArrayLike<number>])[],
  referenceMs: number,
): Check {
  const meters = pairs.map(([got, want]) => {
    const meter = new ErrorMeter();
    for (let i = 0; i < want.length; i++) meter.add(got[i], want[i]);
    return meter;
  });
  const checked = meters.reduce((sum, m) => sum + m.checked, 0);
  return { maxError: Math.max(...meters.map((m) => m.maxError)), checked, entries: checked, referenceMs };
}
