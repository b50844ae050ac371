/**
 * Masks of what hides between two frames of a video, the way in which the paper's were made (Liu et al. 2018, section 4.1).
 * No Node here.
 */
import { UserError } from "../errors.js";
import { checkSameSize } from "./metrics.js";
import { opticalFlow, type Flow, sampleAt } from "./opticalFlow.js";
import type { MaskPicture, Picture } from "./picture.js";
import { isMixed } from "./randomMask.js";

/** Sundaram, Brox, Keutzer 2010, equation 5: how far a way there and back may miss, by the lengths of both, and in any case. */
const MISS_SHARE = 0.01;
const MISS_ALWAYS = 0.5;

/**
 * Two masks: what the first frame shows that is not visible in the second (occlusion), and the other way round (disocclusion).
 *
 * A pixel is hidden when its motion to the other frame and back misses it, |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5, or
 * leads out of the frame; single specks are dropped.
 *
 * Source: Sundaram, Brox, Keutzer, "Dense point trajectories by GPU-accelerated large displacement optical flow", 2010; the flow is
 * {@link opticalFlow}, simpler than theirs, with the limits that it states.
 * @returns 1 = valid, 0 = hidden; one or two masks, each with both kinds of pixels
 * @throws {ShapeError} when the sizes differ
 * @throws {UserError} when nothing, or everything, is hidden
 */
export function occlusionMasks(first: Picture, second: Picture): MaskPicture[] {
  checkSameSize("occlusionMasks", first, second);
  const there = opticalFlow(first, second);
  const back = opticalFlow(second, first);
  const masks = [hidden(there, back), hidden(back, there)].map(withoutSpecks).filter(isMixed);
  if (masks.length > 0) return masks;
  throw new UserError(
    "occlusionMasks",
    "expected two frames between which a part of the picture gets hidden or uncovered, got none such",
    "take frames with something moving before a background, or with the camera moving",
  );
}

function hidden({ width, height, u, v }: Flow, back: Flow): MaskPicture {
  const values = new Uint8Array(width * height);
  for (let i = 0; i < values.length; i++) {
    const [x, y] = [(i % width) + u[i], Math.floor(i / width) + v[i]];
    if (x < -0.5 || y < -0.5 || x > width - 0.5 || y > height - 0.5) continue;
    const [bu, bv] = [
      sampleAt({ width, height, values: back.u }, x, y),
      sampleAt({ width, height, values: back.v }, x, y),
    ];
    const miss = (u[i] + bu) ** 2 + (v[i] + bv) ** 2;
    const ways = u[i] ** 2 + v[i] ** 2 + bu ** 2 + bv ** 2;
    values[i] = Number(miss <= MISS_SHARE * ways + MISS_ALWAYS);
  }
  return { width, height, values };
}

/** Each pixel is what most of the 3x3 around it are, as far as they lie inside: dilation would make blots of specks. */
function withoutSpecks({ width, height, values }: MaskPicture): MaskPicture {
  const result = new Uint8Array(values.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let [valid, all] = [0, 0];
      for (let yy = Math.max(0, y - 1); yy <= Math.min(height - 1, y + 1); yy++) {
        for (let xx = Math.max(0, x - 1); xx <= Math.min(width - 1, x + 1); xx++, all++)
          valid += values[yy * width + xx];
      }
      result[y * width + x] = Number(2 * valid > all);
    }
  }
  return { width, height, values: result };
}
