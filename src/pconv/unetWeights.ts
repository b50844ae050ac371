/** Weight files of the U-Net: ours (safetensors with the configuration inside) and the PyTorch port's checkpoints. */
import { FormatError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import { writeSafetensors } from "../io/safetensors.js";
import type { TensorEntry } from "../io/tensorEntry.js";
import type { Weights } from "../io/weights.js";
import { PConvUNet, type UNetConfig, unetConfig } from "./unet.js";

/** Key of the configuration in a safetensors file's metadata. */
const CONFIG_KEY = "pconv-webgpu.unet";

/** The model's weights, statistics and configuration as a safetensors file. `extra` goes into the metadata too. */
export async function unetToSafetensors(
  model: PConvUNet,
  extra: Readonly<Record<string, string>> = {},
): Promise<Uint8Array> {
  return writeSafetensors(await model.stateDict(), { ...extra, [CONFIG_KEY]: JSON.stringify(model.config) });
}

/**
 * The configuration stored in a weight file.
 * @throws {FormatError} when it is not one that {@link unetToSafetensors} wrote.
 */
function storedConfig(text: string, where: string): UNetConfig {
  const help = "use weights written by this library, or the PyTorch port's checkpoints";
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === "object" && parsed !== null) return unetConfig(parsed);
  } catch (cause) {
    throw new FormatError(where, `expected a U-Net configuration in the metadata, got ${text.slice(0, 60)}`, help, {
      cause,
    });
  }
  throw new FormatError(where, `expected a U-Net configuration in the metadata, got ${text.slice(0, 60)}`, help);
}

/** The PyTorch port's names as ours: `enc_1.conv.input_conv.weight` -> `enc_1.conv.weight`; its constant mask_conv is left out. */
function portState(tensors: ReadonlyMap<string, TensorEntry>): Map<string, TensorEntry> | null {
  const state = new Map<string, TensorEntry>();
  for (const prefix of ["model.", ""]) {
    for (const [name, tensor] of tensors) {
      if (!name.startsWith(`${prefix}enc_`) && !name.startsWith(`${prefix}dec_`)) continue;
      if (!name.includes(".mask_conv.")) state.set(name.slice(prefix.length).replace(".input_conv.", "."), tensor);
    }
    if (state.size > 0) return tensors.has(`${prefix}enc_1.conv.input_conv.weight`) ? state : null;
  }
  return null;
}

/** Output channels of each encoder level, from the weights. */
function encoderChannels(state: ReadonlyMap<string, TensorEntry>): number[] {
  const channels: number[] = [];
  for (let i = 1; state.has(`enc_${i}.conv.weight`); i++) channels.push(state.get(`enc_${i}.conv.weight`)!.shape[0]);
  return channels;
}

/**
 * A model from a weight file: one that {@link unetToSafetensors} wrote, or a checkpoint of naoto0804's PyTorch port
 * (`{model, optimizer, n_iter}` or a bare state dict), whose layer divides by sum(M) and whose images are ImageNet-normalised.
 * @throws {FormatError} when the tensors are not those of a partial convolution U-Net.
 */
export function unetFromCheckpoint(gpu: Gpu, weights: Weights, where: string): PConvUNet {
  const config = weights.metadata[CONFIG_KEY];
  const port = config === undefined ? portState(weights.tensors) : null;
  if (config === undefined && !port) {
    throw new FormatError(
      where,
      "expected the weights of a partial convolution U-Net, got other tensors",
      "use weights written by this library, or the PyTorch port's checkpoints",
    );
  }
  const model = port
    ? new PConvUNet(gpu, {
        channels: encoderChannels(port),
        convention: "pytorch",
        bnStatistics: "all",
        range: "imagenet",
      })
    : new PConvUNet(gpu, storedConfig(config, where));
  try {
    model.loadStateDict(port ?? weights.tensors, where);
  } catch (error) {
    model.free();
    throw error;
  }
  return model;
}
