/**
 * Submits and writes in the order in which they were recorded, where some of them must wait for values that the host does not have
 * yet, such as sums over several processes. Recording itself never waits: what comes behind a wait is kept until it is over.
 */
export class InOrder {
  /** Settles when everything so far has run; null while nothing waits. */
  private tail: Promise<void> | null = null;

  /** @param onError gets what a task throws, or a wait rejects with; what comes behind runs all the same */
  constructor(private readonly onError: (cause: unknown) => void) {}

  /** Something waits: a task would not run at once. */
  get waiting(): boolean {
    return this.tail !== null;
  }

  /** Runs `task`: now, or behind what waits. */
  run(task: () => void): void {
    if (this.tail) this.hold(task);
    else task();
  }

  /** Runs `task` behind what waits, and holds back everything later until what it returns has settled. */
  hold(task: () => void | Promise<void>): void {
    const tail: Promise<void> = (this.tail ?? Promise.resolve()).then(task).catch(this.onError).then(() => {
      if (this.tail === tail) this.tail = null;
    }); // prettier-ignore
    this.tail = tail;
  }

  /** Resolves when everything so far has run. */
  async passed(): Promise<void> {
    await this.tail;
  }
}
