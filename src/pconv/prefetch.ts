/** Asking for the next samples before they are needed. */
import { UserError } from "../errors.js";

/**
 * Calls `fetch(start)`, `fetch(start + 1)`, ... `depth` ahead of the reader and hands the results out in order. What is
 * handed out does not depend on `depth`, only how long the reader waits.
 */
export class Prefetcher<T> {
  private readonly ahead: Promise<T>[] = [];
  private nextIndex: number;
  private closed = false;

  /**
   * @param fetch how to get one sample, for example `(index) => source.sample(seed, index, size)`
   * @param start the first index
   * @param depth how many samples are under way besides the one that is waited for; 1 or more
   * @throws {UserError} `depth` is not a positive integer
   */
  constructor(
    private readonly fetch: (index: number) => Promise<T>,
    start: number,
    private readonly depth: number,
  ) {
    if (!(Number.isInteger(depth) && depth >= 1)) {
      throw new UserError("Prefetcher", `expected a depth of 1 or more, got ${depth}`, "2 to 8 is usual");
    }
    this.nextIndex = start;
    this.refill();
  }

  /**
   * The next sample. A failed fetch rejects here, at its own turn, not earlier.
   *
   * @throws {UserError} after {@link close}
   */
  next(): Promise<T> {
    if (this.closed) {
      return Promise.reject(
        new UserError("Prefetcher.next", "expected an open prefetcher, got a closed one", "make a new one"),
      );
    }
    const sample = this.ahead.shift()!;
    this.refill();
    return sample;
  }

  /** Stops asking, and resolves once what was under way has ended, well or not. */
  async close(): Promise<void> {
    this.closed = true;
    await Promise.allSettled(this.ahead.splice(0));
  }

  private refill(): void {
    while (this.ahead.length < this.depth) {
      const index = this.nextIndex++;
      const sample = Promise.resolve().then(() => this.fetch(index));
      sample.catch(() => undefined); // Not lost: next() returns the same promise. Without this Node ends the program.
      this.ahead.push(sample);
    }
  }
}
