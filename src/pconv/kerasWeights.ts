/**
 * Checkpoints of PConv-Keras as weights of this library's U-Net.
 *
 * Its layers, as Keras names them: `p_conv2d_1`, `p_conv2d_2`, ... (encoder from the top, then decoder from the bottom; the count
 * goes on from earlier models of the same session, and tf.keras leaves `_1` out at first), the encoder's `EncBN1`, ... (none for
 * its first level), the decoder's `batch_normalization_1`, ... and the 1x1 convolution `outputs_img` (`conv2d_N` in old versions).
 * They lie in the file's root (`save_weights`), below `model_weights` (`save`), or below a nested model's group.
 * Source: PConv-Keras, libs/pconv_model.py (`build_pconv_unet`) and libs/pconv_layer.py (`PConv2D.build`).
 */
import { FormatError } from "../errors.js";
import { quote } from "../io/byteReader.js";
import type { TensorEntry } from "../io/tensorEntry.js";
import type { UNetConfig } from "./unet.js";

/** PConv-Keras' network; its channels come from the weights. */
const KERAS_FORM = {
  convention: "keras",
  concat: "skip-up",
  convBias: "all",
  head: "sigmoid",
  bnEps: 1e-3,
  // Keras says which share of the old statistics stays: 0.99.
  bnMomentum: 0.01,
  bnStatistics: "all",
  range: "unit",
} as const satisfies Partial<UNetConfig>;

export interface KerasUNet {
  readonly config: Partial<UNetConfig>;
  /** By this library's names. */
  readonly state: Map<string, TensorEntry>;
  /** Names in the file of what is not part of the network. */
  readonly skipped: string[];
}

type Kind = "conv" | "encoderNorm" | "decoderNorm" | "head";

/** Which layer a component of a path names, and its number among its kind. */
const LAYERS: readonly [RegExp, Kind][] = [
  [/^p_?conv2d(?:_(\d+))?$/i, "conv"],
  [/^EncBN(\d+)$/, "encoderNorm"],
  [/^batch_normalization(?:_v\d+)?(?:_(\d+))?$/, "decoderNorm"],
  [/^outputs_img$/, "head"],
  [/^conv2d(?:_(\d+))?$/, "head"],
];

const WEIGHTS: Readonly<Record<string, string>> = {
  img_kernel: "weight",
  kernel: "weight",
  bias: "bias",
  gamma: "weight",
  beta: "bias",
  moving_mean: "running_mean",
  moving_variance: "running_var",
};

interface Layer {
  readonly kind: Kind;
  readonly name: string;
  readonly number: number;
  /** By PyTorch's names. */
  readonly tensors: Map<string, TensorEntry>;
}

const help =
  "give a file that PConv-Keras's model.save_weights or model.save wrote, whole and with its layers' own names";

/** The first component that names a layer decides: a second one is TensorFlow's scope, which may count differently. */
function layerOf(path: string): { kind: Kind; name: string; number: number; tensor: string } | null {
  const parts = path.split("/");
  const last = parts.at(-1)!.replace(/:0$/, "");
  // Not the names that every object has, such as "constructor".
  const tensor = Object.hasOwn(WEIGHTS, last) ? WEIGHTS[last] : undefined;
  if (tensor === undefined || parts[0] === "optimizer_weights") return null;
  for (const [i, part] of parts.slice(0, -1).entries()) {
    for (const [pattern, kind] of LAYERS) {
      const match = pattern.exec(part);
      if (match) return { kind, name: parts.slice(0, i + 1).join("/"), number: Number(match[1] ?? 0), tensor };
    }
  }
  return null;
}

function layersOf(tensors: ReadonlyMap<string, TensorEntry>, where: string, skipped: string[]): Layer[] {
  const layers = new Map<string, Layer>();
  for (const [path, tensor] of tensors) {
    const found = layerOf(path);
    if (!found) {
      skipped.push(path);
      continue;
    }
    const layer = layers.get(found.name) ?? { ...found, tensors: new Map<string, TensorEntry>() };
    layers.set(found.name, layer);
    if (layer.tensors.has(found.tensor)) {
      throw new FormatError(where, `expected one ${found.tensor} in layer ${quote(found.name)}, got two`, help);
    }
    layer.tensors.set(found.tensor, tensor);
  }
  return [...layers.values()].sort((a, b) => a.number - b.number);
}

/**
 * The U-Net in a PConv-Keras checkpoint, or null where there is no layer of its kind. Nothing is computed: every weight is
 * taken as it is, and the configuration says what PConv-Keras does with it (bias in holes, kh kw / S, skip link first, 1e-3 in
 * batch norm, sigmoid at the end). Images are 0..1.
 *
 * The encoder's batch norm uses the running statistics in `eval()`, as PConv-Keras' notebooks predict (`train_bn=False`).
 *
 * @param tensors as `readH5` gives them: kernels already OIHW
 * @throws {FormatError} when layers are missing or of the wrong number
 */
export function kerasUNet(tensors: ReadonlyMap<string, TensorEntry>, where: string): KerasUNet | null {
  const skipped: string[] = [];
  const layers = layersOf(tensors, where, skipped);
  const of = (kind: Kind) => layers.filter((layer) => layer.kind === kind);
  const convs = of("conv");
  if (convs.length === 0) return null;
  const depth = convs.length / 2;
  const [heads, encoderNorms, decoderNorms] = [of("head"), of("encoderNorm"), of("decoderNorm")];
  const counts: [string, number, number][] = [
    ["partial convolutions (p_conv2d_*), as many up as down,", 2 * Math.max(1, Math.floor(depth)), convs.length],
    ["encoder batch norms (EncBN*)", Math.floor(depth) - 1, encoderNorms.length],
    ["decoder batch norms (batch_normalization_*)", Math.floor(depth) - 1, decoderNorms.length],
    ["last convolution (outputs_img)", 1, heads.length],
  ];
  for (const [what, wanted, got] of counts) {
    if (got !== wanted) throw new FormatError(where, `expected ${wanted} ${what} got ${got}`, help);
  }

  const state = new Map<string, TensorEntry>();
  const put = (block: string, layer: Layer) => {
    for (const [name, tensor] of layer.tensors) state.set(`${block}.${name}`, tensor);
  };
  for (let i = 0; i < depth; i++) {
    put(`enc_${i + 1}.conv`, convs[i]);
    put(`dec_${depth - i}.conv`, convs[depth + i]);
    if (i === depth - 1) continue;
    put(`enc_${i + 2}.bn`, encoderNorms[i]);
    put(`dec_${depth - i}.bn`, decoderNorms[i]);
  }
  put("head", heads[0]);
  const channels = convs.slice(0, depth).map(({ tensors }) => tensors.get("weight")?.shape[0] ?? 0);
  return { config: { ...KERAS_FORM, channels }, state, skipped };
}
