/** The loss network from a weight file; Node only. */
import { createHash } from "node:crypto";
import type { Gpu } from "../gpu/gpu.js";
import type { Vgg } from "../pconv/vgg.js";
import { isKerasVggName, type VggConvention, vggFromTensors } from "../pconv/vggWeights.js";
import type { DownloadOptions } from "./download.js";
import { readBytes } from "./files.js";
import { shownSource } from "./url.js";
import { readWeights } from "./weights.js";

/** torchvision's VGG16 (528 MiB) at its public address, with its digest. */
export const VGG16_URL =
  "https://download.pytorch.org/models/vgg16-397923af.pth" +
  "#sha256=397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0";

/** MD5 of the files that Keras distributes, with and without the classifier; from keras/applications/vgg16.py and vgg19.py. */
const KERAS_FILES = new Set([
  "64373286793e3c8b2b4e3219cbf3544b",
  "6d6bbae143d832006294945121d1f1fc",
  "cbe5617147190e668d6c5d5026f83318",
  "253f8cb515780f3b799900260a226db6",
]);

/** Which input a file's weights want, as far as the file tells: Keras's own are known by name or, renamed, by their digest. */
export const vggConventionOf = (path: string, bytes: Uint8Array): VggConvention =>
  isKerasVggName(path) || KERAS_FILES.has(createHash("md5").update(bytes).digest("hex")) ? "caffe" : "torchvision";

/** Options of {@link loadVgg}. */
export interface LoadVggOptions extends DownloadOptions {
  /**
   * What the weights want to see; `auto` (default) takes Keras's own files (`vgg16_weights_tf_dim_ordering_tf_kernels*.h5` and
   * VGG19's, by name or digest) for `caffe` and all others for `torchvision`. Either is converted exactly.
   */
  readonly convention?: VggConvention | "auto";
}

/**
 * Loads VGG16 or VGG19 (told apart by the weights) from .safetensors, .pth or .h5. Names are torchvision's, `features.0.weight`,
 * with any one prefix before them that ends in a dot: `module.`, `vgg.`, `model.`, `state_dict.`.
 *
 * @param path the weight file or its URL; `auto` is {@link VGG16_URL} (a file of that name is `./auto`)
 * @throws {UserError} if it cannot be read
 * @throws {FormatError} if it is no weight file, a damaged one, or not a VGG
 */
export async function loadVgg(gpu: Gpu, path: string, options: LoadVggOptions = {}): Promise<Vgg> {
  const { convention = "auto" } = options;
  const source = path === "auto" ? VGG16_URL : path;
  const bytes = await readBytes(source, options);
  const { tensors } = await readWeights(bytes, source);
  return vggFromTensors(
    gpu,
    tensors,
    convention === "auto" ? vggConventionOf(source, bytes) : convention,
    shownSource(source),
  );
}
