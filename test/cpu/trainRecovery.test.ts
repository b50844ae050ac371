/** When a run goes on after its device failed, after how long, and when it gives up. */
import { describe, expect, it } from "vitest";
import { GpuError, UserError } from "../../src/errors.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { GpuMemoryError } from "../../src/gpu/memoryError.js";
import type { TrainOptions } from "../../tools/train/options.js";
import { Faults } from "../../tools/train/faults.js";
import { type Failure, Recovery } from "../../tools/train/recovery.js";
import type { StopSignal } from "../../tools/train/stop.js";

const OPTIONS = {
  imageSize: 64,
  batchSize: 2,
  width: 1,
  depth: 5,
  precision: "f32",
  gradientCheckpointing: false,
} as TrainOptions;
const lostGpu = { device: { lost: Promise.resolve({ message: "driver reset", reason: "unknown" }) } } as unknown as Gpu;
const goodGpu = {
  half: true,
  memory: () => ({ allocated: 5 * 2 ** 20 }),
  device: { lost: new Promise(() => undefined) },
} as unknown as Gpu;
const full = new GpuMemoryError("GPU memory", "expected buffers of at most 5 MiB in all, got 9 MiB", "-");
const error = new GpuError("GPU", "it was lost", "-");

function recovering() {
  const [waits, warnings]: [number[], string[]] = [[], []];
  const stop = { wait: (s: number) => Promise.resolve(void waits.push(s)) } as unknown as StopSignal;
  return { waits, warnings, recovery: new Recovery((text) => warnings.push(text), stop) };
}
const failure = (o: Partial<Failure>): Failure => ({
  error,
  gpu: lostGpu,
  o: OPTIONS,
  step: 7,
  kept: 4,
  worked: true,
  ...o,
});

describe("Recovery", () => {
  it("waits longer each time that the same step fails, then gives up", async () => {
    const { recovery, waits, warnings } = recovering();
    for (let i = 0; i < 5; i++) expect(await recovery.after(failure({}))).toBe(OPTIONS);
    expect(waits).toEqual([0, 1, 5, 15, 30]);
    expect(warnings).toEqual(
      Array(5).fill("step 7: the device was lost (driver reset); opening it again and going on after step 4"),
    );
    await expect(recovery.after(failure({}))).rejects.toThrow(
      /^GPU: expected step 7 to be made, got 6 failures in a row: the device was lost \(driver reset\)\nhelp: the last checkpoint is kept: .*--resume$/,
    );
  });

  it("begins anew when a later step fails, not when an earlier one does", async () => {
    const { recovery, waits } = recovering();
    for (const step of [7, 8, 8, 6, 8, 9]) await recovery.after(failure({ step }));
    expect(waits).toEqual([0, 0, 1, 5, 15, 0]);
  });

  it("leaves errors alone that are not the device's", async () => {
    const { recovery, warnings } = recovering();
    const other = new UserError("step 3", "expected a finite loss, got NaN", "-");
    await expect(recovery.after(failure({ error: other, gpu: goodGpu }))).rejects.toBe(other);
    expect(warnings).toEqual([]);
  });

  it("saves memory where a first step does not fit, and else says what was asked for", async () => {
    const { recovery, waits, warnings } = recovering();
    const first = failure({ error: full, gpu: goodGpu, worked: false, step: 1 });
    const less = await recovery.after(first);
    expect(less).toEqual({ ...OPTIONS, gradientCheckpointing: true });
    expect([waits, warnings.length]).toEqual([[], 1]);
    await expect(recovery.after({ ...first, o: less })).rejects.toThrow(
      /^GPU memory: expected a step of --image-size 64 --batch-size 2 --width 1 --depth 5 --precision f32 to fit .* beyond 5.0 MiB: .*\nhelp: .*--batch-size.*--precision f16/,
    );
  });
});

it("faults that are not understood are refused", () => {
  expect(() => Faults.of("lose@x")).toThrow(/PCONV_FAULTS: expected KIND@STEP such as lose@12, got lose@x/);
});
