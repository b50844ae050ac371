/** One GPU per test file. */
import { afterAll, beforeAll } from "vitest";
import type { Gpu } from "../../src/gpu/gpu.js";
import { openGpu } from "../../src/gpu/node.js";
import { Scratch } from "./tensors.js";

/** Opens the GPU before the file's tests and closes it after them; call the result to get it. */
export function useGpu(): () => Gpu {
  let gpu: Gpu | undefined;
  beforeAll(async () => {
    gpu = await openGpu();
  });
  afterAll(() => gpu?.close());
  return () => {
    if (!gpu) throw new Error("useGpu: the GPU is open only inside tests");
    return gpu;
  };
}

/** Runs one case with device memory of its own, which it gives back. */
export async function withScratch(gpu: Gpu, run: (scratch: Scratch) => Promise<void>): Promise<void> {
  const scratch = new Scratch(gpu);
  try {
    await run(scratch);
  } finally {
    scratch.free();
  }
}
