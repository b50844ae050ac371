/** A tensor that a module owns, with its shape and values in PyTorch's layout. */
import { ShapeError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import { Tensor } from "../autograd/tensor.js";
import { deviceToOihw, oihwToDevice, padChannels, unpadChannels } from "../autograd/layout.js";
import { vec4s } from "../kernels/shape.js";

/**
 * Parameters (`requiresGrad`) and buffers (running statistics). `torchShape` is [O,I,kh,kw] for convolution weights and [C]
 * for everything else; on the device weights are [kh,kw,I padded,O padded].
 */
export class Parameter extends Tensor {
  constructor(
    gpu: Gpu,
    readonly torchShape: readonly number[],
    name: string,
    values: ArrayLike<number>,
    requiresGrad = true,
  ) {
    const [o, i = 1, kh = 1, kw = 1] = torchShape;
    const shape = torchShape.length === 4 ? { n: kh, h: kw, w: 4 * vec4s(i), c: o } : { n: 1, h: 1, w: 1, c: o };
    const bytes = shape.n * shape.h * shape.w * vec4s(shape.c) * 16;
    super(gpu, shape, gpu.alloc(bytes, name), name);
    this.requiresGrad = requiresGrad;
    this.set(values);
  }

  /** Number of values, without padding. */
  get size(): number {
    return this.torchShape.reduce((a, b) => a * b, 1);
  }

  /** Uploads values in PyTorch's layout. */
  set(values: ArrayLike<number>): void {
    if (values.length !== this.size) {
      throw new ShapeError(
        this.name,
        `expected ${this.torchShape.join("x")} = ${this.size} values, got ${values.length}`,
        "check the shape",
      );
    }
    this.gpu.write(this.storage, this.fromTorch(values));
  }

  /** Values in PyTorch's layout as the device holds them. */
  fromTorch(values: ArrayLike<number>): Float32Array {
    return this.torchShape.length === 4 ? oihwToDevice(values, this.torchShape) : padChannels(values, this.size);
  }

  /** Device values of a tensor of this parameter's shape, such as its gradient, in PyTorch's layout. */
  toTorch(device: Float32Array): Float32Array {
    return this.torchShape.length === 4 ? deviceToOihw(device, this.torchShape) : unpadChannels(device, this.size);
  }

  /** Gives the device memory of values and gradient back. */
  override free(): void {
    this.grad?.free();
    this.grad = null;
    super.free();
  }
}
