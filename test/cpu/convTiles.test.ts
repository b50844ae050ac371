/**
 * The tiles of real GPUs, which the adapters of this machine may not run: their WGSL against Dawn's compiler (null backend, which
 * knows every feature), and their sizes against the limits that every adapter has.
 */
import { create, globals } from "webgpu";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Kernel, kernelSource } from "../../src/gpu/kernel.js";
import { WEIGHT_WORKGROUP_TILES, WORKGROUP_TILES } from "../../src/kernels/conv/choice.js";
import { gatherMatrixKernel, MATRIX_TILES, matrixLayout } from "../../src/kernels/conv/matrix.js";
import { matrixUnit } from "../../src/kernels/conv/matrixUnit.js";
import { WEIGHT_MATRIX_TILES, weightMatrixKernel, weightMatrixLayout } from "../../src/kernels/conv/weightMatrix.js";
import { weightWorkgroupKernel, weightWorkgroupLayout } from "../../src/kernels/conv/weightWorkgroup.js";
import { gatherWorkgroupKernel, workgroupLayout } from "../../src/kernels/conv/workgroup.js";

Object.assign(globalThis, globals);
const FEATURES = ["chromium-experimental-subgroup-matrix", "shader-f16", "subgroups"] as GPUFeatureName[];

let instance: GPU; // must outlive the device
let device: GPUDevice;
beforeAll(async () => {
  instance = create(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);
  const adapter = await instance.requestAdapter();
  device = await adapter!.requestDevice({ requiredFeatures: FEATURES });
});
afterAll(() => device.destroy());

/**
 * Errors of the compiler and, with `pipeline`, of the pipeline, which the limits of the device must allow.
 * @param halves bindings that hold float16
 */
async function errors<Params extends string, Spec>(
  kernel: Kernel<Params, Spec>,
  spec: Spec,
  pipeline: boolean,
  halves: readonly number[] = [],
) {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: kernelSource(kernel, spec, halves) });
  const { messages } = await module.getCompilationInfo();
  if (pipeline) device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
  const error = await device.popErrorScope();
  return [...messages.map((m) => `${m.lineNum}: ${m.message}`), ...(error ? [error.message] : [])];
}

/** What WebGPU guarantees. */
const GUARANTEED = { invocations: 256, bytes: 16384 };

describe("tiles through workgroup memory", () => {
  it.each(Object.entries(WORKGROUP_TILES))("gather, %s: compiles and fits any adapter", async (_, spec) => {
    const { invocations, bytes } = workgroupLayout(spec);
    expect(invocations).toBeLessThanOrEqual(GUARANTEED.invocations);
    expect(bytes).toBeLessThanOrEqual(GUARANTEED.bytes);
    expect(await errors(gatherWorkgroupKernel, spec, true)).toEqual([]);
  });

  it.each(Object.entries(WEIGHT_WORKGROUP_TILES))("weight, %s: compiles and fits any adapter", async (_, spec) => {
    const { invocations, bytes } = weightWorkgroupLayout(spec);
    expect(invocations).toBeLessThanOrEqual(GUARANTEED.invocations);
    expect(bytes).toBeLessThanOrEqual(GUARANTEED.bytes);
    expect(await errors(weightWorkgroupKernel, spec, true)).toEqual([]);
  });
});

describe("tiles of matrix units", () => {
  const units = [
    { m: 16, n: 16, k: 16, lanes: 32 },
    { m: 8, n: 8, k: 8, lanes: 32 },
    { m: 16, n: 8, k: 16, lanes: 32 },
  ];
  it.each(units)("compile for %j", async (unit) => {
    for (const tile of MATRIX_TILES) {
      const spec = { ...tile, unit };
      // The largest needs more workgroup memory than is guaranteed, and is left out where there is less.
      const fits = matrixLayout(spec).bytes <= GUARANTEED.bytes;
      expect(await errors(gatherMatrixKernel, spec, fits), JSON.stringify(spec)).toEqual([]);
      expect(await errors(gatherMatrixKernel, spec, fits, [1, 8])).toEqual([]);
    }
    for (const tile of WEIGHT_MATRIX_TILES) {
      const spec = { ...tile, unit };
      const fits = weightMatrixLayout(spec).bytes <= GUARANTEED.bytes;
      expect(await errors(weightMatrixKernel, spec, fits), JSON.stringify(spec)).toEqual([]);
      expect(await errors(weightMatrixKernel, spec, fits, [1, 2])).toEqual([]);
    }
  });

  it("sees a fault when there is one", async () => {
    const unit = { m: 16, n: 16, k: 16, lanes: 32 };
    const broken = { ...gatherMatrixKernel, directives: "enable f16;\n" };
    expect(await errors(broken, { ...MATRIX_TILES[1], unit }, false)).not.toEqual([]);
  });

  it("are offered for half factors with float32 sums only, the largest first", () => {
    const shape = (m: number, factor: string, sum: string) => ({ m, n: m, k: m, factor, sum });
    const on = (matrices: ReturnType<typeof shape>[], subgroupSize: number | null = 32, features = FEATURES) => {
      const summary = { name: "", vendor: "", description: "", software: false, subgroupSize, matrices };
      return matrixUnit({ device: { features: new Set<string>(features) } as unknown as GPUDevice, adapter: summary });
    };
    const all = [shape(8, "f16", "f32"), shape(16, "f16", "f16"), shape(16, "f16", "f32"), shape(16, "i8", "i32")];
    expect(on(all)).toEqual({ m: 16, n: 16, k: 16, lanes: 32 });
    expect(on(all.slice(0, 2))).toEqual({ m: 8, n: 8, k: 8, lanes: 32 });
    expect(on([shape(32, "f16", "f32")])).toBeNull(); // no tile divides by 32 both ways
    expect(on(all, null)).toBeNull();
    expect(on(all, 32, FEATURES.slice(1))).toBeNull();
  });
});
