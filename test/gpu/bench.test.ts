/** The workloads of `pconv-bench`: every one is right on this adapter, and runs the kernels that it says. */
import { describe, expect, it } from "vitest";
import { checkFresh, MAX_ERROR, measureGroup } from "../../bench/measure.js";
import { makeNetwork, NETWORK_MAX_ERROR } from "../../bench/network.js";
import { ENGINE_KERNELS } from "../../bench/engine.js";
import type { Peaks } from "../../bench/peak.js";
import { choose } from "../../bench/plan.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { profile } from "../../src/gpu/timing.js";
import { tunedOf } from "../../src/kernels/conv/tuned.js";
import { useGpu } from "../support/gpu.js";

const gpu = useGpu();

describe.each(["small", "odd"])("at shape %s", (shape) => {
  for (const c of choose({ shape, holes: false }).flat()) {
    it(`${c.kernel} ${c.pass} ${c.holes ?? "plain"}`, async () => {
      const workload = c.make(gpu());
      try {
        const { check, counted } = await checkFresh(gpu(), workload);
        expect(check.maxError).toBeLessThanOrEqual(MAX_ERROR);
        const ran = (await profile(gpu(), () => workload.record())).kernels.map((k) => k.kernel);
        expect(c.covers).toEqual(expect.arrayContaining(ran));
        // Of the engine's kernels the adapter takes some, and sums need a second kernel when they are long.
        const certain = c.covers.filter((name) => name !== "sumPartials" && !ENGINE_KERNELS.includes(name));
        if (c.kernel.startsWith("pconv")) {
          expect(ran.some((name) => ENGINE_KERNELS.includes(name))).toBe(true);
          // Tiny images: the textbook counts many taps beyond the border.
          expect(counted.executedGflop).toBeGreaterThanOrEqual(0.8 * (workload.flops.least / 1e9));
        } else expect(ran).toEqual(expect.arrayContaining(certain));
      } finally {
        workload.free();
      }
    });
  }

  it("a result that is not written is seen", async () => {
    const [[c]] = choose({ shape, kernel: "weightedSum" });
    const workload = c.make(gpu());
    workload.fill(3);
    expect((await workload.check()).maxError).toBeNaN();
    workload.free();
  });
});

it("convolutions are tuned before they are timed, unless nothing says how", async () => {
  const device = Object.create(gpu(), {}) as Gpu; // nothing measured on it yet
  const [group] = choose({ shape: "odd", kernel: "pconvBackwardWeight", holes: false });
  const peaks = { gflops: Infinity, copyGigabytesPerSecond: Infinity } as Peaks;
  await measureGroup(device, group, peaks, { repeat: 1 });
  expect(tunedOf(device).choices.size).toBe(0);
  const lines = await measureGroup(device, group, peaks, { repeat: 1, tuning: { mode: "force" } });
  expect([...tunedOf(device).choices.keys()]).toEqual([expect.stringMatching(/^weight 3x3 s2/)]);
  expect(lines.map((m) => m.error)).toEqual(group.map(() => undefined));
}, 300_000); // with cold caches

describe("networks", () => {
  const small = { size: 32, batch: 2, width: 0.125, depth: 4, holes: 0.25, vgg: null } as const;

  it.each(["forward", "step"] as const)("%s passes its check", async (pass) => {
    const network = await makeNetwork(gpu(), { ...small, pass });
    try {
      expect(await network.sample(1)).toBeGreaterThan(0);
      expect((await network.check()).maxError).toBeLessThanOrEqual(NETWORK_MAX_ERROR[pass]);
    } finally {
      await network.free();
    }
  });
});
