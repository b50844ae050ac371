/** The U-Net as an ONNX graph for inference: standard operators only, any batch and size. */
import { encodeOnnx, type OnnxAttribute, type OnnxNode, type OnnxTensor } from "../io/onnxModel.js";
import type { LoadableTensor } from "../nn/module.js";
import { decoderChannels, encoderKernel, LEAKY_SLOPE, type PConvUNet, type UNetConfig } from "./unet.js";
import { stateOf, unetMetadata } from "./unetWeights.js";

/** Builds the graph node by node; every value gets a name that says where it comes from. */
class Graph {
  readonly nodes: OnnxNode[] = [];
  readonly constants: OnnxTensor[] = [];
  private readonly scalars = new Set<string>();

  /** @returns the name of the result */
  node(
    operator: string,
    output: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, OnnxAttribute>> = {},
  ): string {
    this.nodes.push({ operator, inputs, output, attributes });
    return output;
  }

  floats(name: string, shape: readonly number[], values: Float32Array): string {
    this.constants.push({ name, shape, values });
    return name;
  }

  integers(name: string, values: readonly number[]): string {
    this.constants.push({ name, shape: [values.length], values: BigInt64Array.from(values, BigInt) });
    return name;
  }

  /** One constant for each number. */
  scalar(value: number): string {
    const name = `constant_${value}`;
    if (this.scalars.has(name)) return name;
    this.scalars.add(name);
    return this.floats(name, [], Float32Array.of(value));
  }
}

/** Values in the graph: a tensor and the mask of its pixels, [N,1,H,W]. */
interface Masked {
  readonly x: string;
  readonly mask: string;
}

interface Source extends Masked {
  readonly channels: number;
}

interface Role {
  readonly block: string;
  readonly outputs: number;
  readonly kernel: number;
  readonly stride: number;
  readonly activation: "relu" | "leakyRelu" | "none";
}

class Builder {
  readonly graph = new Graph();

  constructor(
    private readonly config: UNetConfig,
    private readonly state: ReadonlyMap<string, LoadableTensor>,
  ) {}

  private weight(name: string, shape?: readonly number[]): string {
    const tensor = this.state.get(name)!;
    return this.graph.floats(name, shape ?? tensor.shape, tensor.toFloat32());
  }

  /** The factor of the sums, and the new mask; the formulas are those of `maskUpdate`. */
  private ratio(block: string, sum: string, window: number, biased: boolean): { scale: string; mask: string } {
    const { graph, config } = this;
    const { convention } = config;
    if (convention === "pytorch") {
      const valid = graph.node("Greater", `${block}.valid`, [sum, graph.scalar(0)]);
      const mask = graph.node("Cast", `${block}.mask`, [valid], { to: 1n });
      // 1 where the sum is 0, so that nothing is divided by 0.
      const hole = graph.node("Sub", `${block}.hole`, [graph.scalar(1), mask]);
      const divisor = graph.node("Add", `${block}.divisor`, [sum, hole]);
      return { scale: graph.node("Div", `${block}.scale`, [mask, divisor]), mask };
    }
    const mask = graph.node("Clip", `${block}.mask`, [sum, graph.scalar(0), graph.scalar(1)]);
    if (convention === "unscaled") return { scale: mask, mask };
    const divisor = graph.node("Add", `${block}.divisor`, [sum, graph.scalar(1e-8)]);
    const inverse = graph.node("Div", `${block}.inverse`, [graph.scalar(window), divisor]);
    let scale = graph.node("Mul", `${block}.scale`, [inverse, mask]);
    // NVIDIA's layer, with fractional masks.
    if (convention === "paper" && biased) scale = graph.node("Mul", `${block}.scale_biased`, [scale, mask]);
    return { scale, mask };
  }

  /** Partial convolution, batch norm where the state has one, activation. */
  block({ block, outputs, kernel, stride, activation }: Role, sources: readonly Source[]): Masked {
    const { graph, config } = this;
    const pad = (kernel - 1) / 2;
    const geometry = { kernel_shape: [kernel, kernel], strides: [stride, stride], pads: [pad, pad, pad, pad] };
    const channels = sources.reduce((total, source) => total + source.channels, 0);
    const masked = sources.map((s, i) => graph.node("Mul", `${block}.masked_${i}`, [s.x, s.mask]));
    const join = (what: string, parts: readonly string[]) =>
      parts.length === 1 ? parts[0] : graph.node("Concat", `${block}.${what}`, parts, { axis: 1n });
    const joined = join("joined", masked);
    const sums = graph.node("Conv", `${block}.sums`, [joined, this.weight(`${block}.conv.weight`)], geometry);

    // Sums the mask over the window and the channels that share it.
    const counts = sources.flatMap((s) => Array<number>(kernel * kernel).fill(s.channels));
    const counting = graph.floats(`${block}.counting`, [1, sources.length, kernel, kernel], Float32Array.from(counts));
    const masks = join("masks", sources.map((s) => s.mask)); // prettier-ignore
    const sum = graph.node("Conv", `${block}.mask_sum`, [masks, counting], geometry);
    const bias = this.state.has(`${block}.conv.bias`) ? this.weight(`${block}.conv.bias`, [1, outputs, 1, 1]) : null;
    const window = kernel * kernel * (config.convention === "keras" ? 1 : channels);
    const { scale, mask } = this.ratio(block, sum, window, bias !== null);
    let y = graph.node("Mul", `${block}.scaled`, [sums, scale]);
    if (bias !== null) {
      const everywhere = config.convention === "keras";
      const added = everywhere ? bias : graph.node("Mul", `${block}.bias_in_valid`, [bias, mask]);
      y = graph.node("Add", `${block}.biased`, [y, added]);
    }
    if (this.state.has(`${block}.bn.weight`)) {
      const names = ["weight", "bias", "running_mean", "running_var"].map((name) => this.weight(`${block}.bn.${name}`));
      y = graph.node("BatchNormalization", `${block}.normalized`, [y, ...names], { epsilon: config.bnEps });
    }
    if (activation === "relu") y = graph.node("Relu", `${block}.activated`, [y]);
    if (activation === "leakyRelu") y = graph.node("LeakyRelu", `${block}.activated`, [y], { alpha: LEAKY_SLOPE });
    return { x: y, mask };
  }

  upsampled({ x, mask }: Masked, block: string): Masked {
    const scales = "upsampling";
    if (!this.graph.constants.some(({ name }) => name === scales)) {
      this.graph.floats(scales, [4], Float32Array.of(1, 1, 2, 2));
    }
    const nearest = { mode: "nearest", coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" };
    const up = (what: string, value: string) =>
      this.graph.node("Resize", `${block}.${what}`, [value, "", scales], nearest);
    return { x: up("upsampled", x), mask: up("upsampled_mask", mask) };
  }

  /** Image and mask without what stands in holes (it may be NaN), padded with hole at the bottom and right. */
  canvas(): { canvas: Masked; size: string } {
    const { graph } = this;
    const valid = graph.node("Greater", "valid", ["mask", graph.scalar(0)]);
    const clean = graph.node("Where", "clean", [valid, "image", graph.scalar(0)]);
    const size = graph.node("Shape", "size", ["image"], { start: 2n, end: 4n });
    const negative = graph.node("Neg", "negative_size", [size]);
    // The remainder has the divisor's sign: how much is missing to the next multiple.
    const missing = graph.node("Mod", "missing", [negative, graph.integers("multiple", [2 ** this.config.depth])]);
    const pads = graph.node("Concat", "pads", [graph.integers("no_pads", [0, 0, 0, 0, 0, 0]), missing], { axis: 0n });
    const pad = (name: string, value: string) => graph.node("Pad", name, [value, pads, graph.scalar(0)]);
    return { canvas: { x: pad("canvas", clean), mask: pad("canvas_mask", "mask") }, size };
  }

  build(): void {
    const { graph, config } = this;
    const { channels, depth } = config;
    const { canvas, size } = this.canvas();
    const skips: Masked[] = [];
    let at = canvas;
    for (let level = 1; level <= depth; level++) {
      skips.push(at);
      const inputs = level === 1 ? 3 : channels[level - 2];
      const role = { block: `enc_${level}`, outputs: channels[level - 1], kernel: encoderKernel(level), stride: 2, activation: "relu" } as const; // prettier-ignore
      at = this.block(role, [{ ...at, channels: inputs }]);
    }
    for (let level = depth; level >= 1; level--) {
      const block = `dec_${level}`;
      const { below, skip } = decoderChannels(config, level);
      const low = { ...this.upsampled(at, block), channels: below };
      const link = { ...skips[level - 1], channels: skip };
      const activation = level === 1 && config.head === "none" ? "none" : "leakyRelu";
      const role = { block, outputs: skip, kernel: 3, stride: 1, activation } as const;
      at = this.block(role, config.concat === "up-skip" ? [low, link] : [link, low]);
    }
    let { x } = at;
    if (config.head === "sigmoid") {
      const head = [x, this.weight("head.weight"), this.weight("head.bias")];
      x = graph.node("Sigmoid", "sigmoid", [graph.node("Conv", "head", head, { kernel_shape: [1, 1] })]);
    }
    const added = config.base !== "none";
    const output = added ? "drawn" : "output";
    graph.node("Slice", output, [x, graph.integers("corner", [0, 0]), size, graph.integers("height_width", [2, 3])]);
    if (added) graph.node("Add", "output", [output, "base"]);
  }
}

/** {@link unetToOnnx} of a configuration and its tensors, which must fit together. */
export function onnxFile(config: UNetConfig, state: ReadonlyMap<string, LoadableTensor>): Uint8Array {
  const builder = new Builder(config, state);
  builder.build();
  const range = config.range === "unit" ? "0..1" : "normalised by ImageNet's mean and deviation";
  return encodeOnnx({
    name: "pconv-unet",
    description:
      `Partial convolution U-Net for inpainting. image [N,3,H,W]: RGB, ${range}; mask [N,1,H,W]: 1 = valid, 0 = hole. ` +
      (config.base === "none"
        ? ""
        : "base [N,3,H,W]: the image with its holes interpolated smoothly (each pixel the mean of its neighbours), which the output adds to; ") +
      "output [N,3,H,W]: the whole picture as the network sees it; take it where the mask is 0.",
    nodes: builder.graph.nodes,
    constants: builder.graph.constants,
    inputs: [
      { name: "image", shape: ["N", 3, "H", "W"] },
      { name: "mask", shape: ["N", 1, "H", "W"] },
      ...(config.base === "none" ? [] : [{ name: "base", shape: ["N", 3, "H", "W"] }]),
    ],
    outputs: [{ name: "output", shape: ["N", 3, "H", "W"] }],
    metadata: unetMetadata(config),
  });
}

/**
 * The model in evaluation mode as an .onnx file (opset 17): inputs `image` [N,3,H,W] in the model's range and `mask` [N,1,H,W],
 * 1 = valid; output `output` [N,3,H,W], what {@link PConvUNet.forward} gives. Any H and W: the graph pads to the multiple of
 * 2^depth that it needs, and what stands in holes is not read.
 * @throws {UserError} when the file would be larger than 2 GiB
 */
export async function unetToOnnx(model: PConvUNet): Promise<Uint8Array> {
  return onnxFile(model.config, await stateOf(model));
}
