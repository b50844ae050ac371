/** Gradients averaged over processes in buckets, while the backward pass goes on: as in PyTorch's DistributedDataParallel. */
import type { Tensor } from "../autograd/tensor.js";
import { UserError } from "../errors.js";
import type { DeviceGroup } from "./deviceGroup.js";

/** Bytes of a bucket: large enough that latency does not count, small enough that the first one is soon full (DDP's default). */
export const BUCKET_BYTES = 25 * 2 ** 20;

/**
 * Cuts parameters into buckets: from the last to the first, which is the order in which backward finishes their gradients. A bucket is
 * closed as soon as it has `bytes` bytes or more.
 */
export function bucketsOf<T extends { readonly storage: { readonly bytes: number } }>(
  parameters: readonly T[],
  bytes: number,
): T[][] {
  const buckets: T[][] = [];
  let room = 0;
  for (const parameter of [...parameters].reverse()) {
    if (room <= 0) {
      buckets.push([]);
      room = bytes;
    }
    buckets.at(-1)!.push(parameter);
    room -= parameter.storage.bytes;
  }
  return buckets;
}

/** Averages the gradients of a fixed list of parameters over the ranks of a group, step after step. */
export class GradientBuckets {
  private readonly buckets: readonly (readonly Tensor[])[];
  private readonly bucketOf = new Map<Tensor, number>();
  /** Gradients that each bucket still lacks. */
  private missing: number[] = [];
  /** Buckets are begun in their order: all ranks then sum the same one at the same time. */
  private next = 0;

  /** @throws {UserError} when `bytes` is not positive */
  constructor(
    private readonly group: DeviceGroup,
    parameters: readonly Tensor[],
    bytes = BUCKET_BYTES,
  ) {
    if (!(bytes > 0)) throw new UserError("bucketBytes", `expected more than 0 bytes, got ${bytes}`, "25 MiB is usual");
    this.buckets = bucketsOf(parameters, bytes);
    this.buckets.forEach((bucket, i) => bucket.forEach((parameter) => this.bucketOf.set(parameter, i)));
    this.reset();
  }

  /** How many buckets there are. */
  get count(): number {
    return this.buckets.length;
  }

  /** For `TapeOptions.onGradient`: begins every bucket whose gradients are all recorded. */
  readonly onGradient = (leaf: Tensor): void => {
    const bucket = this.bucketOf.get(leaf);
    if (bucket === undefined) return;
    this.missing[bucket]--;
    while (this.missing[this.next] === 0) this.begin();
  };

  /** After the backward pass: begins what has not begun, such as buckets with a parameter that no op read. */
  finish(): void {
    while (this.next < this.buckets.length) this.begin();
    this.reset();
  }

  /** Forgets a backward pass that was not finished. */
  reset(): void {
    this.missing = this.buckets.map((bucket) => bucket.length);
    this.next = 0;
  }

  private begin(): void {
    const gradients = this.buckets[this.next++].flatMap(({ grad }) => grad?.storage ?? []);
    this.group.average(gradients);
  }
}
