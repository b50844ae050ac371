/** The weights of a VGG16 with a few channels: all six terms of the loss at little cost. */
import type { StateTensor } from "../../src/nn/module.js";
import { Rng } from "../../src/pconv/rng.js";

/** Indices in torchvision's `features`. */
const CONVOLUTIONS = [0, 2, 5, 7, 10, 12, 14];

/** Good for `writeSafetensors` and for `new Vgg`; `channels` are the convolutions' outputs. */
export function tinyVggState(
  channels: readonly number[] = [4, 4, 4, 8, 8, 8, 8],
): Map<string, StateTensor & { toFloat32(): Float32Array }> {
  const rng = Rng.of(11, 12);
  const state = new Map<string, StateTensor & { toFloat32(): Float32Array }>();
  const add = (name: string, shape: readonly number[], values: Float32Array) =>
    state.set(name, { dtype: "F32", shape, values, toFloat32: () => values });
  let inChannels = 3;
  for (const [i, index] of CONVOLUTIONS.entries()) {
    const outChannels = channels[i];
    const scale = Math.sqrt(6 / (9 * inChannels));
    const weight = Float32Array.from({ length: outChannels * inChannels * 9 }, () => rng.uniform(-scale, scale));
    add(`features.${index}.weight`, [outChannels, inChannels, 3, 3], weight);
    add(`features.${index}.bias`, [outChannels], new Float32Array(outChannels));
    inChannels = outChannels;
  }
  return state;
}
