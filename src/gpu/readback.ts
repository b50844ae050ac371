import type { Asking } from "./gpu.js";

/** Buffers through which results come back to the host, reused by size. */
export class Readback {
  private readonly idle = new Map<number, GPUBuffer[]>();

  constructor(
    private readonly device: GPUDevice,
    private readonly asking: Asking,
  ) {}

  /** A buffer to copy at least `bytes` bytes into. */
  take(bytes: number): GPUBuffer {
    const size = 2 ** Math.ceil(Math.log2(Math.max(bytes, 1024)));
    return (
      this.idle.get(size)?.pop() ??
      this.device.createBuffer({ label: "readback", size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST })
    );
  }

  /** Waits for what was submitted, and takes the buffer back. @returns a copy of its first `bytes` bytes */
  async contents(buffer: GPUBuffer, bytes: number): Promise<ArrayBuffer> {
    await this.asking(() => buffer.mapAsync(GPUMapMode.READ, 0, bytes));
    const copy = buffer.getMappedRange(0, bytes).slice(0);
    buffer.unmap();
    const list = this.idle.get(buffer.size);
    if (list) list.push(buffer);
    else this.idle.set(buffer.size, [buffer]);
    return copy;
  }
}
