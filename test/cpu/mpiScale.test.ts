/** The model that predicts many ranks. */
import { describe, expect, test } from "vitest";
import { allReduceSeconds, fitLink, INTERCONNECTS, networkStep, predict } from "../../bench/scale/model.js";

const LINK = { latencySeconds: 10e-6, bytesPerSecond: 2e9 };

describe("the exchange's model", () => {
  test("is a ring's time", () => {
    // 3 ranks: 4 messages of a third each.
    expect(allReduceSeconds(3, 3e6, LINK)).toBeCloseTo(4 * (10e-6 + 1e6 / 2e9), 12);
    expect(allReduceSeconds(1, 3e6, LINK)).toBe(0);
  });

  test("finds the link that times were made with", () => {
    const measured = [4, 4096, 1 << 20, 1 << 26].map((bytes) => ({ bytes, seconds: allReduceSeconds(4, bytes, LINK) }));
    const found = fitLink(4, measured);
    expect(found.latencySeconds / LINK.latencySeconds).toBeCloseTo(1, 3);
    expect(found.bytesPerSecond / LINK.bytesPerSecond).toBeCloseTo(1, 2);
  });

  test("adds nothing to a step that is longer than what must be exchanged, and all of it to a short one", () => {
    const buckets = [
      { bytes: 1e6, readySeconds: 0.5 },
      { bytes: 2e6, readySeconds: 1 },
    ];
    const host = 1e9;
    // The first bucket is summed while the second is computed; the second one's way is added to the step.
    const second = 2 * (2e6 / host) + allReduceSeconds(4, 2e6, LINK);
    const { seconds, exposedSeconds, efficiency } = predict({ seconds: 1, buckets }, 4, LINK, host);
    expect(exposedSeconds).toBeCloseTo(second, 9);
    expect(seconds).toBeCloseTo(1 + second, 9);
    expect(efficiency).toBeCloseTo(1 / (1 + second), 9);
    expect(predict({ seconds: 2, buckets }, 4, LINK, host)).toMatchObject({ exposedSeconds: 0, hiddenShare: 1, efficiency: 1 }); // prettier-ignore
    // Slow enough that the second waits for the first.
    const slow = { latencySeconds: 0, bytesPerSecond: 1e6 };
    expect(predict({ seconds: 1, buckets }, 4, slow, Infinity).seconds).toBeCloseTo(0.5 + 1.5 * 3, 9);
  });

  test("has the gradients of the paper's network, the last layers first", () => {
    const { buckets } = networkStep(2, 512);
    const bytes = buckets.reduce((sum, bucket) => sum + bucket.bytes, 0);
    expect(bytes / 4e6).toBeCloseTo(32.8, 0); // million weights of the convolutions
    const ready = buckets.map(({ readySeconds }) => readySeconds);
    expect([...ready].sort((a, b) => a - b)).toEqual(ready);
    expect(ready.at(-1)).toBeCloseTo(2, 9);
    // Most weights are deep in the middle, where gradients are there long before the step ends.
    expect(ready[0]).toBeLessThan(1.95);
    expect(ready[0]).toBeGreaterThan(1);
  });

  test("never gains by more ranks, nor loses by a faster network", () => {
    const step = networkStep(0.3, 512);
    for (const link of INTERCONNECTS) {
      const times = [2, 8, 64, 512].map((ranks) => predict(step, ranks, link, 12e9).seconds);
      expect([...times].sort((a, b) => a - b)).toEqual(times);
    }
    const at = INTERCONNECTS.map((link) => predict(step, 64, link, 12e9).seconds);
    expect([...at].sort((a, b) => b - a)).toEqual(at);
  });
});
