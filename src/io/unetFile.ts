/** The U-Net from a weight file. Node only. */
import type { Gpu } from "../gpu/gpu.js";
import type { PConvUNet } from "../pconv/unet.js";
import { unetFromCheckpoint } from "../pconv/unetWeights.js";
import { readWeightsFile } from "./weightsFile.js";

/**
 * Loads a network from a file: .safetensors written by this library, or a .pth of the PyTorch port.
 * @throws {UserError} when the file cannot be read; {@link FormatError} when it holds something else.
 */
export async function loadUNet(gpu: Gpu, path: string): Promise<PConvUNet> {
  return unetFromCheckpoint(gpu, await readWeightsFile(path), path);
}
