/** The judgement of `pconv-bench`: which measurements it must not believe. */
import { describe, expect, it } from "vitest";
import { judge, MAX_ERROR, summarizeTimes } from "../../bench/measure.js";
import { choose } from "../../bench/plan.js";
import { tableRow } from "../../bench/report.js";
import { centreHole, multiplications, SHAPES } from "../../bench/shapes.js";
import { padWeight, unpadWeight } from "../../bench/tensors.js";
import { ErrorMeter } from "../../bench/workload.js";

const [someCase] = choose({ kernel: "pconvForward", shape: "A" });
const peaks = {
  gflops: 100,
  copyGigabytesPerSecond: 10,
  fma: { medianMs: 1, minMs: 1, items: 1, spec: { accumulators: 8, unroll: 32, lanes: 1 as const } },
  copy: { medianMs: 1, minMs: 1, bytes: 1 },
};
const work = { flops: 1e9, bytes: 1e8 };
const right = { maxError: 1e-6, checked: 10, entries: 1000, referenceMs: 4000 };
const verdict = (medianMs: number, minMs: number, maxError = right.maxError) =>
  judge(someCase, work, { medianMs, minMs }, { ...right, maxError }, peaks, "adapter");

describe("judge", () => {
  it("computes rates at the median, and shares of the run's own peaks", () => {
    const m = verdict(40, 20);
    expect(m.gflops).toBeCloseTo(25);
    expect(m.shareOfPeak).toBeCloseTo(0.25);
    expect(m.gigabytesPerSecond).toBeCloseTo(2.5);
    expect(m.shareOfCopy).toBeCloseTo(0.25);
    expect(m.speedUp).toBeCloseTo(100);
    expect(m).not.toHaveProperty("error");
  });

  it("rejects what is faster than the peak, even if only the fastest sample is", () => {
    const m = verdict(40, 9.9);
    expect(m.error).toMatch(/impossible: 101\.0 GFLOP\/s .* peak of 100\.0/);
    expect([m.gflops, m.shareOfPeak, m.gigabytesPerSecond, m.shareOfCopy, m.speedUp]).toEqual(Array(5).fill(null));
    expect(tableRow(m)).toContain("REJECTED, impossible");
  });

  it("rejects wrong results and NaN", () => {
    expect(verdict(40, 20, MAX_ERROR)).not.toHaveProperty("error");
    expect(verdict(40, 20, 1.01 * MAX_ERROR).error).toMatch(/^wrong/);
    const m = verdict(40, 20, NaN);
    expect(m.error).toMatch(/^wrong/);
    expect(m.maxError).toBeNull();
    expect(m.gflops).toBeNull();
  });
});

describe("its parts", () => {
  it("the error is relative to the largest entry; NaN and nothing at all count as NaN", () => {
    const meter = new ErrorMeter();
    expect(meter.maxError).toBeNaN();
    meter.add(1, 1.5);
    meter.add(-10, -10);
    expect(meter.maxError).toBeCloseTo(0.05);
    meter.add(NaN, 0);
    meter.add(1, 1);
    expect(meter.maxError).toBeNaN();
  });

  it("an error against a reference of zeros is infinite, not nothing", () => {
    const meter = new ErrorMeter();
    meter.add(1e-9, 0);
    expect(meter.maxError).toBe(Infinity);
  });

  it("the median of an even number of samples lies between the middle two", () => {
    expect(summarizeTimes([4, 1, 3, 10])).toEqual({ medianMs: 3.5, minMs: 1 });
    expect(summarizeTimes([4, 1, 3])).toEqual({ medianMs: 3, minMs: 1 });
  });

  it("counts the textbook's multiplications", () => {
    expect(multiplications(SHAPES.get("A")!)).toBe(256 * 256 * 64 * 64 * 9);
    expect(multiplications(SHAPES.get("C")!)).toBe(32 * 32 * 128 * 256 * 25);
    expect(multiplications(SHAPES.get("E")!)).toBe(128 * 128 * 3 * 64 * 49);
  });

  it.each([0, 0.25, 0.5])("a centre hole of %f covers that share, in the middle", (share) => {
    const mask = centreHole(64, 32, share);
    expect(mask.filter((v) => v === 0).length / mask.length).toBeCloseTo(share, 1);
    // As far from the top left corner as from the bottom right one, give or take the odd pixel.
    const holes = [...mask.keys()].filter((i) => mask[i] === 0);
    if (share === 0) return expect(holes).toEqual([]);
    const [first, last] = [holes[0], mask.length - 1 - holes[holes.length - 1]];
    expect(Math.abs(Math.floor(first / 32) - Math.floor(last / 32))).toBeLessThanOrEqual(1);
    expect(Math.abs((first % 32) - (last % 32))).toBeLessThanOrEqual(1);
  });

  it("padding a weight and back changes nothing", () => {
    const weight = Float32Array.from({ length: 2 * 3 * 5 }, (_, i) => i + 1);
    const padded = padWeight(weight, 3, 5);
    expect(padded).toHaveLength(2 * 4 * 8);
    expect([...padded.subarray(0, 9)]).toEqual([1, 2, 3, 4, 5, 0, 0, 0, 6]);
    expect(unpadWeight(padded, 3, 5)).toEqual(weight);
  });
});
