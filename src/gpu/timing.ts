/**
 * Where the time of recorded work goes, by kernel.
 *
 * With the feature timestamp-query every dispatch gets a compute pass of its own while profiling, and the device itself
 * takes the time at its beginning and end. Passes cost a little: the sum is an upper bound of what the same dispatches
 * take in one pass. Without the feature only the whole is timed, by the wall clock.
 */
import type { Asking, Gpu } from "./gpu.js";

/** Queries a set may hold, by the WebGPU specification; two a dispatch. */
const SET_SIZE = 4096;

/** What one kernel took in a profiled run. */
export interface KernelTime {
  /** The kernel's one word. */
  readonly kernel: string;
  /** Dispatches. */
  readonly count: number;
  /** Milliseconds on the device, all dispatches together; null without timestamps. */
  readonly ms: number | null;
}

/** What {@link profile} measured. */
export interface Profile {
  /** By time, the largest first; by count without timestamps. */
  readonly kernels: readonly KernelTime[];
  /** Sum over the kernels; null without timestamps. */
  readonly deviceMs: number | null;
  /** From the beginning of the run to the end of the last command, host work included. */
  readonly wallMs: number;
}

/** Hands out one pair of timestamps per dispatch, and reads them when all has run. */
export class DispatchTimer {
  private readonly names: string[] = [];
  private readonly sets: GPUQuerySet[] = [];
  private readonly timestamps: boolean;

  constructor(
    private readonly device: GPUDevice,
    private readonly asking: Asking,
  ) {
    this.timestamps = device.features.has("timestamp-query");
  }

  /** The pass of the next dispatch, which is one of `kernel`. */
  next(kernel: string): GPUComputePassDescriptor {
    const first = (2 * this.names.length) % SET_SIZE;
    this.names.push(kernel);
    if (!this.timestamps) return { label: kernel };
    if (first === 0) this.sets.push(this.device.createQuerySet({ type: "timestamp", count: SET_SIZE }));
    const querySet = this.sets[this.sets.length - 1];
    const timestampWrites = { querySet, beginningOfPassWriteIndex: first, endOfPassWriteIndex: first + 1 };
    return { label: kernel, timestampWrites };
  }

  /** Nanoseconds of each dispatch in order, or null without timestamps. Call it when everything was submitted. */
  private async nanoseconds(): Promise<readonly number[] | null> {
    if (!this.timestamps) return null;
    const count = 2 * this.names.length;
    if (count === 0) return [];
    const { device } = this;
    const [resolved, readable] = [
      GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
      GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
    ].map((usage) => device.createBuffer({ label: "timestamps", size: this.sets.length * SET_SIZE * 8, usage }));
    try {
      const encoder = device.createCommandEncoder();
      this.sets.forEach((set, i) => {
        const used = Math.min(SET_SIZE, count - i * SET_SIZE); // the others were never written
        encoder.resolveQuerySet(set, 0, used, resolved, i * SET_SIZE * 8);
      });
      encoder.copyBufferToBuffer(resolved, 0, readable, 0, count * 8);
      device.queue.submit([encoder.finish()]);
      await this.asking(() => readable.mapAsync(GPUMapMode.READ, 0, count * 8));
      const times = new BigInt64Array(readable.getMappedRange(0, count * 8));
      // A device may restart its clock, and then the difference of one dispatch means nothing.
      return this.names.map((_, i) => Math.max(0, Number(times[2 * i + 1] - times[2 * i])));
    } finally {
      resolved.destroy();
      readable.destroy();
    }
  }

  /** Sums up by kernel. */
  async collect(wallMs: number): Promise<Profile> {
    const times = await this.nanoseconds();
    const sums = new Map<string, { count: number; ns: number }>();
    this.names.forEach((name, i) => {
      const sum = sums.get(name) ?? { count: 0, ns: 0 };
      sums.set(name, { count: sum.count + 1, ns: sum.ns + (times?.[i] ?? 0) });
    });
    const kernels = [...sums].map(([kernel, { count, ns }]) => ({ kernel, count, ms: times ? ns / 1e6 : null }));
    kernels.sort((a, b) => (b.ms ?? 0) - (a.ms ?? 0) || b.count - a.count);
    return { kernels, deviceMs: times ? times.reduce((a, b) => a + b, 0) / 1e6 : null, wallMs };
  }

  free(): void {
    for (const set of this.sets) set.destroy();
  }
}

/**
 * Runs `run` and says how long each kernel took on the device in it. Whatever was recorded before is not counted.
 * @throws {Error} inside of another profile of the same GPU
 */
export async function profile(gpu: Gpu, run: () => void | Promise<void>): Promise<Profile> {
  if (gpu.timer) throw new Error("profile: this GPU is being profiled already");
  await gpu.sync();
  const timer = new DispatchTimer(gpu.device, gpu.asking);
  gpu.timer = timer;
  try {
    const started = performance.now();
    await run();
    await gpu.sync(); // also ends the last timed pass, before other work could join it
    const wallMs = performance.now() - started;
    return await timer.collect(wallMs);
  } finally {
    gpu.timer = null;
    timer.free();
  }
}
