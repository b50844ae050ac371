/** Opening a GPU on Node, through Dawn (the `webgpu` package). */
import { totalmem } from "node:os";
import { create, globals } from "webgpu";
import { GpuError } from "../errors.js";
import { openDevice, summarize } from "./adapter.js";
import { withoutSpinning } from "./dawnEvents.js";
import type { Gpu } from "./gpu.js";
import { adapterHelp, enableCachedSwiftShader, hasVulkanLoader } from "./softwareAdapter.js";

// GPUBufferUsage and the like are globals in browsers; kernels use them under these names.
Object.assign(globalThis, globals);
// Mesa's device-select layer warns about a missing display on machines without one.
process.env["NODEVICE_SELECT"] ??= "1";

/** Dawn frees its instance with the object that `create` returned, even under live devices: it must never be collected. */
const instances: GPU[] = [];

/**
 * Dawn offers matrix units only as an unsafe feature and under Vulkan's memory model, and half precision on NVIDIA
 * only when asked. Adapters without these ignore the flags.
 */
const MATRIX_UNITS = "enable-dawn-features=allow_unsafe_apis,use_vulkan_memory_model,vulkan_enable_f16_on_nvidia";

/** Options of `openGpu` on Node. */
export interface OpenOptions {
  /** Dawn flags such as `backend=vulkan` or `adapter=NVIDIA`; by default those that let Dawn offer matrix units. */
  readonly dawnFlags?: readonly string[];
  /**
   * Bytes that all buffers together may have; more is refused with a `GpuMemoryError`. By default the environment variable
   * PCONV_MEMORY_LIMIT in MiB, else for a software adapter this computer's memory (or the container's), which the system would
   * otherwise defend by killing the process; for a real one none.
   */
  readonly memoryLimit?: number;
}

/** @throws {GpuError} for a PCONV_MEMORY_LIMIT that is no number */
function memoryLimit(adapter: GPUAdapter): number {
  const text = process.env["PCONV_MEMORY_LIMIT"] ?? "";
  if (text !== "") {
    const mib = Number(text);
    if (mib > 0) return mib * 2 ** 20;
    throw new GpuError("PCONV_MEMORY_LIMIT", `expected a number of MiB above 0, got ${text}`, "change or unset it");
  }
  if (!summarize(adapter).software) return Infinity;
  const container = process.constrainedMemory() || Infinity; // 0, or more than there is, where there is no limit
  return Math.min(totalmem(), container);
}

async function findAdapter(flags: readonly string[]): Promise<GPUAdapter | null> {
  const instance = create([...flags]);
  instances.push(instance);
  const adapter = await instance.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter || !summarize(adapter).software) return adapter;
  // Some systems list a software adapter first although a real one is there: ask for the other power class too.
  const other = await instance.requestAdapter({ powerPreference: "low-power" });
  return other && !summarize(other).software ? other : adapter;
}

/**
 * Opens a GPU: a real one if there is any, else a software adapter.
 * @throws {GpuError} when there is none; the message says what to install.
 */
export async function openGpu(options: OpenOptions = {}): Promise<Gpu> {
  const flags = options.dawnFlags ?? [MATRIX_UNITS];
  if (!hasVulkanLoader()) enableCachedSwiftShader(); // before Dawn looks, which would find nothing and say so
  let adapter = await findAdapter(flags);
  if (!adapter && enableCachedSwiftShader()) adapter = await findAdapter(flags);
  if (!adapter) throw new GpuError("openGpu", "expected a WebGPU adapter, got none", adapterHelp());
  return openDevice(adapter, options.memoryLimit ?? memoryLimit(adapter), withoutSpinning);
}
