/**
 * One device and everything that lives on it: buffers, pipelines, and the commands recorded but not yet submitted.
 *
 * Launchers call {@link Gpu.dispatch}; nothing runs until {@link Gpu.flush} (or a read or write that needs it). Dispatches
 * since the last flush share one command encoder, one compute pass and one submit: on software adapters a submit costs as
 * much as two dispatches, on real ones more.
 */
import { GpuError } from "../errors.js";
import { decodeHalf, encodeHalf } from "../half.js";
import type { AdapterSummary } from "./adapterSummary.js";
import { type Derivation, DerivedStorages } from "./derived.js";
import { type Kernel, packParams, PipelineCache } from "./kernel.js";
import type { BufferPlan } from "./bufferPlan.js";
import { InOrder } from "./inOrder.js";
import { GpuMemoryError } from "./memoryError.js";
import { BufferPool, type MemoryUse, type Storage, tooLarge } from "./pool.js";
import { watchDevice } from "./deviceErrors.js";
import { Readback } from "./readback.js";
import type { DispatchTimer } from "./timing.js";

/** Number of workgroups in x, y and z. */
export type Grid = readonly [x: number, y?: number, z?: number];

/** How the device is asked for a promise, where that takes more than calling it: `dawnEvents.ts`. */
export type Asking = <T>(ask: () => Promise<T>) => Promise<T>;

/** Uniform slots per submit; when they are used up the recorder submits by itself. */
const UNIFORM_SLOTS = 4096;
const UNIFORM_STRIDE = 256; // the largest minUniformBufferOffsetAlignment that WebGPU allows
const MAX_BIND_GROUPS = 16384;

/** A device with its buffers and pipelines, and the one command encoder that every kernel records into; see `openGpu`. */
export class Gpu {
  readonly limits: GPUSupportedLimits;
  /** While it is set, every dispatch has a pass of its own, timed; `profile` sets it. */
  timer: DispatchTimer | null = null;
  private readonly pool: BufferPool;
  private readonly pipelines: PipelineCache;
  private readonly bindGroups = new Map<string, GPUBindGroup>();
  private readonly constants = new Map<string, Storage>();
  private readonly kept = new DerivedStorages({
    alloc: (bytes, what) => this.take(bytes, what, false, true),
    free: (storage) => this.free(storage),
  });
  private readonly uniforms: GPUBuffer;
  private readonly uniformBytes = new DataView(new ArrayBuffer(UNIFORM_SLOTS * UNIFORM_STRIDE));
  private uniformSlots = 0;
  private encoder: GPUCommandEncoder | null = null;
  private pass: GPUComputePassEncoder | null = null;
  private failure: Error | null = null;
  private closed = false;
  private readonly order = new InOrder((cause) => this.fail(cause instanceof Error ? cause : new Error(String(cause))));
  private readonly readback: Readback;

  constructor(
    readonly device: GPUDevice,
    readonly adapter: AdapterSummary,
    /** Bytes that all buffers together may have. */
    memoryLimit = Infinity,
    /** Starts and awaits what the device promises. */
    readonly asking: Asking = (ask) => ask(),
  ) {
    this.limits = device.limits;
    this.pool = new BufferPool(device, memoryLimit);
    this.pipelines = new PipelineCache(device);
    this.readback = new Readback(device, asking);
    this.uniforms = device.createBuffer({
      label: "uniforms",
      size: this.uniformBytes.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    const closed = () => this.closed;
    watchDevice(device, closed, (error) => this.fail(error));
  }

  private fail(error: Error): void {
    this.failure ??= error;
  }

  /** @throws the first error that the device reported since it was opened. */
  check(): void {
    if (this.failure) throw this.failure;
    if (this.closed) throw new GpuError("GPU", "it was closed", "open it again with openGpu()");
  }

  /**
   * Hands out storage; its contents are undefined. `what` names it in errors, `half` says that it will hold float16.
   * @throws {GpuError} for half storage on an adapter without it, and when the adapter has no room.
   */
  alloc(bytes: number, what: string, half = false): Storage {
    this.check();
    if (half && !this.half) {
      throw new GpuError(
        what,
        "expected an adapter with half precision (shader-f16), got one without",
        "use float32 (--precision f32), or another adapter",
      );
    }
    return this.take(bytes, what, half);
  }

  /** @param lasting see `BufferPool.alloc` */
  private take(bytes: number, what: string, half = false, lasting = false): Storage {
    try {
      return this.pool.alloc(bytes, what, half, lasting);
    } catch (error) {
      if (!(error instanceof GpuMemoryError)) throw error;
      this.kept.clear();
      this.trim(); // idle buffers of other sizes may be what fills the memory
      return this.pool.alloc(bytes, what, half, lasting);
    }
  }

  /** Whether storage may hold float16: the feature `shader-f16`. */
  get half(): boolean {
    return this.device.features.has("shader-f16");
  }

  /** Gives storage back for reuse; recorded commands that use it stay correct because commands run in order. */
  free(storage: Storage): void {
    this.kept.changed(storage);
    this.pool.free(storage);
  }

  /**
   * Runs `use` with a storage made from others, which is gone afterwards. With `keep` it stays, for the next time that it is asked for,
   * until what it was made from is written or freed, or memory runs short: for what is made from weights that nobody trains.
   */
  derived(d: Derivation, keep: boolean, use: (storage: Storage) => void): void {
    if (keep) return this.kept.use(d, this.rehearsing, use);
    const storage = this.alloc(d.bytes, d.what);
    d.make(storage);
    use(storage);
    this.free(storage);
  }

  /** A small read-only buffer of these numbers, made once per content and kept until the device is closed. */
  constant(values: readonly number[]): Storage {
    const key = values.join();
    let storage = this.constants.get(key);
    if (!storage) {
      storage = this.take(Math.ceil(values.length / 4) * 16, "constant", false, true);
      const padded = new Float32Array(storage.bytes / 4);
      padded.set(values);
      this.write(storage, padded);
      this.constants.set(key, storage);
    }
    return storage;
  }

  /** Device memory in use now, and held. */
  memory(): MemoryUse {
    return this.pool.memory();
  }

  /** Nothing runs: a rehearsal only looks at what is allocated and freed. */
  get rehearsing(): boolean {
    return this.pool.rehearsing;
  }

  /**
   * Runs `record` without the device and plans buffers for what it allocates and frees; what it allocates it must free.
   * It may neither read back nor wait.
   */
  rehearse(record: () => void): BufferPlan {
    this.check();
    return this.pool.rehearse(record);
  }

  /** Runs `record`, whose allocations take the plan's buffers as long as they are those of the rehearsal. */
  followPlan<T>(plan: BufferPlan, record: () => T): T {
    this.check();
    return this.pool.followPlan(plan, record);
  }

  /** Gives a plan's buffers back. */
  dropPlan(plan: BufferPlan): void {
    this.flush();
    this.bindGroups.clear();
    this.order.run(() => this.pool.dropPlan(plan)); // its buffers serve commands that still wait
  }

  /** Records one dispatch; `buffers` follow the kernel's `bindings`. */
  dispatch<Params extends string, Spec>(
    kernel: Kernel<Params, Spec>,
    spec: Spec,
    params: Readonly<Record<Params, number>>,
    buffers: readonly Storage[],
    grid: Grid,
  ): void {
    this.check();
    if (buffers.length !== kernel.bindings.length) {
      throw new Error(`${kernel.name}: expected ${kernel.bindings.length} buffers, got ${buffers.length}`);
    }
    const [x, y = 1, z = 1] = grid;
    if (x * y * z === 0 || this.rehearsing) return;
    for (const [i, b] of buffers.entries()) if (kernel.bindings[i] === "read_write") this.kept.changed(b);
    if (this.uniformSlots === UNIFORM_SLOTS) this.flush();
    const offset = this.uniformSlots++ * UNIFORM_STRIDE;
    packParams(kernel as Kernel<Params, never>, params, this.uniformBytes, offset);

    const halves = buffers.flatMap((b, i) => (b.half ? [i + 1] : []));
    const { id, pipeline, layout } = this.pipelines.get(kernel, spec, halves);
    let key = `${id}`;
    for (const b of buffers) key += b.offset === undefined ? `,${b.id}` : `,${b.id}+${b.offset}:${b.bytes}`;
    let group = this.bindGroups.get(key);
    if (!group) {
      if (this.bindGroups.size >= MAX_BIND_GROUPS) this.bindGroups.clear();
      group = this.device.createBindGroup({
        label: kernel.name,
        layout,
        entries: [
          { binding: 0, resource: { buffer: this.uniforms, size: UNIFORM_STRIDE } },
          ...buffers.map((b, i) => ({ binding: i + 1, resource: this.binding(kernel.name, b) })),
        ],
      });
      this.bindGroups.set(key, group);
    }
    this.encoder ??= this.device.createCommandEncoder();
    if (this.timer) {
      this.pass?.end();
      this.pass = this.encoder.beginComputePass(this.timer.next(kernel.name));
    }
    this.pass ??= this.encoder.beginComputePass();
    this.pass.setPipeline(pipeline);
    this.pass.setBindGroup(0, group, [offset]);
    this.pass.dispatchWorkgroups(x, y, z);
  }

  /** A whole buffer where no part is meant. */
  private binding(what: string, { buffer, bytes, offset }: Storage): GPUBufferBinding {
    const { maxStorageBufferBindingSize: limit } = this.limits;
    if (bytes > limit) throw tooLarge(what, bytes, limit);
    return offset === undefined ? { buffer, size: Math.min(buffer.size, limit) } : { buffer, offset, size: bytes };
  }

  /**
   * Bytes from `offset` on of a storage, to bind; `offset` must suit the adapter's `minStorageBufferOffsetAlignment`. Both count
   * float32s: of half storage it is half of them.
   */
  part(storage: Storage, offset: number, bytes: number): Storage {
    const { id, buffer, half = false, offset: first = 0 } = storage;
    const share = half ? 2 : 1;
    return { id, buffer, half, bytes: bytes / share, offset: first + offset / share };
  }

  /** Submits what was recorded; does not wait. */
  flush(): void {
    if (!this.encoder) return;
    this.pass?.end();
    const commands = this.encoder.finish();
    this.encoder = null;
    this.pass = null;
    const used = this.uniformSlots * UNIFORM_STRIDE;
    this.uniformSlots = 0;
    // Commands that wait keep their uniforms: later ones go into the same slots.
    const uniforms = this.order.waiting ? this.uniformBytes.buffer.slice(0, used) : this.uniformBytes.buffer;
    this.inOrder(() => {
      this.device.queue.writeBuffer(this.uniforms, 0, uniforms, 0, used);
      this.device.queue.submit([commands]);
    });
  }

  /** Runs a submit or a write behind those that wait; not at all when one of them failed. */
  private inOrder(task: () => void): void {
    if (!this.order.waiting) return task();
    this.order.run(() => {
      if (!this.failure && !this.closed) task();
    });
  }

  /** Copies `values` into `storage`, after everything recorded so far; floats for half storage are rounded to nearest even. */
  write(storage: Storage, values: Float32Array | Uint32Array, byteOffset = 0): void {
    this.check();
    if (this.rehearsing && !storage.buffer) return;
    this.kept.changed(storage);
    this.flush(); // a queue write overtakes commands that are recorded but not submitted
    const kept = this.order.waiting ? values.slice() : values;
    this.inOrder(() => this.upload(storage, kept, byteOffset));
  }

  /**
   * Copies `values` into `storage` at once, ahead of commands that still wait: those behind the wait find them there. No command before it
   * may use the storage any more.
   */
  put(storage: Storage, values: Float32Array | Uint32Array, byteOffset = 0): void {
    this.kept.changed(storage);
    this.upload(storage, values, byteOffset);
  }

  private upload(storage: Storage, values: Float32Array | Uint32Array, byteOffset: number): void {
    // Dawn on Node crashes on memory shared between threads: such views are copied first.
    const shared = typeof SharedArrayBuffer !== "undefined" && values.buffer instanceof SharedArrayBuffer;
    const half = storage.half && values instanceof Float32Array;
    const own = half ? encodeHalf(values) : shared ? values.slice() : values;
    this.device.queue.writeBuffer(
      storage.buffer,
      (storage.offset ?? 0) + byteOffset,
      own.buffer,
      own.byteOffset,
      own.byteLength,
    );
  }

  /**
   * What is recorded from here on runs once `work` is done, such as {@link put} of what other processes sent. Recording itself goes on at once.
   * When `work` fails, nothing that waits runs, and the next call that uses the device throws the error.
   */
  waitFor(work: Promise<unknown>): void {
    this.check();
    this.flush();
    work.catch(() => undefined); // it is looked at when its turn comes
    this.order.hold(async () => {
      await work;
    });
  }

  /** Records a copy of the first `bytes` bytes of `from` into `to`. */
  copy(from: Storage, to: Storage, bytes: number): void {
    this.check();
    if (this.rehearsing) return;
    this.kept.changed(to);
    this.encoder ??= this.device.createCommandEncoder();
    this.pass?.end();
    this.pass = null;
    this.encoder.copyBufferToBuffer(from.buffer, from.offset ?? 0, to.buffer, to.offset ?? 0, Math.ceil(bytes / 4) * 4);
  }

  /**
   * Reads several buffers back in one submit and one wait; half storage as the float32 of the same values, the others one after another
   * in one array buffer.
   */
  async read(...storages: Storage[]): Promise<Float32Array[]> {
    this.check();
    const offsets: number[] = [];
    let total = 0;
    for (const s of storages) {
      offsets.push(total);
      total += Math.ceil(s.bytes / 4) * 4;
    }
    const target = this.readback.take(total);
    this.encoder ??= this.device.createCommandEncoder();
    this.pass?.end();
    this.pass = null;
    storages.forEach((s, i) => {
      this.encoder!.copyBufferToBuffer(s.buffer, s.offset ?? 0, target, offsets[i], Math.ceil(s.bytes / 4) * 4);
    });
    this.flush();
    if (this.order.waiting) {
      await this.order.passed();
      this.check();
    }
    const all = await this.readback.contents(target, total).catch((cause: unknown) => {
      this.check(); // a lost device or a failed submit says more than the map error
      throw new GpuError("GPU", `reading results back failed: ${String(cause)}`, "open the GPU again", { cause });
    });
    this.check();
    return storages.map((s, i) =>
      s.half
        ? decodeHalf(new Uint16Array(all, offsets[i], s.bytes / 2))
        : new Float32Array(all, offsets[i], s.bytes / 4),
    );
  }

  /** Waits until everything submitted has run, and reports what went wrong on the way. */
  async sync(): Promise<void> {
    this.flush();
    await this.order.passed();
    this.check();
    await this.workDone();
    this.check();
  }

  /** Resolves when what was submitted so far has run; submits and checks nothing. */
  async workDone(): Promise<void> {
    await this.asking(() => this.device.queue.onSubmittedWorkDone());
  }

  /** Destroys idle buffers; none while commands wait, which may use them. */
  trim(): void {
    this.flush();
    if (this.order.waiting) return;
    this.bindGroups.clear();
    this.pool.trim();
  }

  /** Ends the device; every tensor on it becomes invalid. */
  close(): void {
    if (this.closed) return;
    this.flush();
    this.closed = true;
    this.device.destroy();
  }
}
