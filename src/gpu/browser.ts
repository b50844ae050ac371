/** Opening a GPU in a browser. */
import { GpuError } from "../errors.js";
import { openDevice } from "./adapter.js";
import type { Gpu } from "./gpu.js";

/**
 * Opens the browser's GPU.
 * @throws {GpuError} when the browser has no WebGPU or offers no adapter.
 */
export async function openGpu(): Promise<Gpu> {
  const help = "use a current Chrome, Edge, Safari or Firefox with hardware acceleration on, over https or localhost";
  if (!("gpu" in navigator)) throw new GpuError("openGpu", "expected WebGPU, got a browser without it", help);
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new GpuError("openGpu", "expected a WebGPU adapter, got none", help);
  return openDevice(adapter);
}
