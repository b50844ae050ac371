/**
 * Weight files of the U-Net: ours (safetensors with the configuration inside), the PyTorch port's checkpoints and PConv-Keras'.
 * What the implementations do differently becomes part of the configuration, so that weights are taken as they are.
 */
import { FormatError, UserError } from "../errors.js";
import type { Gpu } from "../gpu/gpu.js";
import { quote } from "../io/byteReader.js";
import { writeSafetensors } from "../io/safetensors.js";
import type { TensorEntry } from "../io/tensorEntry.js";
import type { Weights } from "../io/weights.js";
import type { LoadableTensor } from "../nn/module.js";
import { kerasUNet } from "./kerasWeights.js";
import { PConvUNet, type UNetConfig, unetConfig, unetTensorShapes } from "./unet.js";

/** Key of the configuration in a safetensors file's metadata. */
const CONFIG_KEY = "pconv-webgpu.unet";

const FILES_HELP =
  "use weights written by this library, a checkpoint of the PyTorch port (.pth), or a checkpoint of PConv-Keras (.h5)";

/** The model's weights, statistics and configuration as a safetensors file. `extra` goes into the metadata too. */
export async function unetToSafetensors(
  model: PConvUNet,
  extra: Readonly<Record<string, string>> = {},
): Promise<Uint8Array> {
  return writeSafetensors(await model.stateDict(), unetMetadata(model.config, extra));
}

/** A model's tensors as a weight file would give them. */
export async function stateOf(model: PConvUNet): Promise<Map<string, LoadableTensor>> {
  const state = await model.stateDict();
  return new Map(
    [...state].map(([name, { shape, values }]) => [
      name,
      { shape, toFloat32: () => Float32Array.from(values, Number) },
    ]),
  );
}

/** The metadata that makes a safetensors file of U-Net tensors one of ours. */
export const unetMetadata = (
  config: UNetConfig,
  extra: Readonly<Record<string, string>> = {},
): Record<string, string> => ({ ...extra, [CONFIG_KEY]: JSON.stringify(config) });

/** What each of these may say; a file that says something else was not written by this version. */
const CHOICES = {
  convention: ["paper", "pytorch", "keras", "unscaled"],
  concat: ["up-skip", "skip-up"],
  convBias: ["last", "all"],
  bnStatistics: ["valid", "all"],
  head: ["none", "sigmoid"],
  base: ["none", "harmonic"],
  range: ["unit", "imagenet"],
} as const satisfies { [K in keyof UNetConfig]?: readonly UNetConfig[K][] };

/**
 * The configuration stored in a weight file.
 * @throws {FormatError} when it is not one that {@link unetToSafetensors} wrote.
 */
function storedConfig(text: string, where: string): UNetConfig {
  const refuse = (cause?: unknown) => {
    const problem = `expected a U-Net configuration in the metadata, got ${quote(text.slice(0, 60))}`;
    return new FormatError(where, problem, FILES_HELP, { cause });
  };
  let parsed: unknown;
  let config: UNetConfig;
  try {
    parsed = JSON.parse(text);
    if (typeof parsed !== "object" || parsed === null) throw new TypeError("no object");
    config = unetConfig(parsed);
  } catch (cause) {
    throw refuse(cause);
  }
  for (const [key, choices] of Object.entries(CHOICES)) {
    if (!(choices as readonly unknown[]).includes(config[key as keyof UNetConfig])) throw refuse();
  }
  if (![config.bnEps, config.bnMomentum].every((v) => Number.isFinite(v) && v > 0 && v <= 1)) throw refuse();
  return config;
}

/** A tensor of the file that is not part of the network, and why it was left out. */
export interface SkippedTensor {
  readonly name: string;
  readonly why: string;
}

/** A U-Net in a weight file, checked and not yet on a device. */
export interface UNetWeights {
  readonly source: "pconv-webgpu" | "pytorch-port" | "pconv-keras";
  readonly config: UNetConfig;
  /** By this library's names. */
  readonly state: ReadonlyMap<string, TensorEntry>;
  readonly skipped: readonly SkippedTensor[];
}

/**
 * The PyTorch port's names as ours: `enc_1.conv.input_conv.weight` is `enc_1.conv.weight`; below any one prefix (`model.` in its
 * trainer's checkpoints, `module.` behind DataParallel). Its mask convolutions are constants and must be ones.
 */
function portUNet(tensors: ReadonlyMap<string, TensorEntry>, where: string): UNetWeights | null {
  const first = "enc_1.conv.input_conv.weight";
  const prefixes = [...tensors.keys()].filter((name) => name === first || name.endsWith(`.${first}`));
  if (prefixes.length === 0) return null;
  if (prefixes.length > 1) {
    const problem = `expected one U-Net, got ${prefixes.length}: ${prefixes.map(quote).join(", ")}`;
    throw new FormatError(where, problem, "save only the one to use");
  }
  const prefix = prefixes[0].slice(0, -first.length);
  const state = new Map<string, TensorEntry>();
  const skipped: SkippedTensor[] = [];
  for (const [name, tensor] of tensors) {
    if (!name.startsWith(`${prefix}enc_`) && !name.startsWith(`${prefix}dec_`)) {
      skipped.push({ name, why: "not part of the network" });
    } else if (name.includes(".mask_conv.")) {
      if (tensor.toFloat32().some((v) => v !== 1)) {
        const problem = `expected ${quote(name)} to hold ones (it sums the mask), got other numbers`;
        throw new FormatError(where, problem, "use a checkpoint that the PyTorch port wrote");
      }
      skipped.push({ name, why: "constant ones, which this library does not need" });
    } else state.set(name.slice(prefix.length).replace(".input_conv.", "."), tensor);
  }
  const channels: number[] = [];
  for (let i = 1; state.has(`enc_${i}.conv.weight`); i++) channels.push(state.get(`enc_${i}.conv.weight`)!.shape[0]);
  const form = { channels, convention: "pytorch", bnStatistics: "all", range: "imagenet" } as const;
  return { source: "pytorch-port", config: fileConfig(form, where), state, skipped };
}

/** A configuration that was read off a file: what is wrong with it is the file's fault. */
function fileConfig(form: Partial<UNetConfig>, where: string): UNetConfig {
  try {
    return unetConfig(form);
  } catch (cause) {
    if (!(cause instanceof UserError)) throw cause;
    throw new FormatError(where, `${cause.where}: ${cause.problem}`, FILES_HELP, { cause });
  }
}

/** @throws {FormatError} naming what is missing, too much, or of another shape, before anything of that size is allocated */
function checkShapes({ config, state }: UNetWeights, where: string): void {
  const wanted = unetTensorShapes(config);
  const help = "use weights of the same architecture, width and depth";
  const list = (names: string[]) =>
    names.slice(0, 3).map(quote).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");
  const missing = [...wanted.keys()].filter((name) => !state.has(name));
  if (missing.length > 0) {
    throw new FormatError(where, `expected the tensors of a U-Net, got none for ${list(missing)}`, help);
  }
  const counters = /^(enc|dec)_\d+\.bn\.num_batches_tracked$/;
  const surplus = [...state.keys()].filter((name) => !wanted.has(name) && !counters.test(name));
  if (surplus.length > 0) {
    throw new FormatError(where, `expected only a U-Net's tensors, got also ${list(surplus)}`, help);
  }
  for (const [name, shape] of wanted) {
    const got = state.get(name)!.shape;
    if (got.join() === shape.join()) continue;
    throw new FormatError(where, `expected ${name} of shape ${shape.join("x")}, got ${got.join("x")}`, help);
  }
}

/**
 * The U-Net in a weight file, or null where the file holds something else: one that {@link unetToSafetensors} wrote, a
 * checkpoint of naoto0804's PyTorch port (`{model, optimizer, n_iter}` or a bare state dict; its layer divides by sum(M), its
 * images are ImageNet-normalised), or one of PConv-Keras (see `kerasUNet`). Needs no GPU.
 *
 * @throws {FormatError} when it is a U-Net that is incomplete or does not fit together
 */
export function findUNet(weights: Weights, where: string): UNetWeights | null {
  const { tensors, metadata } = weights;
  let found: UNetWeights | null = null;
  if (metadata[CONFIG_KEY] !== undefined) {
    const config = storedConfig(metadata[CONFIG_KEY], where);
    found = { source: "pconv-webgpu", config, state: tensors, skipped: [] };
  } else {
    found = portUNet(tensors, where);
    const keras = found ? null : kerasUNet(tensors, where);
    if (keras) {
      const skipped = keras.skipped.map((name) => ({ name, why: "not part of the network" }));
      found = { source: "pconv-keras", config: fileConfig(keras.config, where), state: keras.state, skipped };
    }
  }
  if (found) checkShapes(found, where);
  return found;
}

/**
 * A model from a weight file, see {@link findUNet}.
 * @throws {FormatError} when the tensors are not those of a partial convolution U-Net.
 */
export function unetFromCheckpoint(gpu: Gpu, weights: Weights, where: string): PConvUNet {
  const found = findUNet(weights, where);
  if (!found) {
    const problem = "expected the weights of a partial convolution U-Net, got other tensors";
    throw new FormatError(where, problem, FILES_HELP);
  }
  const model = new PConvUNet(gpu, found.config);
  try {
    model.loadStateDict(found.state, where);
  } catch (error) {
    model.free();
    throw error;
  }
  return model;
}
