/**
 * What a trainer does as one of several: its share of the samples, exchange within a step, the same state on all ranks.
 *
 * Every rank holds the whole model and takes its own samples; gradients are averaged before the optimizer, which then does the same on all
 * of them. Everything that decides on a step (losses, their guard, norm and clipping, overflow with f16) is looked at after averaging: a
 * rank whose numbers are not finite makes the mean of all so, and all of them hold the step.
 */
import type { TapeOptions } from "../autograd/tape.js";
import type { Tensor } from "../autograd/tensor.js";
import type { LoadableTensor, StateDict, StateTensor } from "../nn/module.js";
import { DeviceGroup, type ExchangeTime } from "../optim/deviceGroup.js";
import { GradientBuckets } from "../optim/gradientBuckets.js";
import type { ProcessGroup } from "../optim/processGroup.js";
import type { Trainer, TrainerConfig } from "./trainer.js";

/** Bytes of the text that ranks tell each other about a fault. */
const TEXT_BYTES = 256;

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView) =>
  new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);

/** The rank's place among those that train together. */
export class DataParallel {
  private readonly device: DeviceGroup;
  private readonly buckets: GradientBuckets;
  private readonly syncBatchNorm: boolean;

  constructor(
    config: TrainerConfig,
    private readonly group: ProcessGroup,
  ) {
    const { model, bucketBytes } = config;
    this.device = new DeviceGroup(model.gpu, group);
    const parameters = model.namedParameters().map(([, parameter]) => parameter);
    this.buckets = new GradientBuckets(this.device, parameters, bucketBytes);
    this.syncBatchNorm = config.syncBatchNorm ?? false;
  }

  /** Time and bytes so far. */
  get exchanged(): ExchangeTime {
    return this.device.exchanged;
  }

  /** For the tape of a step: batch norm over all ranks where it is asked for, and gradients averaged as they come. */
  get tapeOptions(): Pick<TapeOptions, "ranks" | "onGradient"> {
    return { onGradient: this.buckets.onGradient, ranks: this.syncBatchNorm ? this.device : undefined };
  }

  /** Records that losses become the means over the ranks, while the backward pass runs; before `settle`. */
  averageLosses(losses: readonly Tensor[]): void {
    this.device.average(losses.map(({ storage }) => storage));
  }

  /** Records that losses and gradients are the means over the ranks from here on. */
  settle(): void {
    this.buckets.finish();
    this.device.settle();
  }

  /** Resolves when the group can be used for something else: it has been asked for everything that the steps so far need. */
  begun(): Promise<void> {
    return this.device.begun();
  }

  /** Forgets a step that was not recorded to its end. */
  reset(): void {
    this.buckets.reset();
  }

  /** Gives every rank rank 0's model, optimizer, averages, step and place among the samples. */
  async broadcast(state: TrainerState): Promise<{ readonly step: number; readonly samples: number }> {
    const { group } = this;
    const { optimizer, ema, step, samples } = state;
    const { model } = state.config;
    const share = async (state: StateDict, load: (state: ReadonlyMap<string, LoadableTensor>) => void) => {
      for (const { values } of state.values()) await group.broadcast(bytesOf(values), 0);
      if (group.rank !== 0) load(loadable(state));
    };
    await share(await model.stateDict(), (state) => model.loadStateDict(state, "rank 0's model"));
    await share(await optimizer.stateDict(), (state) => optimizer.loadStateDict(state, "rank 0's optimizer"));
    if (ema) {
      const averages = await ema.whileApplied(() => model.stateDict());
      await share(averages, (state) => ema.loadStateDict(state, "rank 0's averages"));
    }
    const place = Float64Array.of(step, samples);
    await group.broadcast(bytesOf(place), 0);
    return { step: place[0], samples: place[1] };
  }

  /** What the lowest rank says that has something to say, and which one that is; all ranks get the same. */
  async firstToSay(text: string | null): Promise<string | null> {
    const { group } = this;
    const speaks = new Float32Array(group.size);
    speaks[group.rank] = Number(text !== null);
    await group.allReduce(speaks);
    const rank = speaks.findIndex((said) => said > 0);
    if (rank < 0) return null;
    const bytes = new Uint8Array(TEXT_BYTES);
    new TextEncoder().encodeInto(text ?? "", bytes);
    await group.broadcast(bytes, rank);
    return `${new TextDecoder().decode(bytes).replace(/\0+$/, "")} on rank ${rank}`;
  }
}

/** What of a trainer all ranks share. */
export type TrainerState = Pick<Trainer, "config" | "optimizer" | "ema" | "step" | "samples">;

const loadable = (state: StateDict): Map<string, LoadableTensor> =>
  new Map([...state].map(([name, { shape, values }]) => [name, { shape, toFloat32: () => Float32Array.from(values, Number) }])); // prettier-ignore

/** Index of the rank's sample number `i` from a place on, of steps with `batchSize` samples on each of `size` ranks. */
export const shardedIndex = (
  { rank, size }: Pick<ProcessGroup, "rank" | "size">,
  batchSize: number,
  i: number,
): number => (Math.floor(i / batchSize) * size + rank) * batchSize + (i % batchSize);

/** SHA-256, as hex, of the trained parameters and the optimizer's state: equal on ranks that hold the same. */
export async function stateHash({
  config: { model },
  optimizer,
}: Pick<Trainer, "config" | "optimizer">): Promise<string> {
  const names = new Set(model.namedParameters().map(([name]) => name));
  const parameters = [...(await model.stateDict())].filter(([name]) => names.has(name));
  const tensors: [string, StateTensor][] = [...parameters, ...(await optimizer.stateDict())];
  const digest = async (bytes: Uint8Array<ArrayBuffer>) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const all: number[] = [];
  for (const [name, { values }] of tensors) {
    all.push(...(await digest(new TextEncoder().encode(name))), ...(await digest(bytesOf(values))));
  }
  return [...(await digest(Uint8Array.from(all)))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
