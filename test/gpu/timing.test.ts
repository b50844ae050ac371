/** Times by kernel: what ran is counted, longer work takes longer, and nothing changes in what is computed. */
import { describe, expect, it } from "vitest";
import { fmaPeakKernel, fmaPeakRef } from "../../bench/peak.js";
import { DispatchTimer, profile } from "../../src/gpu/timing.js";
import { linearGrid } from "../../src/gpu/linear.js";
import { weightedSum } from "../../src/kernels/weightedSum.js";
import { useGpu } from "../support/gpu.js";

const gpu = useGpu();
const SPEC = { accumulators: 4, unroll: 16, lanes: 1 } as const;
const ITEMS = 4096;

describe("profile", () => {
  it("counts the dispatches of each kernel and sums their times", async () => {
    const [x, y, z] = ["x", "y", "z"].map((name) => gpu().alloc(ITEMS * 4, name));
    const params = { items: ITEMS, rounds: 512, factor: 1, term: 1 };
    const heavy = () => gpu().dispatch(fmaPeakKernel, SPEC, params, [y], linearGrid(ITEMS));
    const light = () => weightedSum(gpu(), 16, { alpha: 1 }, { a: x, y: z });
    heavy(); // compiled before the clock runs, and not counted
    light();
    const p = await profile(gpu(), () => {
      heavy();
      light();
      light();
      heavy();
      light();
    });
    expect(Object.fromEntries(p.kernels.map((k) => [k.kernel, k.count]))).toEqual({ fmaPeak: 2, weightedSum: 3 });
    if (gpu().device.features.has("timestamp-query")) {
      const ms = new Map(p.kernels.map((k) => [k.kernel, k.ms!]));
      expect([...ms.values()]).toEqual([...ms.values()].sort((a, b) => b - a));
      expect(p.deviceMs).toBeCloseTo(ms.get("fmaPeak")! + ms.get("weightedSum")!, 6);
      expect(p.deviceMs).toBeLessThanOrEqual(p.wallMs);
    } else {
      expect(p.deviceMs).toBeNull();
    }
    const [got] = await gpu().read(y);
    expect([...got.subarray(0, 3)]).toEqual([0, 1, 2].map((id) => fmaPeakRef(SPEC, 512, id)));
    for (const storage of [x, y, z]) gpu().free(storage);
  });

  it("holds more dispatches than one query set", async () => {
    const [x, y] = ["x", "y"].map((name) => gpu().alloc(64, name));
    const p = await profile(gpu(), () => {
      for (let i = 0; i < 2100; i++) weightedSum(gpu(), 4, { alpha: 1 }, { a: x, y });
    });
    expect(p.kernels.map(({ kernel, count }) => ({ kernel, count }))).toEqual([{ kernel: "weightedSum", count: 2100 }]);
    gpu().free(x);
    gpu().free(y);
  });

  it("stops when the run fails, and refuses to be nested", async () => {
    const failing = profile(gpu(), () => {
      throw new Error("stop");
    });
    await expect(failing).rejects.toThrow("stop");
    await expect(profile(gpu(), () => profile(gpu(), () => undefined).then(() => undefined))).rejects.toThrow(
      /profiled already/,
    );
    expect(gpu().timer).toBeNull();
  });

  it("only counts on a device without timestamps", async () => {
    const adapter = { features: new Set<string>() } as unknown as GPUDevice;
    const timer = new DispatchTimer(adapter, (ask) => ask());
    expect(timer.next("a")).toEqual({ label: "a" });
    timer.next("b");
    timer.next("b");
    const p = await timer.collect(5);
    expect(p).toEqual({
      kernels: [
        { kernel: "b", count: 2, ms: null },
        { kernel: "a", count: 1, ms: null },
      ],
      deviceMs: null,
      wallMs: 5,
    });
  });
});
