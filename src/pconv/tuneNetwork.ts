/**
 * Run-time tuning for whole networks: lists the convolutions of a training step, or of inference, and has the unknown ones measured
 * (`kernels/conv/tuning.ts`). Once per adapter and network where the measurements are stored; never on software adapters, unless forced.
 */
import { Tape } from "../autograd/tape.js";
import type { Gpu } from "../gpu/gpu.js";
import {
  collectConvolutions,
  tuneConvolutions,
  type TuneOptions,
  type TuneReport,
  tunes,
} from "../kernels/conv/tuning.js";
import type { TrainerConfig } from "./trainer.js";
import { PConvUNet } from "./unet.js";

/** What of a training run decides its convolutions. */
export type TunedStep = Pick<TrainerConfig, "model" | "loss" | "imageSize" | "batchSize" | "precision">;

/** Lists in a rehearsal, which takes neither memory nor time of the device; gives the memory of the measurements back. */
async function tune(gpu: Gpu, run: () => void, options: TuneOptions): Promise<TuneReport> {
  const calls = await collectConvolutions(gpu, () => void gpu.rehearse(run));
  try {
    return await tuneConvolutions(gpu, calls, options);
  } finally {
    gpu.trim();
  }
}

/**
 * Tunes the convolutions of a training step before the first one. The model is only looked at.
 * @example
 * await tuneTraining(config, { store: tuningFile(model.gpu.adapter) }); // Node; a browser passes a store of its own
 * const trainer = new Trainer(config);
 * @throws {UserError} when PCONV_TUNE holds another word than off and force
 */
export async function tuneTraining(step: TunedStep, options: TuneOptions = {}): Promise<TuneReport> {
  const { loss, imageSize, batchSize: n, precision = "f32" } = step;
  const { gpu, config } = step.model;
  if (!tunes(gpu, options)) return { measured: 0, known: 0 };
  const run = () => {
    // One of its own: a step leaves gradients behind, and counts.
    const model = new PConvUNet(gpu, config);
    const tape = new Tape(gpu, { grad: true, precision });
    try {
      const truth = tape.alloc({ n, h: imageSize, w: imageSize, c: 3 }, "tuning");
      const mask = tape.allocMask({ n, h: imageSize, w: imageSize }, null, true);
      const { output } = model.forward(tape, truth, mask);
      tape.backward(loss.forward(tape, output, truth, mask).total);
    } finally {
      tape.dispose();
      model.free();
    }
  };
  return tune(gpu, run, options);
}

/**
 * Tunes the convolutions of a model's forward pass, such as `inpaint` runs, for pictures of about this size: sizes within a factor of two
 * share their choices.
 * @param size in pixels; `n` pictures at once
 * @throws {UserError} when PCONV_TUNE holds another word than off and force
 */
export async function tuneInference(
  model: PConvUNet,
  { n = 1, height: h, width: w }: { readonly n?: number; readonly height: number; readonly width: number },
  options: TuneOptions = {},
): Promise<TuneReport> {
  const { gpu } = model;
  if (!tunes(gpu, options)) return { measured: 0, known: 0 };
  const run = () => {
    const wasTraining = model.training;
    const tape = new Tape(gpu, { grad: false });
    try {
      model.eval();
      model.forward(tape, tape.alloc({ n, h, w, c: 3 }, "tuning"), tape.allocMask({ n, h, w }, null, true));
    } finally {
      tape.dispose();
      model.train(wasTraining);
    }
  };
  return tune(gpu, run, options);
}
