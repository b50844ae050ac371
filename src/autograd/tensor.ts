/** A tensor on the device, and a mask on the device. */
import { ShapeError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";
import { type ActivationShape, vec4s } from "../kernels/shape.js";
import { padChannels, unpadChannels } from "./layout.js";

/** How activations and their gradients are stored: everything else is float32, and so is all arithmetic. */
export type Precision = "f32" | "f16";

/**
 * Numbers on the device: [n, h, w, c] float32, or float16 on tapes of that precision, channels padded to four with zeros. Scalars are [1,1,1,1], weights
 * [kh, kw, ci padded, co]. Who made it frees it: a tape frees what its ops made, modules own their parameters.
 */
export class Tensor {
  /** Gradients flow to it. Set by the tape for op results, by modules for parameters. */
  requiresGrad = false;
  /** Gradient of a leaf after `Tape.backward`; added to, until the optimizer clears it. */
  grad: Tensor | null = null;
  /** The mask under whose holes (exact 0 in the mask) this tensor is known to hold exact zeros. */
  zeroUnder: Mask | null = null;

  constructor(
    readonly gpu: Gpu,
    readonly shape: ActivationShape,
    readonly storage: Storage,
    readonly name: string,
  ) {}

  /** Allocates a tensor; its contents are undefined. */
  static alloc(gpu: Gpu, shape: ActivationShape, name: string): Tensor {
    return new Tensor(gpu, shape, gpu.alloc(activationBytes(shape), name), name);
  }

  /**
   * Uploads [n,h,w,c] values without channel padding.
   * @throws {ShapeError} when their number does not fit the shape.
   */
  static from(gpu: Gpu, shape: ActivationShape, values: ArrayLike<number>, name: string): Tensor {
    const { n, h, w, c } = shape;
    if (values.length !== n * h * w * c) {
      throw new ShapeError(
        name,
        `expected ${n}x${h}x${w}x${c} = ${n * h * w * c} values, got ${values.length}`,
        "pass NHWC values",
      );
    }
    const tensor = Tensor.alloc(gpu, shape, name);
    gpu.write(tensor.storage, padChannels(values, c));
    return tensor;
  }

  /** It holds float16. */
  get half(): boolean {
    return this.storage.half ?? false;
  }

  /** Size in vec4s, channel padding included. */
  get vec4s(): number {
    const { n, h, w, c } = this.shape;
    return n * h * w * vec4s(c);
  }

  /** Reads [n,h,w,c] values back, without channel padding. */
  async values(): Promise<Float32Array> {
    const [all] = await this.gpu.read(this.storage);
    return unpadChannels(all, this.shape.c);
  }

  /** The value of a scalar tensor. */
  async item(): Promise<number> {
    return (await this.values())[0];
  }

  /** Gives its device memory back; it cannot be used afterwards. */
  free(): void {
    this.gpu.free(this.storage);
  }
}

/** Bytes of a tensor. */
export const activationBytes = ({ n, h, w, c }: ActivationShape, half = false): number =>
  n * h * w * vec4s(c) * (half ? 8 : 16);

/** `n x h x w x c` for messages. */
export const shapeText = ({ n, h, w, c }: ActivationShape): string => `${n}x${h}x${w}x${c}`;

/** What one layer's mask update yields; see the kernel `maskUpdate`. */
export interface MaskRatio {
  readonly scale: Storage;
  readonly biasScale: Storage;
  readonly n: number;
  readonly mask: Mask;
}

/**
 * A mask on the device, [n, h, w, groups] float32 without padding, **1 = valid, 0 = hole**; n is the batch or 1 (shared).
 * Channels that share a mask form a group: one group for an image, two after a concatenation, one per channel in general.
 * Masks carry no gradient.
 */
export class Mask {
  constructor(
    readonly n: number,
    readonly h: number,
    readonly w: number,
    /** Channels in each group, in order; a single group fits any number of channels and may be `null`. */
    readonly groupChannels: readonly number[] | null,
    readonly storage: Storage,
    /** Nothing but 0 and 1 in it: multiplying what is zero in its holes by it changes nothing. */
    readonly binary: boolean,
    /**
     * All pixels of an image are alike, as far as is known without looking: there is nothing to gain from leaving holes out. No result
     * depends on it.
     */
    readonly uniform = h * w === 1,
  ) {}

  get groups(): number {
    return this.groupChannels?.length ?? 1;
  }

  /**
   * Channels of each group for a tensor of `c` channels.
   * @throws {ShapeError} when the groups do not add up to `c`.
   */
  channelsFor(where: string, c: number): readonly number[] {
    if (this.groupChannels === null) return [c];
    const sum = this.groupChannels.reduce((a, b) => a + b, 0);
    if (sum !== c) {
      throw new ShapeError(
        where,
        `expected a mask for ${c} channels, got groups of ${this.groupChannels.join("+")}`,
        "pass a mask with one group, or groups whose channels add up to the tensor's",
      );
    }
    return this.groupChannels;
  }

  /** @throws {ShapeError} unless this mask fits a tensor of that shape. */
  check(where: string, s: ActivationShape): void {
    if (this.h !== s.h || this.w !== s.w || (this.n !== s.n && this.n !== 1)) {
      throw new ShapeError(
        where,
        `expected a mask of ${s.n}x${s.h}x${s.w} (or batch 1), got ${this.n}x${this.h}x${this.w}`,
        "pass a mask of the image's height and width",
      );
    }
  }

  /** @throws {ShapeError} unless this mask fits a tensor of that shape and has one group. */
  checkSingle(where: string, s: ActivationShape): void {
    this.check(where, s);
    if (this.groups !== 1) {
      throw new ShapeError(
        where,
        `expected a mask of one group, got ${this.groups}`,
        "pass one mask channel for all channels",
      );
    }
  }
}
