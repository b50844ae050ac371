/** VGG weights under other names and for other inputs, as {@link Vgg} wants them. */
import { IMAGENET } from "../autograd/ops/channelAffine.js";
import { FormatError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import { quote } from "../io/byteReader.js";
import type { TensorEntry } from "../io/tensorEntry.js";
import type { LoadableTensor } from "../nn/module.js";
import { Vgg, VGG_HELP } from "./vgg.js";

/**
 * What weights want to see: `torchvision` is RGB normalised by ImageNet's mean and deviation, `caffe` is BGR of 0..255 less
 * Caffe's mean, as the weights that come with Keras.
 */
export type VggConvention = "torchvision" | "caffe";

/** Caffe's mean of ImageNet in RGB 0..255 (Keras subtracts it in BGR: 103.939, 116.779, 123.68). */
const CAFFE_MEAN = [123.68, 116.779, 103.939] as const;

const FIRST = "features.0.weight";

/** A VGG's tensors by torchvision's names, for images normalised as torchvision's to which `inputShift` is added. */
export interface VggWeights {
  readonly tensors: ReadonlyMap<string, LoadableTensor>;
  readonly inputShift: readonly number[] | null;
}

/** Names that Keras's own weight files are distributed under. */
export const isKerasVggName = (name: string): boolean =>
  /(?:^|[\\/])vgg(?:16|19)_weights_tf_dim_ordering_tf_kernels(?:_notop)?\.h5$/.test(name.replace(/[?#].*$/, ""));

/**
 * The tensors of `features`, and what else has its prefix, with that prefix taken off; null where there is no VGG.
 * @throws {FormatError} when there are several
 */
export function findVgg(
  tensors: ReadonlyMap<string, TensorEntry>,
  where: string,
): ReadonlyMap<string, TensorEntry> | null {
  const prefixes = [...tensors.keys()]
    .filter((name) => name === FIRST || name.endsWith(`.${FIRST}`))
    .map((name) => name.slice(0, -FIRST.length));
  if (prefixes.length === 0) return null;
  if (prefixes.length > 1 && !prefixes.includes("")) {
    const found = prefixes.map((prefix) => quote(prefix + FIRST)).join(", ");
    throw new FormatError(where, `expected one VGG, got ${prefixes.length}: ${found}`, "save only the one to use");
  }
  const prefix = prefixes.includes("") ? "" : prefixes[0];
  return new Map(
    [...tensors]
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, tensor]) => [name.slice(prefix.length), tensor]),
  );
}

/**
 * Weights for Caffe's input as weights for torchvision's, exact everywhere: with t = (rgb - mean) / std the input that they want
 * is 255 rgb - m = 255 std (t + s), s = (mean - m / 255) / std. So the first layer's channels change places and are scaled by
 * 255 std, and s is added to the input: it is not folded into the bias, because the zeros of the padding stand for 255 rgb = m,
 * which is t = -s and not t = 0.
 *
 * @throws {FormatError} when the first layer does not read three channels
 */
export function vggFromCaffe(tensors: ReadonlyMap<string, LoadableTensor>, where: string): VggWeights {
  const first = tensors.get(FIRST);
  if (first?.shape.length !== 4 || first.shape[1] !== 3) {
    throw new FormatError(
      where,
      `expected ${FIRST} of shape Ox3x3x3, got ${first?.shape.join("x") ?? "none"}`,
      VGG_HELP,
    );
  }
  const taps = first.shape[2] * first.shape[3];
  const toFloat32 = () => {
    const bgr = first.toFloat32();
    return bgr.map((_, i) => {
      const [o, c, tap] = [Math.floor(i / (3 * taps)), Math.floor(i / taps) % 3, i % taps];
      return bgr[(3 * o + 2 - c) * taps + tap] * 255 * IMAGENET.std[c];
    });
  };
  return {
    tensors: new Map(tensors).set(FIRST, { shape: first.shape, toFloat32 }),
    inputShift: IMAGENET.mean.map((mean, c) => (mean - CAFFE_MEAN[c] / 255) / IMAGENET.std[c]),
  };
}

/**
 * The same weights without a shift of the input, for files that others read: the shift goes into the first layer's bias, which
 * is exact but for the outermost pixels of conv1_1, where the padding's zeros are then worth 0 instead of the shift.
 */
export function foldInputShift(
  { tensors, inputShift }: VggWeights,
  where: string,
): ReadonlyMap<string, LoadableTensor> {
  if (inputShift === null) return tensors;
  const weight = tensors.get(FIRST)!;
  const bias = tensors.get("features.0.bias");
  if (bias?.shape.join() !== String(weight.shape[0])) {
    const got = bias?.shape.join("x") ?? "none";
    throw new FormatError(where, `expected features.0.bias of ${weight.shape[0]} values, got ${got}`, VGG_HELP);
  }
  const taps = weight.shape[2] * weight.shape[3];
  const toFloat32 = () => {
    const values = weight.toFloat32();
    return bias.toFloat32().map((b, o) => {
      let sum = b;
      for (let i = 0; i < 3 * taps; i++) sum += values[3 * taps * o + i] * inputShift[Math.floor(i / taps)];
      return sum;
    });
  };
  return new Map(tensors).set("features.0.bias", { shape: bias.shape, toFloat32 });
}

/**
 * The loss network from the tensors of a weight file. Names are torchvision's (`readWeights` gives Keras's files those), with any
 * one prefix before them that ends in a dot: `module.`, `vgg.`, `model.`, `state_dict.`.
 *
 * @param where file name for the errors
 * @throws {FormatError} when they are not those of a VGG
 */
export function vggFromTensors(
  gpu: Gpu,
  tensors: ReadonlyMap<string, TensorEntry>,
  convention: VggConvention,
  where: string,
): Vgg {
  const found = findVgg(tensors, where);
  if (!found) {
    const [some] = tensors.keys();
    const got = some === undefined ? "no tensors" : `${tensors.size} others, the first ${quote(some)}`;
    throw new FormatError(where, `expected the tensors of a VGG (${FIRST} and so on), got ${got}`, VGG_HELP);
  }
  const weights = convention === "caffe" ? vggFromCaffe(found, where) : { tensors: found, inputShift: null };
  return new Vgg(gpu, weights.tensors, undefined, where, weights.inputShift);
}
