/**
 * Storage buffers, reused by size class.
 *
 * A fresh 16 MB buffer costs tens of milliseconds on a software adapter, more than the kernels that use it, so freed
 * buffers are kept. Commands of one queue run in order: a buffer may be handed out again while the commands that last
 * used it have only been recorded.
 */
import { GpuError } from "../errors.js";
import { mebibytes, wholeMebibytes } from "../mebibytes.js";
import { GpuMemoryError } from "./memoryError.js";
import { type BufferPlan, planBuffers } from "./bufferPlan.js";

/** A storage buffer on the device. `bytes` is what was asked for; the buffer behind it may be larger. */
export interface Storage {
  readonly id: number;
  readonly buffer: GPUBuffer;
  readonly bytes: number;
  /** It holds float16 and not 32-bit numbers; kernels that bind it read and write it as such (see `halfStorage.ts`). */
  readonly half?: boolean;
  /** First byte in the buffer; only parts of a storage have one (see `Gpu.part`). */
  readonly offset?: number;
}

/** Device memory of a pool of buffers. */
export interface MemoryUse {
  /** Bytes in buffers that are handed out now. */
  readonly inUse: number;
  /** Bytes of all buffers that exist, the idle ones included. */
  readonly allocated: number;
  /** Largest `inUse` so far. */
  readonly peak: number;
}

/** Rounds up to a power of two or its 5/4, 3/2, 7/4: at most a quarter is wasted, and few classes exist. */
export function sizeClass(bytes: number): number {
  const floor = 256;
  if (bytes <= floor) return floor;
  const step = 2 ** (Math.floor(Math.log2(bytes - 1)) - 2);
  return Math.max(floor, Math.ceil(bytes / step) * step);
}

/** A tensor that the adapter cannot hold, or a kernel cannot bind. */
export function tooLarge(what: string, bytes: number, limit: number): GpuError {
  return new GpuError(
    what,
    `expected a tensor of at most ${wholeMebibytes(limit)} (this adapter's limit), got ${wholeMebibytes(bytes)}`,
    "use a smaller image size, batch size, width or depth, or an adapter with larger buffers",
  );
}

function noRoom(bytes: number, limit: number): GpuMemoryError {
  return new GpuMemoryError(
    "GPU memory",
    `expected buffers of at most ${mebibytes(limit)} in all, got ${mebibytes(bytes)}`,
    "use a smaller image size, batch size or width",
  );
}

export class BufferPool {
  private readonly idle = new Map<number, Storage["buffer"][]>();
  private readonly ids = new WeakMap<GPUBuffer, number>();
  /** Hand-outs that have not been given back; a buffer that was handed out again is a new one. */
  private readonly live = new WeakSet<Storage>();
  /** What a rehearsal asks for; no buffers are handed out while it lasts. */
  private rehearsal: { bytes: number; from: number; to: number }[] | null = null;
  private readonly rehearsed = new Map<Storage, { to: number }>();
  private events = 0;
  /** The plan that hand-outs follow, and how far. */
  private followed: { readonly plan: BufferPlan; readonly buffers: readonly GPUBuffer[]; next: number } | null = null;
  private readonly planned = new Map<BufferPlan, readonly GPUBuffer[]>();
  /** Bytes of hand-outs whose buffers belong to a plan. */
  private readonly plannedBytes = new WeakMap<Storage, number>();
  /** Buffers of plans that are handed out now. */
  private readonly plannedInUse = new Set<GPUBuffer>();
  private nextId = 0;
  private inUse = 0;
  private allocated = 0;
  private peak = 0;

  /** @param limit bytes that all buffers together may have */
  constructor(
    private readonly device: GPUDevice,
    private readonly limit = Infinity,
  ) {}

  /**
   * Hands out a buffer of at least `bytes` bytes; its contents are whatever was there before.
   * It may be larger than what a kernel can bind at once: kernels then go over it in parts.
   * @param lasting it outlives the commands that are recorded, and so has no place in a plan
   * @throws {GpuError} when the adapter has no buffer of that size.
   */
  alloc(bytes: number, what: string, half = false, lasting = false): Storage {
    const { maxStorageBufferBindingSize, maxBufferSize } = this.device.limits;
    if (bytes > maxBufferSize) throw tooLarge(what, bytes, maxBufferSize);
    if (this.rehearsal && !lasting) return this.pretend(bytes, half);
    const planned = lasting ? null : this.follow(bytes, half);
    if (planned) return planned;
    // A size class must not lift a buffer over the binding limit that its contents keep.
    const limit = bytes <= maxStorageBufferBindingSize ? maxStorageBufferBindingSize : maxBufferSize;
    const size = Math.min(sizeClass(bytes), limit - (limit % 4));
    let buffer = this.idle.get(size)?.pop();
    buffer ??= this.create(size);
    this.use(size);
    const storage: Storage = { id: this.ids.get(buffer)!, buffer, bytes, half };
    this.live.add(storage);
    return storage;
  }

  private create(size: number): GPUBuffer {
    if (this.allocated + size > this.limit) throw noRoom(this.allocated + size, this.limit);
    const buffer = this.device.createBuffer({
      label: `pool ${size}`,
      size,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    this.ids.set(buffer, this.nextId++);
    this.allocated += size;
    return buffer;
  }

  private use(bytes: number): void {
    this.inUse += bytes;
    this.peak = Math.max(this.peak, this.inUse);
  }

  private pretend(bytes: number, half: boolean): Storage {
    const life = { bytes, from: this.events++, to: Infinity };
    this.rehearsal!.push(life);
    const storage: Storage = { id: -1, buffer: null as never, bytes, half };
    this.rehearsed.set(storage, life);
    return storage;
  }

  /**
   * Runs `record`, whose hand-outs are storages without buffers, and plans buffers for them.
   * @throws {Error} when `record` keeps one of them.
   */
  rehearse(record: () => void): BufferPlan {
    if (this.rehearsal || this.followed) throw new Error("rehearse: expected no rehearsal or plan under way");
    this.rehearsal = [];
    this.events = 0;
    try {
      record();
      if (this.rehearsed.size > 0) throw new Error(`rehearse: ${this.rehearsed.size} buffers were not given back`);
      return planBuffers(this.rehearsal);
    } finally {
      this.rehearsal = null;
      this.rehearsed.clear();
    }
  }

  get rehearsing(): boolean {
    return this.rehearsal !== null;
  }

  /** Takes hand-outs from a plan's buffers while `record` runs, as long as it asks for what was rehearsed. */
  followPlan<T>(plan: BufferPlan, record: () => T): T {
    const buffers = this.planned.get(plan) ?? plan.buffers.map((bytes) => this.create(bytes));
    this.planned.set(plan, buffers);
    this.followed = { plan, buffers, next: 0 };
    try {
      return record();
    } finally {
      this.followed = null;
    }
  }

  private follow(bytes: number, half: boolean): Storage | null {
    if (!this.followed) return null;
    const { plan, buffers, next } = this.followed;
    const buffer = buffers[plan.handOuts[next]?.buffer ?? 0];
    if (plan.handOuts[next]?.bytes !== bytes || this.plannedInUse.has(buffer)) {
      // Not the rehearsed commands: buffers of the plan may be taken from here on, so the pool's own serve the rest.
      this.followed = null;
      return null;
    }
    this.followed.next++;
    this.plannedInUse.add(buffer);
    this.use(bytes);
    const storage: Storage = { id: this.ids.get(buffer)!, buffer, bytes, half };
    this.live.add(storage);
    this.plannedBytes.set(storage, bytes);
    return storage;
  }

  /** Destroys a plan's buffers; bind groups that name them must be forgotten by the caller. */
  dropPlan(plan: BufferPlan): void {
    for (const buffer of this.planned.get(plan) ?? []) {
      this.allocated -= buffer.size;
      buffer.destroy();
    }
    this.planned.delete(plan);
  }

  /** Takes a buffer back. Giving the same one back twice is a fault in the caller and is refused. */
  free(storage: Storage): void {
    const rehearsed = this.rehearsed.get(storage);
    if (rehearsed) {
      rehearsed.to = this.events++;
      this.rehearsed.delete(storage);
      return;
    }
    if (!this.live.delete(storage)) throw new Error(`buffer ${storage.id} was freed twice`);
    const planned = this.plannedBytes.get(storage);
    if (planned !== undefined) {
      this.plannedInUse.delete(storage.buffer);
      this.inUse -= planned;
      return;
    }
    const { size } = storage.buffer;
    const list = this.idle.get(size);
    if (list) list.push(storage.buffer);
    else this.idle.set(size, [storage.buffer]);
    this.inUse -= size;
  }

  /** Destroys the idle buffers; bind groups that name them must be forgotten by the caller. */
  trim(): void {
    for (const [size, list] of this.idle) {
      for (const buffer of list) buffer.destroy();
      this.allocated -= size * list.length;
    }
    this.idle.clear();
  }

  memory(): MemoryUse {
    return { inUse: this.inUse, allocated: this.allocated, peak: this.peak };
  }
}
