/** A GPU that says it can bind less than it can, so that small tensors go through the code for large ones. */
import type { Gpu } from "../../src/gpu/gpu.js";

/** Runs `run` while `gpu` binds at most `bytes` bytes at once. */
export async function withBindingLimit<T>(gpu: Gpu, bytes: number, run: () => Promise<T>): Promise<T> {
  const { limits } = gpu;
  const smaller = new Proxy(limits, {
    get: (target, name) =>
      name === "maxStorageBufferBindingSize" ? bytes : (Reflect.get(target, name, target) as unknown),
  });
  Object.defineProperty(gpu, "limits", { value: smaller, configurable: true, writable: true });
  try {
    return await run();
  } finally {
    Object.defineProperty(gpu, "limits", { value: limits, configurable: true, writable: true });
  }
}
