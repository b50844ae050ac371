/** VGG16 and VGG19 up to pool3: the loss network. Its weights are fixed. */
import { channelAffine } from "../autograd/ops/channelAffine.js";
import { conv2d } from "../autograd/ops/conv2d.js";
import { type HoleReach, holeReach, reachThrough } from "../autograd/ops/receptiveField.js";
import { reluPool2d } from "../autograd/ops/reluPool2d.js";
import type { Tape } from "../autograd/tape.js";
import type { Mask, Tensor } from "../autograd/tensor.js";
import { FormatError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import { Conv2d } from "../nn/layers.js";
import type { LoadableTensor } from "../nn/module.js";
import { Module } from "../nn/module.js";

/** Help for weights that are not VGG's. */
export const VGG_HELP = "give torchvision's VGG16 or VGG19 weights, for example vgg16-397923af.pth, or Keras's as .h5";

/** Indices of the convolutions in torchvision's `features`, by block; pools stand between them. */
const BLOCKS = {
  vgg16: [[0, 2], [5, 7], [10, 12, 14]],
  vgg19: [[0, 2], [5, 7], [10, 12, 14, 16]],
} as const; // prettier-ignore

/** Geometry of all its convolutions: 3x3, as large as the input. */
const SAME = { stride: [1, 1], padding: [1, 1], dilation: [1, 1] } as const;

export type VggArchitecture = keyof typeof BLOCKS;

/** What the loss compares: the results of VGG's first three poolings. */
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
    /** Added to each input channel first, for weights that want another mean (see `vggWeights`); null: nothing. */
    private readonly inputShift: readonly number[] | null = null,
  ) {
    super(gpu);
    let inChannels = 3;
    const specs = BLOCKS[architecture].flat().map((index) => {
      const weight = state.get(`features.${index}.weight`);
      const bias = state.get(`features.${index}.bias`);
      if (!weight || !bias)
        throw new FormatError(where, `expected features.${index}.weight and .bias, got none`, VGG_HELP);
      const [outChannels] = weight.shape;
      const wanted = [outChannels, inChannels, 3, 3];
      for (const [name, got, shape] of [
        [`features.${index}.weight`, weight.shape, wanted],
        [`features.${index}.bias`, bias.shape, [outChannels]],
      ] as const) {
        if (got.join() === shape.join()) continue;
        throw new FormatError(where, `expected ${name} of shape ${shape.join("x")}, got ${got.join("x")}`, VGG_HELP);
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
    return this.together(tape, [image], null)[0];
  }

  /**
   * Features of a truth, of images to compare with it, and of the composite that equals the truth where the mask is 1: only
   * what its holes reach is computed, forward and backward. The images go through the layers together, so that the truth's
   * results need to be kept for one layer only.
   *
   * The composite's gradient is right in the holes alone, as far as the composite's own derivative lets it through.
   * @param truth a constant, normalised like the others, [N,H,W,3]
   * @param composite its mask is [N or 1,H,W], 1 = valid; fractions count as hole
   * @throws {ShapeError} when the mask or the composite does not fit, or the truth requires a gradient
   */
  compare(
    tape: Tape,
    truth: Tensor,
    images: readonly Tensor[],
    composite: { readonly image: Tensor; readonly mask: Mask } | null,
  ): { truth: VggFeatures; images: VggFeatures[]; composite: VggFeatures | null } {
    composite?.mask.checkSingle("Vgg.compare", composite.image.shape);
    const all = [truth, ...images, ...(composite ? [composite.image] : [])];
    const [first, ...others] = this.together(tape, all, composite && holeReach(tape, composite.mask));
    return { truth: first, images: others.slice(0, images.length), composite: others[images.length] ?? null };
  }

  /**
   * Features of images layer by layer. With `reach`, the last image equals the first outside of it.
   *
   * A pixel that no hole reaches sees equal inputs in both, so the first image's value is copied. A hole's gradient comes from
   * pixels that see the hole, layer by layer: what the gradient of a layer's input is outside of the reach never gets to a
   * hole, and the composite passes nothing on but what its holes get. So dx is computed within the reach only.
   */
  private together(tape: Tape, images: readonly Tensor[], reach: HoleReach | null): VggFeatures[] {
    const shift = this.inputShift;
    let xs = shift ? images.map((x) => channelAffine(tape, x, [1, 1, 1], shift)) : images;
    const pools = BLOCKS[this.architecture].map((block) => {
      for (const index of block) {
        const next = reach && reachThrough(tape, reach, { kernel: 3, stride: 1, padding: 1 });
        const ys: Tensor[] = [];
        for (const x of xs) {
          const last = ys.length > 0 && ys.length === xs.length - 1;
          const known = last && reach && next ? { liveX: reach, live: next, base: ys[0] } : undefined;
          const { weight, bias } = this.convs.get(index)!;
          // A block's last ReLU is its pool's.
          const slope = index === block[block.length - 1] ? undefined : 0;
          ys.push(conv2d(tape, x, weight, bias, { ...SAME, slope, known }));
          // A block's first inputs are the caller's images or returned pools; shifted images are nobody's.
          if (index !== block[0] || (index === 0 && shift)) tape.consume(x);
        }
        [xs, reach] = [ys, next];
      }
      const pooled = xs.map((x) => reluPool2d(tape, x));
      for (const x of xs) tape.consume(x);
      if (reach) reach = reachThrough(tape, reach, { kernel: 2, stride: 2, padding: 0 });
      return (xs = pooled);
    });
    return images.map((_, i) => ({ pool1: pools[0][i], pool2: pools[1][i], pool3: pools[2][i] }));
  }
}

/** VGG19 has a convolution where VGG16 has its third pool. */
export const vggArchitecture = (state: ReadonlyMap<string, LoadableTensor>): VggArchitecture =>
  state.has("features.16.weight") ? "vgg19" : "vgg16";
