/**
 * Faults on demand, for tests and for who wants to see what a run survives: the environment variable PCONV_FAULTS, a list of
 * `KIND@STEP` parted by commas, such as `lose@12,lose@30x3,hang@40`. Unset, as it is for everybody else, there are none.
 *
 * | kind | at the start of that step |
 * |---|---|
 * | `lose` | the device is destroyed under it, as when a driver is reset; `x3`: so the next two times that the step is tried too |
 * | `hang` | a kernel that never ends goes to the device |
 * | `memory` | the step is told that the device has no room, as `lose` with counts |
 */
import { UserError } from "../../src/errors.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { GpuMemoryError } from "../../src/gpu/memoryError.js";

type Kind = "lose" | "hang" | "memory";

const ENDLESS = /* wgsl */ `
@group(0) @binding(0) var<storage, read_write> x: array<u32>; // [16], all 0
@compute @workgroup_size(1) fn main() {
  loop {
    if (x[1] == 7u) { break; }
    x[0] = x[0] * 1664525u + 1013904223u;
  }
}`;

export class Faults {
  private constructor(private readonly due: Map<string, number>) {}

  /** @throws {UserError} for a list that is not understood */
  static of(list: string | undefined): Faults {
    const due = new Map<string, number>();
    for (const entry of (list ?? "").split(",").filter((text) => text !== "")) {
      const [, kind, step, times = "1"] = /^(lose|hang|memory)@(\d+)(?:x(\d+))?$/.exec(entry) ?? [];
      if (kind === undefined)
        throw new UserError("PCONV_FAULTS", `expected KIND@STEP such as lose@12, got ${entry}`, "unset it");
      due.set(`${kind}@${step}`, Number(times));
    }
    return new Faults(due);
  }

  private take(kind: Kind, step: number): boolean {
    const left = this.due.get(`${kind}@${step}`) ?? 0;
    this.due.set(`${kind}@${step}`, left - 1);
    return left > 0;
  }

  /** To be called before each try of a step. */
  before(step: number, gpu: Gpu): void {
    if (this.due.size === 0) return;
    if (this.take("memory", step))
      throw new GpuMemoryError("GPU memory", "expected room, got none (PCONV_FAULTS)", "-");
    if (this.take("hang", step)) hang(gpu.device);
    if (this.take("lose", step)) {
      // At different moments: before anything is recorded, and while the step is under way.
      if (step % 2 === 0) gpu.device.destroy();
      else setTimeout(() => gpu.device.destroy(), step % 7);
    }
  }
}

function hang(device: GPUDevice): void {
  const module = device.createShaderModule({ label: "endless", code: ENDLESS });
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module } });
  const buffer = device.createBuffer({ label: "endless", size: 64, usage: GPUBufferUsage.STORAGE });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(
    0,
    device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: [{ binding: 0, resource: { buffer } }] }),
  );
  pass.dispatchWorkgroups(1);
  pass.end();
  device.queue.submit([encoder.finish()]);
}
