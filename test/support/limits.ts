/** A GPU that says it can bind less than it can, so that small tensors go through the code for large ones. */
import type { Gpu } from "../../src/gpu/gpu.js";

/** Runs `run` while `gpu` binds at most `bytes` bytes at once, from multiples of 256 bytes on. */
export async function withBindingLimit<T>(gpu: Gpu, bytes: number, run: () => Promise<T>): Promise<T> {
  const { limits } = gpu;
  const smaller = new Proxy(limits, {
    get: (target, name) => {
      if (name === "maxStorageBufferBindingSize") return bytes;
      // What every adapter has; some can do with less, and would hide where others cannot.
      if (name === "minStorageBufferOffsetAlignment") return 256;
      return Reflect.get(target, name, target) as unknown;
    },
  });
  Object.defineProperty(gpu, "limits", { value: smaller, configurable: true, writable: true });
  try {
    return await run();
  } finally {
    Object.defineProperty(gpu, "limits", { value: limits, configurable: true, writable: true });
  }
}
