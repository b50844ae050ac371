/** Sums and averages of device memory over the processes that train together, recorded among the kernels of a step. */
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";
import type { BatchRanks } from "../kernels/batchNormStats.js";
import type { ProcessGroup } from "./processGroup.js";

/** What exchanging numbers took so far. */
export interface ExchangeTime {
  /** Milliseconds in which at least one sum over the processes was under way. */
  readonly reducing: number;
  /** Milliseconds in which the device had nothing to do because numbers of others were missing, readback included. */
  readonly waiting: number;
  /** Bytes that this process gave to sums. */
  readonly bytes: number;
}

/** What `Gpu.read` gave of several float32 storages, as the one row that it is in memory. */
const inOneRow = ([first, ...rest]: readonly Float32Array[]): Float32Array =>
  new Float32Array(
    first.buffer,
    first.byteOffset,
    rest.reduce((sum, { length }) => sum + length, first.length),
  );

/**
 * One device's part in a process group. Every rank must record the same calls in the same order; sums are begun in that order, whichever
 * readback ends first. In a rehearsal nothing happens.
 */
export class DeviceGroup implements BatchRanks {
  private readonly time = { reducing: 0, waiting: 0, bytes: 0 };
  /** Settles when the sum recorded last has been begun. */
  private turn: Promise<unknown> = Promise.resolve();
  /** When the last sum ended. */
  private idleSince = 0;
  private averages: Promise<void>[] = [];

  constructor(
    readonly gpu: Gpu,
    readonly group: ProcessGroup,
  ) {}

  get size(): number {
    return this.group.size;
  }

  /** What it took so far. */
  get exchanged(): ExchangeTime {
    return { ...this.time };
  }

  /** Sums over the ranks what `arrange` makes of the storages' contents as they are after everything recorded so far. */
  private sumOf(
    storages: readonly Storage[],
    arrange: (contents: readonly Float32Array[]) => Float32Array,
  ): Promise<Float32Array> {
    const begun = Promise.all([this.gpu.read(...storages), this.turn]).then(([contents]) => {
      const values = arrange(contents);
      const from = performance.now();
      const ended = this.group.allReduce(values).then(() => {
        const now = performance.now();
        this.time.reducing += now - Math.max(from, this.idleSince);
        this.time.bytes += values.byteLength;
        this.idleSince = now;
        return values;
      });
      return { ended }; // wrapped: the next sum's turn comes when this one has begun, not when it has ended
    });
    this.turn = begun;
    begun.catch(() => undefined); // whoever waits for the sum gets the error
    return begun.then(({ ended }) => ended);
  }

  /** Records that what follows waits for `work`, and takes the time in which the device stands still for it. */
  private waitFor(work: Promise<unknown>): void {
    const now = () => performance.now();
    const idle = this.gpu.sync().then(now);
    this.gpu.waitFor(work);
    Promise.all([idle, work.then(now)])
      .then(([from, to]) => (this.time.waiting += Math.max(0, to - from)))
      .catch(() => undefined); // the device's next user gets the error
  }

  gather(own: Storage, all: Storage, rows: number): void {
    if (this.gpu.rehearsing) return;
    const { rank, size } = this.group;
    // A sum in which every place has one value and zeros: exact, so that the order of the ranks' additions does not matter.
    const sum = this.sumOf([own], ([values]) => {
      const row = values.length / rows;
      const places = new Float32Array(rows * size * row);
      for (let r = 0; r < rows; r++) places.set(values.subarray(r * row, (r + 1) * row), (r * size + rank) * row);
      return places;
    });
    this.waitFor(sum.then((values) => this.gpu.put(all, values)));
  }

  sum(own: Storage, all: Storage): void {
    if (this.gpu.rehearsing) return;
    this.waitFor(this.sumOf([own], inOneRow).then((values) => this.gpu.put(all, values)));
  }

  /**
   * Records that float32 storages become the mean over the ranks, of what is in them after everything recorded so far. Nothing may use them
   * until {@link settle}: until then the means are on their way, while what is recorded meanwhile runs.
   */
  average(storages: readonly Storage[]): void {
    if (this.gpu.rehearsing || storages.length === 0) return;
    const mean = this.sumOf(storages, inOneRow).then((values) => {
      const share = 1 / this.size;
      for (let i = 0; i < values.length; i++) values[i] *= share;
      let at = 0;
      for (const storage of storages) this.gpu.put(storage, values.subarray(at, (at += storage.bytes / 4)));
    });
    mean.catch(() => undefined); // `settle` waits for it
    this.averages.push(mean);
  }

  /** Resolves when every sum recorded so far has been begun: what the group is asked for from then on comes behind them on all ranks. */
  async begun(): Promise<void> {
    await this.turn;
  }

  /** Records that what follows finds all means that were begun. */
  settle(): void {
    if (this.averages.length === 0) return;
    this.waitFor(Promise.all(this.averages));
    this.averages = [];
  }
}
