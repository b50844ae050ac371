/**
 * What a step takes on many ranks: a model of the gradient exchange, from a network's figures and one rank's step.
 *
 *   allReduce(n, B) = 2 (n - 1) latency + 2 (n - 1) / n B / bandwidth
 *
 * Source: ring all-reduce (Patarasuk & Yuan 2009), which is optimal in bandwidth; MPI libraries choose trees with fewer latencies
 * where messages are short, so that the first term is an upper bound. Gradients go in buckets, each of which is read from the device,
 * summed and written back as soon as its last gradient is there; the three run beside each other and beside the backward pass. What
 * is not done when the backward pass ends makes the step longer. Not in the model: ranks of unequal speed, other traffic on the
 * network, reading pictures.
 */
import { bucketsOf, BUCKET_BYTES } from "../../src/optim/gradientBuckets.js";
import { multiplications, unetLayers, VGG16_LAYERS } from "../shapes.js";

/** A way between two ranks. */
export interface Link {
  readonly latencySeconds: number;
  readonly bytesPerSecond: number;
}

export interface Interconnect extends Link {
  readonly name: string;
  /** Where its figures come from. */
  readonly source: string;
}

/** MPI reaches about this share of a network's nominal rate with long messages. */
const REACHED = 0.9;

const interconnect = (name: string, gigabits: number, microseconds: number, source: string): Interconnect => ({
  name,
  source,
  latencySeconds: microseconds * 1e-6,
  bytesPerSecond: (REACHED * gigabits * 1e9) / 8,
});

/** Nominal rates; latencies between two processes are typical ones, TCP's for Ethernet and MPI's for InfiniBand. */
export const INTERCONNECTS: readonly Interconnect[] = [
  interconnect("1 GbE", 1, 50, "IEEE 802.3ab, 1 Gb/s"),
  interconnect("10 GbE", 10, 25, "IEEE 802.3ae, 10 Gb/s"),
  interconnect("InfiniBand EDR or HDR100, 100 Gb/s", 100, 1.5, "IBTA roadmap: EDR 4x, HDR 2x"),
  interconnect("InfiniBand NDR, 400 Gb/s", 400, 1.5, "IBTA roadmap: NDR 4x"),
];

/** Seconds in which a message of so many bytes is summed over `ranks` ranks. */
export function allReduceSeconds(ranks: number, bytes: number, { latencySeconds, bytesPerSecond }: Link): number {
  return 2 * (ranks - 1) * latencySeconds + ((2 * (ranks - 1)) / ranks) * (bytes / bytesPerSecond);
}

/** A measured sum. */
export interface Reduction {
  readonly bytes: number;
  readonly seconds: number;
}

/**
 * The link that measured times speak of: the latency of the shortest message, and the bandwidth whose times are nearest to those of all,
 * by least squares of the relative error.
 */
export function fitLink(ranks: number, measured: readonly Reduction[]): Link {
  const shortest = measured.reduce((a, b) => (b.bytes < a.bytes ? b : a));
  // seconds = latency + slope bytes; each row divided by its seconds
  let [numerator, denominator] = [0, 0];
  for (const { bytes, seconds } of measured) {
    numerator += (bytes / seconds) * Math.max(0, 1 - shortest.seconds / seconds);
    denominator += (bytes / seconds) ** 2;
  }
  const slope = numerator / denominator;
  return {
    latencySeconds: shortest.seconds / (2 * (ranks - 1)),
    bytesPerSecond: (2 * (ranks - 1)) / ranks / slope,
  };
}

/** A step of one rank, as far as the exchange is concerned. */
export interface Step {
  /** Without any exchange. */
  readonly seconds: number;
  /** In the order in which they are summed. */
  readonly buckets: readonly {
    readonly bytes: number;
    /** When the last of its gradients is there, from the start of the step. */
    readonly readySeconds: number;
  }[];
}

/** Features of truth, output and composite, and the gradients of the last two. */
const VGG_PASSES = 5;

/** Operations of VGG16 to pool3 on one image. */
function vggForward(size: number): number {
  let side = size;
  let sum = 0;
  for (const { c, k, pool } of VGG16_LAYERS) {
    sum += 2 * side * side * c * k * 9;
    if (pool) side >>= 1;
  }
  return sum;
}

/**
 * A training step of the U-Net with VGG at `size` x `size`, its time shared out by operations: forward, VGG, backward from the last layer
 * to the first.
 * @param seconds of the whole step
 */
export function networkStep(
  seconds: number,
  size: number,
  { width = 1, depth = 8, bucketBytes = BUCKET_BYTES } = {},
): Step {
  const layers = unetLayers(size, width, depth);
  const forward = layers.reduce((sum, { layer }) => sum + 2 * multiplications(layer), 0);
  const all = 3 * forward + VGG_PASSES * vggForward(size);
  let done = all - 2 * forward; // when the U-Net's backward pass begins
  const parameters = layers.map(({ layer: { c, k, kernel } }) => ({
    storage: { bytes: 4 * c * k * kernel[0] * kernel[1] },
  }));
  const readyAt = new Map<object, number>();
  for (let i = layers.length - 1; i >= 0; i--) {
    done += 2 * 2 * multiplications(layers[i].layer);
    readyAt.set(parameters[i], (done / all) * seconds);
  }
  const buckets = bucketsOf(parameters, bucketBytes).map((bucket) => ({
    bytes: bucket.reduce((sum, { storage }) => sum + storage.bytes, 0),
    readySeconds: Math.max(...bucket.map((parameter) => readyAt.get(parameter)!)),
  }));
  return { seconds, buckets };
}

/** What a step takes on many ranks. */
export interface Prediction {
  readonly ranks: number;
  readonly seconds: number;
  /** Of it, what the exchange adds. */
  readonly exposedSeconds: number;
  /** Of the sums' time, what the backward pass hides. */
  readonly hiddenShare: number;
  /** Images a second against `ranks` times those of one rank. */
  readonly efficiency: number;
}

/**
 * Predicts a step.
 * @param hostBytesPerSecond between device and host, each way
 */
export function predict({ seconds, buckets }: Step, ranks: number, link: Link, hostBytesPerSecond: number): Prediction {
  let [read, summed, written, sums] = [0, 0, 0, 0];
  for (const { bytes, readySeconds } of buckets) {
    const sum = allReduceSeconds(ranks, bytes, link);
    read = Math.max(read, readySeconds) + bytes / hostBytesPerSecond;
    summed = Math.max(summed, read) + sum;
    written = Math.max(written, summed) + bytes / hostBytesPerSecond;
    sums += sum;
  }
  const total = Math.max(seconds, written);
  const exposedSeconds = total - seconds;
  const hiddenShare = Math.max(0, 1 - exposedSeconds / sums);
  return { ranks, seconds: total, exposedSeconds, hiddenShare, efficiency: seconds / total };
}
