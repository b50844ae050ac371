/** The whole U-Net forward, and whole training steps: time, the floor that the needed operations set, and peak memory. */
import { Tape } from "../src/autograd/tape.js";
import type { Gpu } from "../src/gpu/gpu.js";
import type { TuneOptions } from "../src/kernels/conv/tuning.js";
import { weightedSum } from "../src/kernels/weightedSum.js";
import { loadVgg } from "../src/io/vggFile.js";
import type { LoadableTensor } from "../src/nn/module.js";
import { InpaintingLoss } from "../src/pconv/loss.js";
import { Rng } from "../src/pconv/rng.js";
import { Trainer, type TrainerConfig } from "../src/pconv/trainer.js";
import { tuneInference, tuneTraining } from "../src/pconv/tuneNetwork.js";
import { PConvUNet } from "../src/pconv/unet.js";
import { Vgg } from "../src/pconv/vgg.js";
import { type Flops, timesFlops, trainingStepFlops, unetFlops } from "./flops.js";
import type { Sampler } from "./sampling.js";
import { centreHole, VGG16_LAYERS } from "./shapes.js";
import { floats } from "./tensors.js";
import { type Check, ErrorMeter } from "./workload.js";

export interface NetworkCase {
  /** Side of the square pictures in pixels, and how many. */
  readonly size: number;
  readonly batch: number;
  readonly width: number;
  readonly depth: number;
  /** Share of the centre hole, 0..1. */
  readonly holes: number;
  readonly pass: "forward" | "step";
  /** The loss network: a weight file, random weights of VGG16's shape, or none. Steps only. */
  readonly vgg: { readonly path: string } | "random" | null;
}

/** A network, ready to be timed and checked. */
export interface Network extends Sampler {
  readonly flops: Flops;
  /** One pass, results read back. */
  run(): Promise<void>;
  check(): Promise<Check>;
  free(): Promise<void>;
}

/**
 * Steps of the directional derivative, which change the loss by about these shares. The long one loses least to rounding; a shorter one
 * is taken where the loss is not straight along it: batch norm over the two pixels that two small pictures have in the deepest
 * level is nearly a jump. A wrong gradient is wrong with each of them.
 */
const LOSS_CHANGES = [1e-2, 1e-3, 1e-4, 1e-5];
/** A step that moves nothing much: the timed steps train, and the last must be like the first. */
const LEARNING_RATE = 1e-6;

/** Random weights of VGG16's shapes (He et al. 2015), by torchvision's names. */
function randomVggState(seed: number): ReadonlyMap<string, LoadableTensor> {
  const rng = Rng.of(seed);
  const tensor = (shape: readonly number[], deviation: number): LoadableTensor => {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    for (let i = 0; i < values.length; i++) values[i] = deviation * rng.normal();
    return { shape, toFloat32: () => values };
  };
  return new Map(
    VGG16_LAYERS.flatMap(({ index, c, k }): [string, LoadableTensor][] => [
      [`features.${index}.weight`, tensor([k, c, 3, 3], Math.sqrt(2 / (9 * c)))],
      [`features.${index}.bias`, tensor([k], 0)],
    ]),
  );
}

async function sampleOf(run: () => Promise<void>, passes: number): Promise<number> {
  const started = performance.now();
  for (let i = 0; i < passes; i++) await run();
  return (performance.now() - started) / passes;
}

/**
 * Inference: upload, forward, read the output back. The check: on fresh pictures the result is the same, bit for bit, whatever
 * stands in the holes, is finite, and depends on the rest.
 */
async function makeForward(gpu: Gpu, o: NetworkCase, tuning: TuneOptions): Promise<Network> {
  const { size, batch: n, width, depth } = o;
  const model = new PConvUNet(gpu, { width, depth });
  model.eval();
  await tuneInference(model, { n, height: size, width: size }, tuning);
  const shape = { n, h: size, w: size, c: 3 };
  const hole = centreHole(size, size, o.holes);
  const masks = Float32Array.from({ length: n * size * size }, (_, i) => hole[i % hole.length]);
  const draw = (seed: number) => floats(Rng.of(seed), n * size * size * 3, 0, 1);
  const pictures = draw(1);
  const forward = async (pixels: Float32Array): Promise<Float32Array> => {
    const tape = new Tape(gpu, { grad: false });
    try {
      const mask = tape.uploadMask({ n, h: size, w: size }, masks);
      return await model.forward(tape, tape.upload(shape, pixels, "pictures"), mask).output.values();
    } finally {
      tape.dispose();
    }
  };
  const run = async () => void (await forward(pictures));
  return {
    flops: timesFlops(unetFlops(size, width, depth, hole), n),
    run,
    sample: (passes) => sampleOf(run, passes),
    check: async () => {
      const fresh = draw(2);
      const want = await forward(fresh);
      const got = await forward(fresh.map((v, i) => (masks[Math.floor(i / 3)] === 1 ? v : NaN)));
      const other = await forward(fresh.map((v) => 1 - v));
      const meter = new ErrorMeter();
      for (let i = 0; i < want.length; i++) meter.add(got[i], want[i]);
      const alive = want.some((v, i) => v !== other[i]);
      return { maxError: alive ? meter.maxError : NaN, checked: meter.checked, entries: want.length, referenceMs: 0 };
    },
    free: async () => model.free(),
  };
}

/**
 * A training step: batch, forward, loss, backward, Adam, readback of the losses. The check, on fresh pictures: the change of the
 * loss along its own gradient against the gradient's length, by central differences.
 */
async function makeStep(gpu: Gpu, o: NetworkCase, tuning: TuneOptions): Promise<Network> {
  const { size, batch: n, width, depth } = o;
  const model = new PConvUNet(gpu, { width, depth });
  const vgg = o.vgg === null ? null : o.vgg === "random" ? new Vgg(gpu, randomVggState(7)) : await loadVgg(gpu, o.vgg.path); // prettier-ignore
  const loss = new InpaintingLoss({ vgg });
  const values = centreHole(size, size, o.holes);
  const draw = (seed: number) => floats(Rng.of(seed), size * size * 3, 0, 1);
  const some = draw(1);
  const config: TrainerConfig = {
    model,
    loss,
    images: { description: "noise", length: 1, sample: async () => ({ width: size, height: size, pixels: some }) },
    masks: {
      description: "centre hole",
      length: 1,
      sample: async () => ({ width: size, height: size, values: Uint8Array.from(values) }),
    },
    imageSize: size,
    batchSize: n,
    lr: LEARNING_RATE,
    seed: 1,
    freezeBatchNorm: "none",
  };
  await tuneTraining(config, tuning);
  const trainer = new Trainer(config);
  const run = async () => void (await trainer.trainStep());

  /** The loss of fresh pictures, its gradients left in the parameters if wanted. */
  const evaluate = async (grad: boolean): Promise<number> => {
    model.train();
    const tape = new Tape(gpu, { grad });
    try {
      const pixels = new Float32Array(n * some.length);
      const masks = new Float32Array(n * values.length);
      for (let i = 0; i < n; i++) {
        pixels.set(draw(100 + i), i * some.length);
        masks.set(values, i * values.length);
      }
      const truth = tape.upload({ n, h: size, w: size, c: 3 }, pixels, "truth");
      const mask = tape.uploadMask({ n, h: size, w: size }, masks);
      const { total } = loss.forward(tape, model.forward(tape, truth, mask).output, truth, mask);
      if (grad) tape.backward(total);
      return (await total.values())[0];
    } finally {
      tape.dispose();
    }
  };

  const check = async (): Promise<Check> => {
    const value = await evaluate(true);
    const trained = model.namedParameters().flatMap(([, p]) => (p.grad ? [{ p, g: p.grad }] : []));
    let square = 0;
    for (const { g } of trained) for (const v of (await gpu.read(g.storage))[0]) square += v * v;
    const length = Math.sqrt(square);
    /** Moves every parameter along the gradient. */
    const move = (by: number) => {
      for (const { p, g } of trained) {
        const moved = gpu.alloc(p.storage.bytes, "pconv-bench");
        weightedSum(gpu, p.vec4s, { alpha: 1, beta: by / length }, { a: p.storage, b: g.storage, y: moved });
        gpu.copy(moved, p.storage, p.storage.bytes);
        gpu.free(moved);
      }
    };
    let maxError = Infinity;
    for (const change of LOSS_CHANGES) {
      const step = (change * value) / length / 2;
      move(step);
      const above = await evaluate(false);
      move(-2 * step);
      const below = await evaluate(false);
      move(step);
      maxError = Math.min(maxError, Math.abs((above - below) / (2 * step) - length) / length);
      if (maxError <= NETWORK_MAX_ERROR.step) break;
    }
    trainer.optimizer.zeroGrad();
    return {
      maxError: Number.isFinite(length) ? maxError : NaN,
      checked: trained.length,
      entries: trained.length,
      referenceMs: 0,
    };
  };

  return {
    flops: timesFlops(trainingStepFlops(size, width, depth, values, vgg !== null), n),
    run,
    sample: (passes) => sampleOf(run, passes),
    check,
    free: async () => {
      await trainer.close();
      model.free();
      vgg?.free();
    },
  };
}

/** A network whose convolutions are tuned. */
export const makeNetwork = (gpu: Gpu, o: NetworkCase, tuning: TuneOptions = {}): Promise<Network> =>
  o.pass === "step" ? makeStep(gpu, o, tuning) : makeForward(gpu, o, tuning);

/** Errors that a check may find: none at all in a forward pass; the curvature of the loss, and its kinks, in a step. */
export const NETWORK_MAX_ERROR = { forward: 0, step: 0.05 } as const;
