/** The U-Net from a weight file. Node only. */
import type { Gpu } from "../gpu/gpu.js";
import type { PConvUNet } from "../pconv/unet.js";
import { unetFromCheckpoint } from "../pconv/unetWeights.js";
import type { DownloadOptions } from "./download.js";
import { readWeightsFile } from "./weightsFile.js";

/**
 * Loads a network from a file or URL: .safetensors written by this library, a checkpoint of the PyTorch port (.pth,
 * .safetensors), or one of PConv-Keras (.h5).
 * @throws {UserError} when the file cannot be read; {@link FormatError} when it holds something else.
 */
export async function loadUNet(gpu: Gpu, path: string, options: DownloadOptions = {}): Promise<PConvUNet> {
  return unetFromCheckpoint(gpu, await readWeightsFile(path, options), path);
}
