/** The U-Net as a state dict of naoto0804's PyTorch port. */
import { UserError } from "../errors.js";
import { type TensorToWrite, writeSafetensors } from "../io/safetensors.js";
import { countOf, type LoadableTensor } from "../nn/module.js";
import { decoderChannels, type PConvUNet, type UNetConfig } from "./unet.js";
import { stateOf } from "./unetWeights.js";

/** The port's batch norm has PyTorch's default, which is not stored with the weights. */
const PORT_BN_EPS = 1e-5;

const floats = (shape: readonly number[], values: Float32Array): TensorToWrite => ({ dtype: "F32", shape, values });

/** [O, first, kh kw] and [O, second, kh kw] in one change places. */
function swapInputs(values: Float32Array, outputs: number, first: number, second: number, taps: number): Float32Array {
  const swapped = new Float32Array(values.length);
  const all = (first + second) * taps;
  for (let o = 0; o < outputs; o++) {
    const of = values.subarray(o * all, (o + 1) * all);
    swapped.set(of.subarray(first * taps), o * all);
    swapped.set(of.subarray(0, first * taps), o * all + second * taps);
  }
  return swapped;
}

/** {@link unetToPort} of a configuration and its tensors, which must fit together. */
export function portTensors(
  config: UNetConfig,
  state: ReadonlyMap<string, LoadableTensor>,
): Map<string, TensorToWrite> {
  const { convention, convBias, head, base, depth } = config;
  if (convention === "keras" || convention === "unscaled" || convBias === "all" || head !== "none" || base !== "none") {
    const what = [
      ...(convention === "keras" ? ["bias in holes"] : []),
      ...(convention === "unscaled" ? ["no ratio"] : []),
      ...(convBias === "all" ? ["a bias in every layer"] : []),
      ...(base === "none" ? [] : ["a smooth interpolation that it adds to"]),
      ...(head === "none" ? [] : ["a last 1x1 layer with sigmoid"]),
    ];
    throw new UserError(
      "unetToPort",
      `expected a network that the PyTorch port can express, got ${what.join(", ")}`,
      "export it as safetensors or ONNX",
    );
  }
  const tensors = new Map<string, TensorToWrite>();
  const conv = (block: string, swap: readonly [number, number] | null) => {
    const weight = state.get(`${block}.conv.weight`)!;
    const [outputs, inputs, kh, kw] = weight.shape;
    let values = weight.toFloat32();
    if (swap) values = swapInputs(values, outputs, ...swap, kh * kw);
    // The port divides by sum(M) alone, the paper's layer by sum(M) / sum(1).
    if (convention === "paper") values = values.map((v) => v * inputs * kh * kw);
    tensors.set(`${block}.conv.input_conv.weight`, floats(weight.shape, values));
    const bias = state.get(`${block}.conv.bias`);
    if (bias) tensors.set(`${block}.conv.input_conv.bias`, floats(bias.shape, bias.toFloat32()));
    const ones = new Float32Array(values.length).fill(1);
    tensors.set(`${block}.conv.mask_conv.weight`, floats(weight.shape, ones));
  };
  const batchNorm = (block: string) => {
    for (const name of ["weight", "bias", "running_mean", "running_var"]) {
      const tensor = state.get(`${block}.bn.${name}`)!;
      const offset = name === "running_var" ? config.bnEps - PORT_BN_EPS : 0;
      const values = tensor.toFloat32().map((v) => v + offset);
      tensors.set(`${block}.bn.${name}`, floats(tensor.shape, values));
    }
    const count = countOf(state.get(`${block}.bn.num_batches_tracked`));
    tensors.set(`${block}.bn.num_batches_tracked`, { dtype: "I64", shape: [], values: BigInt64Array.of(count) });
  };
  for (let level = 1; level <= depth; level++) {
    conv(`enc_${level}`, null);
    if (level > 1) batchNorm(`enc_${level}`);
  }
  for (let level = depth; level >= 1; level--) {
    const { below, skip } = decoderChannels(config, level);
    conv(`dec_${level}`, config.concat === "skip-up" ? [skip, below] : null);
    if (level > 1) batchNorm(`dec_${level}`);
  }
  return tensors;
}

/** {@link unetToPort} of a configuration and its tensors, which must fit together. */
export function portFile(config: UNetConfig, state: ReadonlyMap<string, LoadableTensor>): Uint8Array {
  const images = config.range === "unit" ? "RGB in 0..1" : "RGB normalised by ImageNet's mean and deviation";
  return writeSafetensors(portTensors(config, state), { format: "pt", images });
}

/**
 * The model as a safetensors file whose names and shapes are the PyTorch port's, its constant `mask_conv` tensors included:
 * `PConvUNet(layer_size=depth).load_state_dict(safetensors.torch.load_file(path))` takes it strictly, at the paper's widths.
 *
 * The port's layer gives the same numbers in evaluation: the paper's ratio is folded into the weights, another epsilon into the
 * running variance, [skip, up] is reordered. What cannot be folded is the range: a model of `range` "unit" wants images in 0..1
 * also in the port, whose own images are ImageNet-normalised; the file's metadata says which (`images`).
 *
 * @throws {UserError} for networks that the port cannot express: PConv-Keras' layer, biases before batch norm, a sigmoid head
 */
export async function unetToPort(model: PConvUNet): Promise<Uint8Array> {
  return portFile(model.config, await stateOf(model));
}
