/** Opening a device on an adapter that somebody found: the part that Node and browsers share. */
import { GpuError } from "../errors.js";
import type { AdapterSummary } from "./adapterSummary.js";
import { type Asking, Gpu } from "./gpu.js";

/** Feature of WGSL's matrix units; experimental, and not among the types of WebGPU. */
export const MATRIX_FEATURE = "chromium-experimental-subgroup-matrix";

const OPTIONAL_FEATURES: readonly string[] = ["shader-f16", "subgroups", "timestamp-query", MATRIX_FEATURE];

/** Limits that are asked for as large as the adapter has them. */
const RAISED_LIMITS = [
  "maxStorageBufferBindingSize",
  "maxBufferSize",
  "minStorageBufferOffsetAlignment",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
] as const;

/** What an adapter that offers {@link MATRIX_FEATURE} tells of it. */
interface MatrixInfo {
  readonly subgroupMatrixConfigs?: Iterable<{
    readonly M: number;
    readonly N: number;
    readonly K: number;
    readonly componentType: string;
    readonly resultComponentType: string;
  }>;
}

/** Names an adapter, and tells software adapters from real ones. */
export function summarize(adapter: GPUAdapter): AdapterSummary {
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
  const text = `${vendor} ${architecture} ${device} ${description}`.toLowerCase();
  const software = isFallbackAdapter || /llvmpipe|lavapipe|swiftshader|software|basic render/.test(text);
  const name = `${device || description || architecture || "unnamed adapter"} (${vendor || "unknown vendor"}${software ? ", software" : ""})`;
  const { subgroupMinSize: min = 0, subgroupMaxSize: max = 0 } = adapter.info;
  const configs = (adapter.info as MatrixInfo).subgroupMatrixConfigs ?? [];
  const matrices = Array.from(configs, ({ M: m, N: n, K: k, componentType: factor, resultComponentType: sum }) => {
    return { m, n, k, factor, sum };
  });
  return { name, vendor, description, software, subgroupSize: min === max && min > 0 ? min : null, matrices };
}

/**
 * Asks for a device with everything this library can use, at the adapter's own limits.
 * @param memoryLimit bytes that all buffers together may have
 * @param asking how promises of the device are waited for, if not by calling it alone
 */
export async function openDevice(adapter: GPUAdapter, memoryLimit = Infinity, asking?: Asking): Promise<Gpu> {
  const summary = summarize(adapter);
  // The null backend compiles kernels and runs nothing: every result would be zeros.
  if (/null backend/i.test(`${summary.vendor} ${adapter.info.device} ${summary.description}`)) {
    throw new GpuError("openGpu", "expected an adapter that computes, got Dawn's null backend", "remove backend=null");
  }
  const device = await adapter.requestDevice({
    label: "pconv-webgpu",
    requiredFeatures: OPTIONAL_FEATURES.filter((f) => adapter.features.has(f)) as GPUFeatureName[],
    requiredLimits: Object.fromEntries(RAISED_LIMITS.map((name) => [name, adapter.limits[name]])),
  });
  return new Gpu(device, summary, memoryLimit, asking);
}
