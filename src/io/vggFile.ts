/** The loss network from a weight file; Node only. */
import { FormatError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import { Vgg } from "../pconv/vgg.js";
import { quote } from "./byteReader.js";
import type { TensorEntry } from "./tensorEntry.js";
import { readWeightsFile } from "./weightsFile.js";

const help = "give torchvision's VGG16 or VGG19 weights, for example vgg16-397923af.pth, or Keras's as .h5";

/**
 * Loads VGG16 or VGG19 (told apart by the weights) from .safetensors, .pth or .h5. Names are torchvision's, `features.0.weight`,
 * with any one prefix before them that ends in a dot: `module.`, `vgg.`, `model.`, `state_dict.`.
 *
 * The weights must be for RGB images normalised by ImageNet's mean and deviation, as torchvision's are; nothing in a file says
 * whether they are, and those that come with Keras are not (BGR of 0..255 less Caffe's mean).
 *
 * @param path the weight file
 * @throws {UserError} if it cannot be read
 * @throws {FormatError} if it is no weight file, a damaged one, or not a VGG
 */
export async function loadVgg(gpu: Gpu, path: string): Promise<Vgg> {
  const { tensors } = await readWeightsFile(path);
  return new Vgg(gpu, withoutPrefix(tensors, path), undefined, path);
}

/** The tensors of `features`, and what else has its prefix, with that prefix taken off. */
function withoutPrefix(tensors: ReadonlyMap<string, TensorEntry>, path: string): ReadonlyMap<string, TensorEntry> {
  const first = "features.0.weight";
  const prefixes = [...tensors.keys()]
    .filter((name) => name === first || name.endsWith(`.${first}`))
    .map((name) => name.slice(0, -first.length));
  if (prefixes.length === 0) {
    const [some] = tensors.keys();
    const got = some === undefined ? "no tensors" : `${tensors.size} others, the first ${quote(some)}`;
    throw new FormatError(path, `expected the tensors of a VGG (${first} and so on), got ${got}`, help);
  }
  if (prefixes.length > 1 && !prefixes.includes("")) {
    const found = prefixes.map((prefix) => quote(prefix + first)).join(", ");
    throw new FormatError(path, `expected one VGG, got ${prefixes.length}: ${found}`, "save only the one to use");
  }
  const prefix = prefixes.includes("") ? "" : prefixes[0];
  return new Map(
    [...tensors]
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, tensor]) => [name.slice(prefix.length), tensor]),
  );
}
