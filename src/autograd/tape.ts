/**
 * The tape: ops record how to run backward, and the tape frees what they made.
 *
 * Ownership is simple: every tensor and mask made through a tape belongs to it and is gone after `dispose`. During
 * `backward` an op's result is freed as soon as its own backward has run, because every op that read it ran before.
 */
import { ShapeError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";
import type { BatchRanks } from "../kernels/batchNormStats.js";
import type { ActivationShape } from "../kernels/shape.js";
import { weightedSum } from "../kernels/weightedSum.js";
import { activationBytes, Mask, type MaskRatio, type Precision, shapeText, Tensor } from "./tensor.js";

/** Options of {@link Tape}. */
export interface TapeOptions {
  /** `false` records nothing: for inference. */
  readonly grad: boolean;
  /**
   * `f16` stores what convolutions give, and everything made from it, as float16; parameters and their gradients, masks, statistics,
   * scalars and images stay float32. Default `f32`.
   */
  readonly precision?: Precision;
  /**
   * Gradient checkpointing (Chen et al. 2016): what stands between a partial convolution and its batch norm is not kept but
   * computed again in the backward pass. Same bits, less memory, one more forward convolution a layer. Default `false`.
   */
  readonly checkpoint?: boolean;
  /** Given: batch norm's statistics are those of all ranks' batches together, as if they were one; default: each rank's own. */
  readonly ranks?: BatchRanks | undefined;
  /**
   * Called in the backward pass when a leaf's gradient is complete: it is recorded, and nothing will be added to it any more. Also for
   * a leaf that got none, because no gradient came to the ops that read it.
   */
  readonly onGradient?: ((leaf: Tensor) => void) | undefined;
  /** Sees every op's result as soon as it is recorded, and in the backward pass every gradient: for finding faults. */
  readonly watch?: ((seen: Watched) => void) | undefined;
}

/** What an op made, intact only until the call returns. */
export interface Watched {
  readonly op: string;
  /** What the op read: parameters tell which layer it is. */
  readonly inputs: readonly Tensor[];
  readonly tensor: Tensor;
  /** The input that it is the gradient of; null for a result. */
  readonly gradientOf: Tensor | null;
}

/** Gradients of an op's inputs, in their order, made from the gradient of its output; `null` where none is wanted. */
export type Backward = (dy: Tensor) => readonly (Tensor | null)[];

interface Node {
  readonly name: string;
  readonly inputs: readonly Tensor[];
  readonly output: Tensor;
  readonly saved: readonly (Tensor | Storage)[];
  readonly backward: Backward;
}

/** Records ops with how to run backward, and owns what they make until {@link Tape.dispose}. */
export class Tape {
  private readonly nodes: Node[] = [];
  private readonly owned = new Set<Storage>();
  private readonly savedCount = new Map<Tensor, number>();
  private readonly kept = new Set<Tensor>();
  /** Results of ops; every other tensor is a leaf. */
  private readonly results = new WeakSet<Tensor>();
  /** How many ops that read a leaf have yet to run backward. */
  private readonly uses = new Map<Tensor, number>();
  /** Ratios and new masks of layers by mask and geometry: each is computed once on a tape, however many layers ask for it. */
  readonly ratios = new Map<Mask, Map<string, MaskRatio>>();

  constructor(
    readonly gpu: Gpu,
    readonly options: TapeOptions = { grad: true },
  ) {}

  /** Activations are stored as float16. */
  get half(): boolean {
    return this.options.precision === "f16";
  }

  /** Allocates storage that lives until it is freed or the tape is disposed. */
  storage(bytes: number, name: string, half = false): Storage {
    const storage = this.gpu.alloc(bytes, name, half);
    this.owned.add(storage);
    return storage;
  }

  /** Allocates a tensor of the tape, of float16 if `half`; its contents are undefined. */
  alloc(shape: ActivationShape, name: string, half = false): Tensor {
    return new Tensor(this.gpu, shape, this.storage(activationBytes(shape, half), name, half), name);
  }

  /** Allocates a tensor of another's shape and precision, such as its gradient; its contents are undefined. */
  like({ shape, half }: Tensor, name: string): Tensor {
    return this.alloc(shape, name, half);
  }

  /** Uploads [n,h,w,c] values without padding; freed with the tape. */
  upload(shape: ActivationShape, values: ArrayLike<number>, name: string): Tensor {
    const tensor = Tensor.from(this.gpu, shape, values, name);
    this.owned.add(tensor.storage);
    return tensor;
  }

  /**
   * Uploads a mask: [n,h,w,groups], 1 = valid.
   * @throws {ShapeError} when the number of values does not fit.
   */
  uploadMask(
    shape: { readonly n: number; readonly h: number; readonly w: number },
    values: ArrayLike<number>,
    groupChannels: readonly number[] | null = null,
  ): Mask {
    const count = shape.n * shape.h * shape.w * (groupChannels?.length ?? 1);
    if (values.length !== count) {
      throw new ShapeError("mask", `expected ${count} values, got ${values.length}`, "pass [n, h, w, groups] values");
    }
    const floats = Float32Array.from(values);
    const mask = this.allocMask(shape, groupChannels, floats.every((v) => v === 0 || v === 1)); // prettier-ignore
    this.gpu.write(mask.storage, floats);
    return mask;
  }

  /** Allocates a mask of the tape; its contents are undefined. `binary` promises that they will be 0 and 1 only; `uniform` see `Mask`. */
  allocMask(
    s: { readonly n: number; readonly h: number; readonly w: number },
    groupChannels: readonly number[] | null,
    binary: boolean,
    uniform?: boolean,
  ): Mask {
    const bytes = s.n * s.h * s.w * (groupChannels?.length ?? 1) * 4;
    return new Mask(s.n, s.h, s.w, groupChannels, this.storage(bytes, "mask"), binary, uniform);
  }

  /** Frees storage before the end of the tape. */
  release(storage: Storage): void {
    if (this.owned.delete(storage)) this.gpu.free(storage);
  }

  /**
   * Records one op. `saved` is everything that `backward` will read besides dy: tensors it must find intact, and storage
   * of its own that is freed after it ran.
   */
  record(
    name: string,
    inputs: readonly Tensor[],
    output: Tensor,
    saved: readonly (Tensor | Storage)[],
    backward: Backward,
  ): Tensor {
    this.options.watch?.({ op: name, inputs, tensor: output, gradientOf: null });
    output.requiresGrad = this.options.grad && inputs.some((t) => t.requiresGrad);
    if (output.requiresGrad) {
      this.nodes.push({ name, inputs, output, saved, backward });
      this.results.add(output);
      for (const s of saved) if (s instanceof Tensor) this.savedCount.set(s, (this.savedCount.get(s) ?? 0) + 1);
      for (const leaf of this.leavesOf(inputs)) this.uses.set(leaf, (this.uses.get(leaf) ?? 0) + 1);
    } else {
      for (const s of saved) if (!(s instanceof Tensor)) this.release(s);
    }
    return output;
  }

  /** Says that no further op will read `t`: it is freed now unless some backward needs it. */
  consume(t: Tensor): void {
    if (!this.kept.has(t) && !this.savedCount.get(t)) this.release(t.storage);
  }

  /** Keeps an op's result readable until the tape is disposed. */
  keep(t: Tensor): Tensor {
    this.kept.add(t);
    return t;
  }

  /**
   * Runs backward from a scalar, or from any tensor whose gradient `dy` is given. Gradients of leaves are added to `leaf.grad`,
   * which the caller owns; everything else that the tape made is freed on the way, but for kept tensors.
   * @throws {ShapeError} for a tensor that is not a scalar without `dy`, or a `dy` of another shape.
   */
  backward(from: Tensor, dy?: Tensor): void {
    const { n, h, w, c } = from.shape;
    if (!dy && n * h * w * c !== 1) {
      throw new ShapeError(
        "Tape.backward",
        `expected a scalar, got ${shapeText(from.shape)}`,
        "pass the gradient of the output",
      );
    }
    if (dy && shapeText(dy.shape) !== shapeText(from.shape)) {
      const shapes = `expected a gradient of ${shapeText(from.shape)}, got ${shapeText(dy.shape)}`;
      throw new ShapeError("Tape.backward", shapes, "pass the gradient of the output");
    }
    const gradients = new Map<Tensor, Tensor>();
    const seed = this.alloc(from.shape, "seed");
    const source = dy?.storage ?? this.gpu.constant([1]);
    weightedSum(this.gpu, seed.vec4s, { alpha: 1 }, { a: source, y: seed.storage });
    gradients.set(from, seed);

    for (let node = this.nodes.pop(); node; node = this.nodes.pop()) {
      const g = gradients.get(node.output);
      if (g) {
        gradients.delete(node.output);
        const results = node.backward(g);
        const { name: op, inputs } = node;
        inputs.forEach((input, i) => {
          const tensor = results[i];
          if (tensor) this.options.watch?.({ op, inputs, tensor, gradientOf: input });
          this.add(gradients, input, tensor);
        });
        this.release(g.storage);
      }
      for (const s of node.saved) if (!(s instanceof Tensor)) this.release(s);
      if (!this.kept.has(node.output)) this.release(node.output.storage);
      for (const leaf of this.leavesOf(node.inputs)) {
        const left = this.uses.get(leaf)! - 1;
        this.uses.set(leaf, left);
        if (left === 0) this.options.onGradient?.(leaf);
      }
    }
  }

  private leavesOf(inputs: readonly Tensor[]): Tensor[] {
    return inputs.filter((input) => input.requiresGrad && !this.results.has(input));
  }

  /** Adds a gradient to an input's: to `grad` of a leaf, to the pending one of an op's result. Takes over `g`. */
  private add(gradients: Map<Tensor, Tensor>, input: Tensor, g: Tensor | null | undefined): void {
    if (!g) return;
    if (!input.requiresGrad) {
      this.release(g.storage);
      return;
    }
    const leaf = !this.results.has(input);
    const before = leaf ? input.grad : gradients.get(input);
    let sum = g;
    if (before) {
      sum = this.like(input, `${input.name}.grad`);
      weightedSum(this.gpu, sum.vec4s, { alpha: 1, beta: 1 }, { a: before.storage, b: g.storage, y: sum.storage });
      this.release(g.storage);
      if (leaf) before.free();
      else this.release(before.storage);
    }
    if (leaf) {
      this.owned.delete(sum.storage); // the leaf's owner frees it
      input.grad = sum;
    } else gradients.set(input, sum);
  }

  /** Frees everything that the tape still owns. */
  dispose(): void {
    for (const storage of this.owned) this.gpu.free(storage);
    this.owned.clear();
    this.nodes.length = 0;
    this.ratios.clear();
  }
}
