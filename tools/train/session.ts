/** What of a run lives on a device, and is made anew when the device is lost: networks, loss and trainer. */
import { GpuError, UserError } from "../../src/errors.js";
import type { Precision } from "../../src/autograd/tensor.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { readBytes } from "../../src/io/files.js";
import { readSafetensors } from "../../src/io/safetensors.js";
import { loadVgg } from "../../src/io/vggFile.js";
import { readWeights } from "../../src/io/weights.js";
import { wholeMebibytes } from "../../src/mebibytes.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import { Trainer, type TrainerConfig } from "../../src/pconv/trainer.js";
import { tuneTraining } from "../../src/pconv/tuneNetwork.js";
import type { PConvUNet } from "../../src/pconv/unet.js";
import { unetFromCheckpoint } from "../../src/pconv/unetWeights.js";
import type { Vgg } from "../../src/pconv/vgg.js";
import { showingDownloads } from "../downloadProgress.js";
import type { Ranks } from "../ranks.js";
import { withTuning } from "../tuning.js";
import { checkModel, MODEL, startingModel } from "./model.js";
import { frozenAfter, rateOf, type TrainOptions } from "./options.js";
import { reading, restore, type Snapshot } from "./snapshot.js";
import type { Sources } from "./sources.js";
import type { RunState } from "./stored.js";

/** @throws {UserError} when not even the images fit into the adapter's buffers: drawing them could take hours before that shows. */
function checkSize(gpu: Gpu, { imageSize, batchSize }: TrainOptions): void {
  const { maxStorageBufferBindingSize, maxBufferSize } = gpu.limits;
  const limit = Math.min(maxStorageBufferBindingSize, maxBufferSize);
  const bytes = batchSize * imageSize ** 2 * 16; // four float32 channels
  if (bytes <= limit) return;
  throw new UserError(
    imageSize > 4096 ? "--image-size" : "--batch-size",
    `expected images of at most ${wholeMebibytes(limit)} in a step (this adapter's limit), got ${batchSize} of ${imageSize}x${imageSize}, ${wholeMebibytes(bytes)}`,
    "use smaller images or a smaller batch",
  );
}

/** The precision that the adapter can train with; says so where it is not the one asked for. */
export function usablePrecision(gpu: Pick<Gpu, "half">, wanted: Precision, warn: (text: string) => void): Precision {
  if (wanted === "f32" || gpu.half) return wanted;
  warn("--precision f16: this adapter has no half precision (shader-f16); training with f32");
  return "f32";
}

export interface SessionRequest {
  readonly o: TrainOptions;
  readonly sources: Sources;
  /** What to go on from; null for the first step of a new run. */
  readonly snapshot: Snapshot | null;
  /** The run's state then; ranks but the first have no snapshot. */
  readonly state: RunState;
  readonly ranks: Ranks;
  readonly warn: (text: string) => void;
}

/**
 * Makes a trainer on a device, with everything in it as the snapshot says; on several ranks as the first one's says.
 * @throws {UserError} when a file of the run or of the snapshot does not fit, or the adapter has no room
 */
export async function openTrainer(gpu: Gpu, request: SessionRequest): Promise<Trainer> {
  const { o, sources, snapshot, state, ranks, warn } = request;
  // The first rank goes ahead: it downloads, and tunes, what others on its host then find.
  const { vgg, model } = await ranks.firstThenOthers(() => openNetworks(gpu, request));
  const config: TrainerConfig = {
    model,
    loss: new InpaintingLoss({ variant: o.loss, vgg, weights: o.lossWeights }),
    images: sources.images,
    masks: sources.masks,
    imageSize: o.imageSize,
    batchSize: o.batchSize,
    syncBatchNorm: o.syncBatchNorm,
    processGroup: ranks.processGroup,
    lr: (step) => rateOf(o, step),
    seed: o.seed,
    freezeBatchNorm: state.step > frozenAfter(o) ? o.freeze : "none",
    ...(o.clipGradNorm !== null && { maxGradNorm: o.clipGradNorm }),
    ...(o.ema !== null && { emaDecay: o.ema }),
    precision: o.precision,
    gradientCheckpointing: o.gradientCheckpointing,
  };
  await ranks.firstThenOthers(() => withTuning(gpu, warn, (options) => tuneTraining(config, options)));
  const trainer = new Trainer(config);
  await ranks.together(async () => {
    if (!ranks.first) trainer.resume(state.step, state.samples ?? undefined);
    else if (snapshot) await reading(snapshot, () => restore(trainer, snapshot));
    else if (o.checkpointOptimizer !== null) {
      const { checkpointOptimizer: path } = o;
      trainer.optimizer.loadStateDict(readSafetensors(await readBytes(path), path).tensors, path);
    }
  });
  await trainer.broadcast();
  return trainer;
}

async function openNetworks(
  gpu: Gpu,
  { o, snapshot, ranks }: SessionRequest,
): Promise<{ readonly vgg: Vgg | null; readonly model: PConvUNet }> {
  checkSize(gpu, o);
  const { vggPath } = o;
  const vgg = vggPath === null ? null : await showingDownloads((onProgress) => loadVgg(gpu, vggPath, { onProgress }));
  // The other ranks get the first one's weights.
  const start = ranks.first ? o : { ...o, checkpoint: null };
  const model = snapshot ? await modelOf(gpu, snapshot) : await startingModel(gpu, start);
  if (snapshot) checkModel(model, o, snapshot.where, "undo the changes to config.json");
  return { vgg, model };
}

const modelOf = (gpu: Gpu, snapshot: Snapshot): Promise<PConvUNet> =>
  reading(snapshot, async () => {
    const path = `${snapshot.where}/${MODEL}`;
    return unetFromCheckpoint(gpu, await readWeights(snapshot.files[MODEL], path), path);
  });

/** Frees what a trainer and its device hold; a device that is lost has nothing left that could fail. */
export async function closeTrainer(gpu: Gpu, trainer: Trainer | null): Promise<void> {
  try {
    await trainer?.close();
    gpu.close();
  } catch (error) {
    if (!(error instanceof GpuError)) throw error;
  }
}
