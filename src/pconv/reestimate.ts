/**
 * Batch norm statistics taken anew over many pictures, to freeze with and to infer with.
 *
 * Why: running averages lag behind the weights, are of the last ten batches or so, and in the form of PyTorch and Keras are means
 * of each batch's own variance. With one picture to a batch that is what varies within one picture; at the bottom of
 * the U-Net, where a picture is a few pixels, next to nothing. A layer that is then frozen, or only run for inference, divides by far
 * too little: its results are many times too large, the loss jumps, and holes turn black (PConv-Keras issue 12). So:
 *
 *   mean = E[m],   var = E[v] + E[m^2] - E[m]^2        m, v: mean and variance of one batch; E: mean over the batches
 *
 * Source: the law of total variance; "precise" batch norm of Wu & Johnson 2021 (sec. 3). Valid pixels only with `bnStatistics`
 * "valid". All layers in one pass, each behind layers with the statistics of the batch: level by level, each behind layers that
 * are frozen already, was no better, and takes as many times as long as there are levels.
 */
import { Tape } from "../autograd/tape.js";
import { BatchNorm2d } from "../nn/layers.js";
import type { MaskSource, PictureSource } from "./picture.js";
import type { PConvUNet } from "./unet.js";

/** Options of {@link reestimateStatistics}. */
export interface ReestimateOptions {
  readonly model: PConvUNet;
  readonly images: PictureSource;
  readonly masks: MaskSource;
  /** Side of the square pictures, in pixels. */
  readonly imageSize: number;
  readonly batchSize: number;
  readonly seed: number;
  readonly batches: number;
  /** Called after every batch. */
  readonly onProgress?: (done: number, all: number) => void;
  /** Asked before every batch; true ends it, and everything stays as it was. */
  readonly stopped?: () => boolean;
}

/** Its pictures are others than the training's own. */
const STREAM = 0x62617463;

interface Moments {
  readonly mean: Float32Array;
  readonly variance: Float32Array;
}

/** Mean and variance over batches from those of each; float64. */
export function totalStatistics(batches: readonly Moments[]): {
  readonly mean: Float64Array;
  readonly variance: Float64Array;
} {
  const channels = batches[0].mean.length;
  const mean = new Float64Array(channels);
  const variance = new Float64Array(channels);
  for (const b of batches) for (let c = 0; c < channels; c++) mean[c] += b.mean[c] / batches.length;
  for (const b of batches)
    for (let c = 0; c < channels; c++) variance[c] += (b.variance[c] + (b.mean[c] - mean[c]) ** 2) / batches.length;
  return { mean, variance };
}

/**
 * Takes the running statistics of all batch norm layers anew that are not frozen; nothing else of the model changes. Equal options
 * give equal bits.
 * @returns false when it was stopped
 */
export async function reestimateStatistics(o: ReestimateOptions): Promise<boolean> {
  const { model, batches } = o;
  const { gpu, training } = model;
  const norms = model
    .children()
    .flatMap(([, block]) => block.children().flatMap(([, layer]) => (layer instanceof BatchNorm2d ? [layer] : [])))
    .filter((bn) => !bn.frozen);
  const storages = norms.flatMap((bn) => [bn.running_mean.storage, bn.running_var.storage]);
  const before = norms.map((bn) => ({ momentum: bn.momentum, counted: bn.num_batches_tracked.value }));
  const kept = await gpu.read(...storages);
  const seen: Moments[][] = norms.map(() => []);
  let complete = false;
  try {
    model.train();
    for (const bn of norms) bn.momentum = 1; // the running statistics are then those of the last batch
    for (let b = 0; b < batches; b++) {
      if (o.stopped?.()) return false;
      await forwardBatch(o, b);
      const values = await gpu.read(...storages);
      norms.forEach((bn, i) => {
        const [mean, variance] = [bn.running_mean.toTorch(values[2 * i]), bn.running_var.toTorch(values[2 * i + 1])];
        seen[i].push({ mean: mean.slice(), variance: variance.slice() });
      });
      o.onProgress?.(b + 1, batches);
    }
    norms.forEach((bn, i) => {
      const { mean, variance } = totalStatistics(seen[i]);
      bn.running_mean.set(mean);
      bn.running_var.set(variance);
    });
    complete = true;
    return true;
  } finally {
    norms.forEach((bn, i) => {
      bn.momentum = before[i].momentum;
      bn.num_batches_tracked.value = before[i].counted;
    });
    if (!complete) storages.forEach((storage, i) => gpu.write(storage, kept[i]));
    model.train(training);
  }
}

/** Runs the network once on pictures of its own. */
async function forwardBatch(o: ReestimateOptions, batch: number): Promise<void> {
  const { model, imageSize: size, batchSize: n, seed } = o;
  const area = size * size;
  const pixels = new Float32Array(n * area * 3);
  const valid = new Float32Array(n * area);
  for (let i = 0; i < n; i++) {
    const index = batch * n + i;
    const picture = await o.images.sample(seed ^ STREAM, index, size);
    pixels.set(picture.pixels, i * area * 3);
    valid.set((await o.masks.sample(seed ^ STREAM, index, size)).values, i * area);
  }
  const tape = new Tape(model.gpu, { grad: false });
  try {
    const image = tape.upload({ n, h: size, w: size, c: 3 }, pixels, "picture");
    model.forward(tape, image, tape.uploadMask({ n, h: size, w: size }, valid));
  } finally {
    tape.dispose();
  }
}
