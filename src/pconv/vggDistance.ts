/** A distance between pictures by the features of VGG. */
import { normalizeImageNet } from "../autograd/ops/channelAffine.js";
import { Tape } from "../autograd/tape.js";
import { ShapeError } from "../errors.js";
import { checkSameSize } from "./metrics.js";
import type { Picture } from "./picture.js";
import type { Vgg } from "./vgg.js";

/** As LPIPS: keeps a pixel without any feature from dividing by 0. */
const EPSILON = 1e-10;

/** VGG shrinks by 8 up to its third pool. */
const SMALLEST_SIDE = 8;

/** Features of pool1, pool2 and pool3, [height, width, channels] each. */
interface FeatureMap {
  readonly channels: number;
  readonly values: Float32Array;
}

/**
 * Prepares the distance from one picture. For each of pool1, pool2 and pool3 the features of a pixel are scaled to length 1;
 * the squared distance of the two unit vectors is averaged over pixels; the three averages are added:
 *
 *     d(a, b) = sum over pools of mean over pixels of |fa / |fa| - fb / |fb||^2        0 <= d <= 6
 *
 * This is LPIPS (Zhang et al. 2018) **without its learned weights and with fewer layers**: neither its numbers nor its scale
 * compare with published LPIPS, and they depend on the VGG that is loaded.
 *
 * @param truth RGB in 0..1, at least 8x8
 * @returns the distance of another picture of the same size
 * @throws {ShapeError} a side below 8 pixels; the returned function: another size
 */
export async function vggDistance(vgg: Vgg, truth: Picture): Promise<(result: Picture) => Promise<number>> {
  if (Math.min(truth.width, truth.height) < SMALLEST_SIDE) {
    throw new ShapeError(
      "vggDistance",
      `expected pictures of at least ${SMALLEST_SIDE}x${SMALLEST_SIDE}, got ${truth.width}x${truth.height}`,
      "VGG shrinks them by 8; compare larger ones",
    );
  }
  const wanted = await features(vgg, truth);
  return async (result) => {
    checkSameSize("vggDistance", result, truth);
    const got = await features(vgg, result);
    return wanted.reduce((sum, map, i) => sum + unitDistance(map, got[i]), 0);
  };
}

async function features(vgg: Vgg, { width, height, pixels }: Picture): Promise<FeatureMap[]> {
  const tape = new Tape(vgg.gpu, { grad: false });
  try {
    const image = tape.upload({ n: 1, h: height, w: width, c: 3 }, pixels, "picture");
    const { pool1, pool2, pool3 } = vgg.forward(tape, normalizeImageNet(tape, image));
    const maps: FeatureMap[] = [];
    for (const pool of [pool1, pool2, pool3]) maps.push({ channels: pool.shape.c, values: await pool.values() });
    return maps;
  } finally {
    tape.dispose();
  }
}

function unitDistance({ channels, values: a }: FeatureMap, { values: b }: FeatureMap): number {
  let total = 0;
  for (let at = 0; at < a.length; at += channels) {
    let [aa, bb, ab] = [0, 0, 0];
    for (let c = at; c < at + channels; c++) {
      aa += a[c] * a[c];
      bb += b[c] * b[c];
      ab += a[c] * b[c];
    }
    const [la, lb] = [Math.sqrt(aa) + EPSILON, Math.sqrt(bb) + EPSILON];
    // |fa / la - fb / lb|^2, multiplied out; rounding may leave it a little below 0.
    total += Math.max(0, aa / (la * la) + bb / (lb * lb) - (2 * ab) / (la * lb));
  }
  return total / (a.length / channels);
}
