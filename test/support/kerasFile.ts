/** HDF5 files as Keras writes them, from tensors in PyTorch's layout. */
import { File as H5, type Group, FS, ready } from "h5wasm";

export interface TorchTensor {
  readonly shape: readonly number[];
  toFloat32(): Float32Array;
}

/** OIHW to Keras' HWIO; other shapes as they are. */
function hwio(tensor: TorchTensor): { shape: number[]; values: Float32Array } {
  const { shape } = tensor;
  const values = tensor.toFloat32();
  if (shape.length !== 4) return { shape: [...shape], values };
  const [o, i, h, w] = shape;
  const turned = new Float32Array(values.length);
  for (let k = 0; k < o; k++) {
    for (let c = 0; c < i; c++) {
      for (let tap = 0; tap < h * w; tap++) turned[(tap * i + c) * o + k] = values[(k * i + c) * h * w + tap];
    }
  }
  return { shape: [h, w, i, o], values: turned };
}

/** The file with one dataset for each path, such as `p_conv2d_1/p_conv2d_1/img_kernel:0`. */
export async function kerasFile(datasets: Iterable<readonly [string, TorchTensor]>): Promise<Uint8Array> {
  await ready;
  const file = new H5("/keras.h5", "w");
  try {
    for (const [path, tensor] of datasets) {
      let group: Group = file;
      const parts = path.split("/");
      for (const part of parts.slice(0, -1)) group = (group.get(part) as Group | null) ?? group.create_group(part);
      const { shape, values } = hwio(tensor);
      group.create_dataset({ name: parts.at(-1)!, data: values, shape, dtype: "<f" });
    }
  } finally {
    file.close();
  }
  const content = FS!.readFile("/keras.h5").slice();
  FS!.unlink("/keras.h5");
  return content;
}

/**
 * The golden manifest's names of a PConv-Keras network (`e2_kernel`, `d1_bias`, `e2_bn.weight`, `out_kernel`) as Keras' paths.
 * @param first number of the first partial convolution, or null for tf.keras, whose first has none
 */
export function kerasPath(golden: string, depth: number, first: number | null = 1): string {
  const numbered = (name: string, index: number, from: number | null) =>
    from === null && index === 0 ? name : `${name}_${index + (from ?? 0)}`;
  const twice = (layer: string, tensor: string) => `${layer}/${layer}/${tensor}:0`;
  const [, side, digits, rest] = /^(?:([ed])(\d+)|out)_(.*)$/.exec(golden)!;
  if (side === undefined) return twice("outputs_img", rest);
  const level = Number(digits);
  const kinds = { kernel: "img_kernel", bias: "bias" } as const;
  if (rest in kinds) {
    const index = side === "e" ? level - 1 : 2 * depth - level;
    return twice(numbered("p_conv2d", index, first), kinds[rest as keyof typeof kinds]);
  }
  const tensor = { weight: "gamma", bias: "beta", running_mean: "moving_mean", running_var: "moving_variance" }[
    rest.replace("bn.", "")
  ]!;
  const layer = side === "e" ? `EncBN${level - 1}` : numbered("batch_normalization", depth - level, first);
  return twice(layer, tensor);
}
