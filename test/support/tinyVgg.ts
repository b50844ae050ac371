/** The weights of a VGG16 with a few channels: all six terms of the loss at little cost. */
import type { StateTensor } from "../../src/nn/module.js";
import { Rng } from "../../src/pconv/rng.js";

/** Indices in torchvision's `features`, and output channels. */
const CONVOLUTIONS = [
  [0, 4],
  [2, 4],
  [5, 4],
  [7, 8],
  [10, 8],
  [12, 8],
  [14, 8],
] as const;

/** Good for `writeSafetensors` and for `new Vgg`. */
export function tinyVggState(): Map<string, StateTensor & { toFloat32(): Float32Array }> {
  const rng = Rng.of(11, 12);
  const state = new Map<string, StateTensor & { toFloat32(): Float32Array }>();
  const add = (name: string, shape: readonly number[], values: Float32Array) =>
    state.set(name, { dtype: "F32", shape, values, toFloat32: () => values });
  let inChannels = 3;
  for (const [index, outChannels] of CONVOLUTIONS) {
    const scale = Math.sqrt(6 / (9 * inChannels));
    const weight = Float32Array.from({ length: outChannels * inChannels * 9 }, () => rng.uniform(-scale, scale));
    add(`features.${index}.weight`, [outChannels, inChannels, 3, 3], weight);
    add(`features.${index}.bias`, [outChannels], new Float32Array(outChannels));
    inChannels = outChannels;
  }
  return state;
}
