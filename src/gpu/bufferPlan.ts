/**
 * A plan of buffers for commands that are recorded again and again, such as a training step.
 *
 * A pool that hands out buffers as they are asked for cannot know that a small tensor would better not take the place of a large
 * one. A rehearsal records what is asked for and given back, without a device; then every lifetime is known, and tensors
 * whose lifetimes do not overlap share a buffer, the largest ones first. Each buffer is a GPUBuffer of its own: WebGPU does
 * not let one dispatch read and write parts of the same one.
 */

/** One hand-out of a rehearsal: its bytes, and when it began and ended, counted in events. */
export interface Lifetime {
  readonly bytes: number;
  readonly from: number;
  readonly to: number;
}

export interface BufferPlan {
  /** Bytes of each buffer. */
  readonly buffers: readonly number[];
  /** For each hand-out in order, its bytes and its buffer. */
  readonly handOuts: readonly { readonly bytes: number; readonly buffer: number }[];
}

/** Assigns buffers to lifetimes in the order in which they begin. */
export function planBuffers(lifetimes: readonly Lifetime[]): BufferPlan {
  const taken: { readonly bytes: number; readonly by: Lifetime[] }[] = [];
  const buffer = new Map<Lifetime, number>();
  for (const life of [...lifetimes].sort((a, b) => b.bytes - a.bytes || a.from - b.from)) {
    let at = taken.findIndex(({ by }) => by.every((other) => life.to < other.from || other.to < life.from));
    if (at < 0) at = taken.push({ bytes: Math.max(256, Math.ceil(life.bytes / 16) * 16), by: [] }) - 1;
    taken[at].by.push(life);
    buffer.set(life, at);
  }
  return {
    buffers: taken.map(({ bytes }) => bytes),
    handOuts: lifetimes.map((life) => ({ bytes: life.bytes, buffer: buffer.get(life)! })),
  };
}
