/** VGG16 and VGG19 up to pool3: the loss network. Its weights are fixed. */
import { relu } from "../autograd/ops/activation.js";
import { maxPool2d } from "../autograd/ops/maxPool2d.js";
import type { Tape } from "../autograd/tape.js";
import type { Tensor } from "../autograd/tensor.js";
import { FormatError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import { Conv2d } from "../nn/layers.js";
import type { LoadableTensor } from "../nn/module.js";
import { Module } from "../nn/module.js";

/** Indices of the convolutions in torchvision's `features`, by block; pools stand between them. */
const BLOCKS = {
  vgg16: [[0, 2], [5, 7], [10, 12, 14]],
  vgg19: [[0, 2], [5, 7], [10, 12, 14, 16]],
} as const; // prettier-ignore

export type VggArchitecture = keyof typeof BLOCKS;

export interface VggFeatures {
  readonly pool1: Tensor;
  readonly pool2: Tensor;
  readonly pool3: Tensor;
}

/**
 * The feature extractor: pool1, pool2 and pool3 of VGG (Simonyan & Zisserman 2014). Input [N,H,W,3], normalised as torchvision's;
 * H and W at least 8.
 */
export class Vgg extends Module {
  private readonly convs = new Map<number, Conv2d>();

  /**
   * @param state torchvision's names, `features.0.weight` and so on; other entries (classifier, later blocks) are left alone.
   * @throws {FormatError} when a convolution is missing or has another shape. Channel counts are taken from the weights.
   */
  constructor(
    gpu: Gpu,
    state: ReadonlyMap<string, LoadableTensor>,
    readonly architecture: VggArchitecture = vggArchitecture(state),
    where = "VGG weights",
  ) {
    super(gpu);
    const help = "use torchvision's VGG16 or VGG19 weights, for example vgg16-397923af.pth";
    let inChannels = 3;
    const specs = BLOCKS[architecture].flat().map((index) => {
      const weight = state.get(`features.${index}.weight`);
      const bias = state.get(`features.${index}.bias`);
      if (!weight || !bias) throw new FormatError(where, `expected features.${index}.weight and .bias, got none`, help);
      const [outChannels] = weight.shape;
      const wanted = [outChannels, inChannels, 3, 3];
      for (const [name, got, shape] of [
        [`features.${index}.weight`, weight.shape, wanted],
        [`features.${index}.bias`, bias.shape, [outChannels]],
      ] as const) {
        if (got.join() === shape.join()) continue;
        throw new FormatError(where, `expected ${name} of shape ${shape.join("x")}, got ${got.join("x")}`, help);
      }
      const spec = { index, inChannels, outChannels, weight, bias };
      inChannels = outChannels;
      return spec;
    });
    for (const s of specs) {
      const conv = new Conv2d(gpu, { inChannels: s.inChannels, outChannels: s.outChannels, kernelSize: 3, padding: 1 });
      conv.weight.set(s.weight.toFloat32());
      conv.bias!.set(s.bias.toFloat32());
      conv.weight.requiresGrad = false;
      conv.bias!.requiresGrad = false;
      this.convs.set(s.index, conv);
    }
  }

  override children(): [string, Module][] {
    return [...this.convs].map(([index, conv]) => [`features.${index}`, conv]);
  }

  /** Features of an image; intermediate results are freed as early as gradients allow. */
  forward(tape: Tape, image: Tensor): VggFeatures {
    let x = image;
    const pools = BLOCKS[this.architecture].map((block) => {
      for (const index of block) {
        const conv = this.convs.get(index)!.forward(tape, x);
        const y = relu(tape, conv);
        tape.consume(conv);
        if (index !== block[0]) tape.consume(x); // a block's first input is the caller's image or a returned pool
        x = y;
      }
      const pooled = maxPool2d(tape, x);
      tape.consume(x);
      x = pooled;
      return pooled;
    });
    return { pool1: pools[0], pool2: pools[1], pool3: pools[2] };
  }
}

/** VGG19 has a convolution where VGG16 has its third pool. */
export const vggArchitecture = (state: ReadonlyMap<string, LoadableTensor>): VggArchitecture =>
  state.has("features.16.weight") ? "vgg19" : "vgg16";
