/** The live demo: a small network learns one picture. */
import { Tape } from "../../src/autograd/tape.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import type { MaskPicture, MaskSource, Picture, PictureSource } from "../../src/pconv/picture.js";
import { generateMask, RandomMaskSource } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";
import { Trainer } from "../../src/pconv/trainer.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import type { TrainingNews } from "../app/calls.js";
import { type RgbaPicture, toPicture } from "../app/pictures.js";

/** Side of the training pictures, in pixels. */
export const SIDE = 64;
const BATCH = 4;
const NETWORK = { depth: 5, width: 0.25 };
const LEARNING_RATE = 2e-3;
const SEED = 1;
/** A picture of the network's work every so many steps. */
const STRIP_EVERY = 10;
/** Enough to see it learn: nobody's GPU is kept busy for a page that was forgotten. */
const STEPS = 2000;
/** Crops cover at most this much of the short side, at least SIDE pixels. */
const LARGEST_CROP = 0.9;

/** The mean colour of each block of a square crop. */
function shrunkCrop(picture: Picture, x: number, y: number, side: number, mirrored: boolean): Picture {
  const pixels = new Float32Array(SIDE * SIDE * 3);
  const edge = (i: number) => Math.floor((i * side) / SIDE);
  for (let j = 0; j < SIDE; j++) {
    for (let i = 0; i < SIDE; i++) {
      const [top, left] = [edge(j), edge(i)];
      const [bottom, right] = [Math.max(top + 1, edge(j + 1)), Math.max(left + 1, edge(i + 1))];
      const to = 3 * (j * SIDE + (mirrored ? SIDE - 1 - i : i));
      const share = 1 / ((bottom - top) * (right - left));
      for (let v = top; v < bottom; v++) {
        for (let u = left; u < right; u++) {
          const at = 3 * (Math.min(picture.height - 1, y + v) * picture.width + Math.min(picture.width - 1, x + u));
          for (let k = 0; k < 3; k++) pixels[to + k] += picture.pixels[at + k] * share;
        }
      }
    }
  }
  return { width: SIDE, height: SIDE, pixels };
}

/** Random crops of one picture, mirrored half of the time. */
class Crops implements PictureSource {
  readonly description = "crops of the visitor's picture";
  readonly length = Infinity;

  constructor(private readonly picture: Picture) {}

  async sample(seed: number, index: number): Promise<Picture> {
    const rng = Rng.of(seed, 0x63726f70, index); // "crop"
    const { width, height } = this.picture;
    const short = Math.min(width, height);
    const side = rng.integer(Math.min(SIDE, short), Math.max(SIDE, Math.floor(short * LARGEST_CROP)));
    const x = rng.integer(0, Math.max(0, width - side));
    const y = rng.integer(0, Math.max(0, height - side));
    return shrunkCrop(this.picture, x, y, side, rng.uniform() < 0.5);
  }
}

/**
 * What the network draws with the statistics of the picture itself: the running ones follow a few steps behind, which shows while it
 * learns this fast.
 */
async function drawNow(model: PConvUNet, { pixels }: Picture, mask: MaskPicture): Promise<Float32Array> {
  const shape = { n: 1, h: SIDE, w: SIDE };
  const tape = new Tape(model.gpu, { grad: false });
  try {
    model.train();
    const image = tape.upload({ ...shape, c: 3 }, pixels, "picture");
    return await model.forward(tape, image, tape.uploadMask(shape, mask.values)).output.values();
  } finally {
    tape.dispose();
  }
}

/** Masked, output, composite and truth, side by side. */
async function drawStrip(model: PConvUNet, truth: Picture, mask: MaskPicture): Promise<RgbaPicture> {
  const output = await drawNow(model, truth, mask);
  const isValid = (i: number) => mask.values[Math.floor(i / 3)] === 1;
  const masked = Float32Array.from(truth.pixels, (v, i) => (isValid(i) ? v : 1));
  const filled = Float32Array.from(truth.pixels, (v, i) => (isValid(i) ? v : output[i]));
  const panels = [masked, output, filled, truth.pixels];
  const rgba = new Uint8ClampedArray(panels.length * SIDE * SIDE * 4);
  panels.forEach((pixels, panel) => {
    for (let y = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++) {
        const at = 3 * (y * SIDE + x);
        const to = 4 * ((y * panels.length + panel) * SIDE + x);
        rgba.set([255 * pixels[at], 255 * pixels[at + 1], 255 * pixels[at + 2], 255], to);
      }
    }
  });
  return { width: panels.length * SIDE, height: SIDE, rgba };
}

/**
 * Trains for {@link STEPS} steps.
 * @param turn waited for before every step, so that more urgent work goes first
 * @throws the signal's reason when it stops the training
 */
export async function train(
  gpu: Gpu,
  rgba: RgbaPicture,
  o: {
    readonly signal: AbortSignal;
    readonly turn: () => Promise<void>;
    readonly onNews: (news: TrainingNews) => void;
  },
): Promise<null> {
  const picture = toPicture(rgba);
  const model = new PConvUNet(gpu, NETWORK, SEED);
  const masks: MaskSource = new RandomMaskSource();
  const trainer = new Trainer({
    model,
    loss: new InpaintingLoss(),
    images: new Crops(picture),
    masks,
    imageSize: SIDE,
    batchSize: BATCH,
    lr: LEARNING_RATE,
    seed: SEED,
  });
  const side = Math.min(rgba.width, rgba.height);
  const middle = shrunkCrop(picture, (rgba.width - side) >> 1, (rgba.height - side) >> 1, side, false);
  const shown = generateMask(SIDE, SIDE, Rng.of(SEED, 3));
  try {
    for (let steps = 0; steps < STEPS; steps++) {
      await o.turn();
      o.signal.throwIfAborted();
      const begin = performance.now();
      const { step, loss } = await trainer.trainStep();
      const secondsPerStep = (performance.now() - begin) / 1000;
      const strip = step % STRIP_EVERY === 1 ? await drawStrip(model, middle, shown) : undefined;
      o.onNews({ step, loss, secondsPerStep, ...(strip && { strip }) });
    }
    return null;
  } finally {
    await trainer.close();
    model.free();
  }
}
