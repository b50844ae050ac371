/** Processes that train together, in the terms of torch.distributed. Every rank makes the same calls in the same order. */
export interface ProcessGroup {
  /** This process's number, 0 .. size-1. */
  readonly rank: number;
  /** How many processes there are. */
  readonly size: number;
  /**
   * Sums `values` over all ranks, in place. Several may be under way; they are carried out in the
   * order of the calls. The caller leaves `values` alone until the promise settles.
   */
  allReduce(values: Float32Array): Promise<void>;
  /** Copies rank `root`'s bytes to all ranks, in place. */
  broadcast(bytes: Uint8Array, root: number): Promise<void>;
  /** Resolves when every rank has called it. */
  barrier(): Promise<void>;
}
