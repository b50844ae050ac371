/** What the network's encoder makes of a mask, level by level. */
import type { Gpu } from "../../src/gpu/gpu.js";
import type { Storage } from "../../src/gpu/pool.js";
import { maskUpdate, maskUpdateRef, type MaskUpdateShape } from "../../src/kernels/maskUpdate.js";
import { convOutputSize } from "../../src/kernels/shape.js";
import type { MaskPicture } from "../../src/pconv/picture.js";
import { encoderKernel } from "../../src/pconv/unet.js";

/** As many as the network that comes with the page has. */
export const LEVELS = 7;

const SPEC = { convention: "paper", biased: false } as const;

/** The mask update of one encoder level: its window, stride 2. The number of channels does not change a mask. */
function shapeOf({ width, height }: MaskPicture, level: number): MaskUpdateShape {
  const side = encoderKernel(level);
  const pad = (side - 1) / 2;
  return {
    n: 1,
    h: height,
    w: width,
    c: 1,
    k: 1,
    channels: 1,
    kernel: [side, side],
    stride: [2, 2],
    padding: [pad, pad],
    dilation: [1, 1],
  };
}

function maskOf(s: MaskUpdateShape, values: ArrayLike<number>): MaskPicture {
  const [height, width] = convOutputSize("levels", s);
  return { width, height, values: Uint8Array.from(values) };
}

/** The levels by the kernels' float64 reference, for browsers without WebGPU. */
export function levelsOnCpu(first: MaskPicture): MaskPicture[] {
  const masks = [first];
  for (let level = 1; level <= LEVELS; level++) {
    const s = shapeOf(masks[level - 1], level);
    masks.push(maskOf(s, maskUpdateRef(s, SPEC, masks[level - 1].values, [1]).maskOut));
  }
  return masks;
}

/** The levels by the library's kernel: all in one submit. */
export async function levelsOnGpu(gpu: Gpu, first: MaskPicture): Promise<MaskPicture[]> {
  const owned: Storage[] = [];
  const floats = (count: number, what: string): Storage => {
    const storage = gpu.alloc(4 * count, what);
    owned.push(storage);
    return storage;
  };
  try {
    const weight = gpu.constant([1]);
    const shapes: MaskUpdateShape[] = [];
    let size = first;
    let mask = floats(first.values.length, "mask");
    gpu.write(mask, Float32Array.from(first.values));
    const outputs: Storage[] = [];
    for (let level = 1; level <= LEVELS; level++) {
      const s = shapeOf(size, level);
      const [height, width] = convOutputSize("levels", s);
      const maskOut = floats(width * height, "mask of a level");
      const ratio = () => floats(width * height, "ratio of a level");
      maskUpdate(gpu, s, SPEC, { mask, weight, scale: ratio(), biasScale: ratio(), maskOut });
      shapes.push(s);
      outputs.push((mask = maskOut));
      size = { width, height, values: first.values };
    }
    const values = await gpu.read(...outputs);
    return [first, ...values.map((v, i) => maskOf(shapes[i], v))];
  } finally {
    for (const storage of owned) gpu.free(storage);
  }
}
