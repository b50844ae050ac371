/** The U-Net from a weight file. Node only. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import type { PConvUNet } from "../pconv/unet.js";
import { unetFromCheckpoint } from "../pconv/unetWeights.js";
import { DEFAULT_WEIGHTS, defaultWeightsUrl } from "./defaultWeights.js";
import type { DownloadOptions } from "./download.js";
import { isUrl, shownSource } from "./url.js";
import { readWeightsFile } from "./weightsFile.js";

/** Weights in a checkpoint's folder, the better ones first: averaged over the last steps, and the last step's. */
const IN_CHECKPOINT = ["ema.safetensors", "model.safetensors"];

/**
 * The weight file that a path means: itself, or that of a checkpoint's folder `runs/NAME/step-XXXXXXXX` (averaged weights where there
 * are any), or of the last checkpoint of a run's folder.
 * @throws {UserError} for a folder without
 */
async function weightFile(path: string): Promise<string> {
  if (path === DEFAULT_WEIGHTS) return fileURLToPath(defaultWeightsUrl());
  const isFolder = !isUrl(path) && (await stat(path).then((s) => s.isDirectory(), () => false)); // prettier-ignore
  if (!isFolder) return path;
  const names = await readdir(path);
  const last = names.filter((name) => /^step-\d{8,}$/.test(name)).sort((a, b) => Number(a.slice(5)) - Number(b.slice(5))).at(-1); // prettier-ignore
  const file = IN_CHECKPOINT.find((name) => names.includes(name));
  if (file !== undefined) return join(path, file);
  if (last !== undefined) return weightFile(join(path, last));
  throw new UserError(
    path,
    "expected a weight file or the folder of a checkpoint, got a folder without model.safetensors",
    "pass runs/NAME/step-XXXXXXXX, or a file in it",
  );
}

/**
 * Loads a network from a file or URL: .safetensors written by this library, a checkpoint of the PyTorch port (.pth,
 * .safetensors), or one of PConv-Keras (.h5). The folder of a checkpoint or of a run stands for the weights in it, and
 * `"default"` for those that come with the package.
 * @throws {UserError} when the file cannot be read; {@link FormatError} when it holds something else.
 */
export async function loadUNet(gpu: Gpu, path: string, options: DownloadOptions = {}): Promise<PConvUNet> {
  const file = await weightFile(path);
  return unetFromCheckpoint(gpu, await readWeightsFile(file, options), shownSource(file));
}
