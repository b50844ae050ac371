/** One rank's part of the measurements: steps with and without overlap, and sums by message size. */
import { availableParallelism } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import type { MpiGroup } from "../../src/io/mpi/group.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { InpaintingLoss } from "../../src/pconv/loss.js";
import { deadLeaves } from "../../src/pconv/deadLeaves.js";
import { generateMask } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";
import { Trainer } from "../../src/pconv/trainer.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import type { ProcessGroup } from "../../src/optim/processGroup.js";
import { allReduceSeconds, type Link, type Reduction } from "./model.js";

export interface Case {
  readonly imageSize: number;
  readonly width: number;
  readonly depth: number;
  readonly batchSize: number;
  readonly steps: number;
  /** Sums take at least as long as over a link of so many bytes a second, without using the processor; null: as long as they take. */
  readonly linkBytesPerSecond: number | null;
}

/** Times of a step in milliseconds, and what of it the exchange took. */
export interface StepFigures {
  /** The median, and the fastest: what else runs on the machine only adds. */
  readonly stepMs: number;
  readonly fastestMs: number;
  /** In which a sum was under way, and in which the device stood still for one. */
  readonly reducingMs: number;
  readonly waitingMs: number;
  readonly bytes: number;
}

export interface Figures extends Case {
  readonly ranks: number;
  readonly library: string | null;
  readonly adapter: string;
  readonly cores: number;
  readonly parameterBytes: number;
  /** Gradients in about eight buckets, whose sums overlap the backward pass; null: in one, after it. One rank has only the second. */
  readonly overlapped: StepFigures | null;
  readonly whole: StepFigures;
  readonly reductions: readonly Reduction[];
}

const WARM_STEPS = 3;
const BUCKETS = 8;
/** Floats of the measured messages: 4 bytes to 64 MiB. */
const MESSAGES = [1, 256, 4096, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216];
/** A message size is measured this often, the large ones less, as long as it takes. */
const MESSAGE_REPEATS = 30;
const MESSAGE_SECONDS = 1.5;

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1];

/** Measures; every rank calls it. */
export async function measure(gpu: Gpu, group: MpiGroup | null, o: Case): Promise<Figures> {
  const bytes = parameterBytes(gpu, o);
  const { linkBytesPerSecond: link } = o;
  const between = group && link !== null ? behindLink(group, link) : group;
  const whole = await steps(gpu, between, o, 2 * bytes);
  const overlapped = between === null ? null : await steps(gpu, between, o, bytes / BUCKETS);
  return {
    ...o,
    ranks: group?.size ?? 1,
    library: group?.description ?? null,
    adapter: gpu.adapter.name,
    cores: availableParallelism(),
    parameterBytes: bytes,
    overlapped,
    whole,
    reductions: group === null ? [] : await reductions(group),
  };
}

/** The same group behind a slower link: what such a network lets a step hide can be seen on one machine. */
function behindLink(group: MpiGroup, bytesPerSecond: number): ProcessGroup {
  let free = 0; // when the link has carried what was given to it
  return {
    rank: group.rank,
    size: group.size,
    broadcast: (bytes, root) => group.broadcast(bytes, root),
    barrier: () => group.barrier(),
    allReduce: async (values) => {
      const link: Link = { latencySeconds: 0, bytesPerSecond };
      free = Math.max(free, performance.now()) + 1000 * allReduceSeconds(group.size, values.byteLength, link);
      const until = free;
      await group.allReduce(values);
      const left = until - performance.now();
      if (left > 0) await sleep(left);
    },
  };
}

function parameterBytes(gpu: Gpu, { width, depth }: Case): number {
  const model = new PConvUNet(gpu, { width, depth });
  const bytes = model.namedParameters().reduce((sum, [, p]) => sum + p.storage.bytes, 0);
  model.free();
  return bytes;
}

async function steps(gpu: Gpu, group: ProcessGroup | null, o: Case, bucketBytes: number): Promise<StepFigures> {
  const { imageSize: size, width, depth, batchSize } = o;
  const model = new PConvUNet(gpu, { width, depth }, 1);
  // Drawn once: how fast pictures are read is not the question here.
  const rng = Rng.of(1, group?.rank ?? 0);
  const picture = deadLeaves(size, size, rng);
  const mask = generateMask(size, size, rng);
  const trainer = new Trainer({
    model,
    loss: new InpaintingLoss({ vgg: null }),
    images: { description: "one picture", length: 1, sample: async () => picture },
    masks: { description: "one mask", length: 1, sample: async () => mask },
    imageSize: size,
    batchSize,
    lr: 1e-4,
    seed: 1,
    bucketBytes,
    ...(group && { processGroup: group }),
  });
  try {
    for (let i = 0; i < WARM_STEPS; i++) await trainer.trainStep();
    await group?.barrier();
    const before = trainer.exchanged;
    const times: number[] = [];
    for (let i = 0; i < o.steps; i++) {
      const started = performance.now();
      await trainer.trainStep();
      times.push(performance.now() - started);
    }
    const after = trainer.exchanged;
    const each = (what: "reducing" | "waiting" | "bytes") =>
      after && before ? (after[what] - before[what]) / o.steps : 0;
    const own = { stepMs: median(times), fastestMs: Math.min(...times) };
    return { ...own, reducingMs: each("reducing"), waitingMs: each("waiting"), bytes: each("bytes") };
  } finally {
    await trainer.close();
    model.free();
  }
}

async function reductions(group: MpiGroup): Promise<Reduction[]> {
  const found: Reduction[] = [];
  for (const entries of MESSAGES) {
    const values = new Float32Array(entries);
    const times: number[] = [];
    const more = new Float32Array(1);
    do {
      await group.barrier();
      const started = performance.now();
      await group.allReduce(values);
      times.push((performance.now() - started) / 1000);
      // The first rank decides, so that all make as many.
      more[0] =
        group.rank === 0 && times.length < MESSAGE_REPEATS && times.reduce((a, b) => a + b) < MESSAGE_SECONDS ? 1 : 0;
      await group.allReduce(more);
    } while (more[0] > 0);
    found.push({ bytes: 4 * entries, seconds: Math.min(...times) }); // what else runs here only adds
  }
  return found;
}
