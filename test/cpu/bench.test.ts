/** The judgement of `pconv-bench`: which measurements it must not believe. */
import { describe, expect, it } from "vitest";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { trainingStepFlops, unetFlops, upFlops, convFlops, fixedFlops } from "../../bench/flops.js";
import { failed, judge, MAX_ERROR } from "../../bench/measure.js";
import { choose, KERNELS, LAYERS } from "../../bench/plan.js";
import { tableRow } from "../../bench/report.js";
import { alternate, medianRatio, summarizeTimes } from "../../bench/sampling.js";
import { centreHole, multiplications, SHAPES, unetLayers } from "../../bench/shapes.js";
import { padWeight, unpadWeight } from "../../bench/tensors.js";
import { ErrorMeter } from "../../bench/workload.js";

const [[someCase]] = choose({ kernel: "pconvForward", shape: "A" });
const peaks = {
  gflops: 100,
  copyGigabytesPerSecond: 10,
  fma: { medianMs: 1, minMs: 1, items: 1, spec: { accumulators: 8, unroll: 32, lanes: 1 as const } },
  copy: { medianMs: 1, minMs: 1, bytes: 1 },
};
const work = { flops: fixedFlops(1e9), bytes: 1e8 };
const right = { maxError: 1e-6, checked: 10, entries: 1000, referenceMs: 4000 };
const verdict = (medianMs: number, minMs: number, maxError = right.maxError, flops = work.flops) =>
  judge(someCase, { ...work, flops }, { medianMs, minMs }, { ...right, maxError }, peaks, "adapter");

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

  it("takes only what is needed for speed: skipped holes are no impossible speed", () => {
    const m = verdict(8, 8, 1e-6, { textbook: 1e9, needed: 0.5e9, least: 0.5e9 });
    expect(m).not.toHaveProperty("error");
    expect(m.gflops).toBeCloseTo(125);
    expect(m.shareOfPeak).toBeCloseTo(0.625);
  });

  it("knows that Winograd's form may pass the direct form's peak, and that nothing passes its own", () => {
    const flops = convFlops(SHAPES.get("A")!);
    const peakMs = flops.needed / peaks.gflops / 1e6;
    expect(verdict(peakMs / 3, peakMs / 3, 1e-6, flops).shareOfPeak).toBeCloseTo(3);
    expect(verdict(peakMs / 4.1, peakMs / 4.1, 1e-6, flops).error).toMatch(/impossible/);
    const phases = convFlops(SHAPES.get("C")!); // 36 products of F(4x4) over phases where the form has 16 times 25
    const phasesMs = phases.needed / peaks.gflops / 1e6;
    expect(verdict(phasesMs / 2.7, phasesMs / 2.7, 1e-6, phases).shareOfPeak).toBeCloseTo(2.7);
    expect(verdict(phasesMs / 2.8, phasesMs / 2.8, 1e-6, phases).error).toMatch(/impossible/);
    const strided = convFlops({ ...SHAPES.get("C")!, kernel: [3, 3] }); // no such form
    expect(verdict(strided.needed / 101e6, strided.needed / 101e6, 1e-6, strided).error).toMatch(/impossible/);
  });

  it("allows matrix units the rounding of half precision, and speed beyond float32's peak", () => {
    const half = (maxError: number) =>
      judge({ ...someCase, half: true }, work, { medianMs: 2, minMs: 2 }, { ...right, maxError }, peaks, "adapter");
    expect(half(1e-3)).not.toHaveProperty("error");
    expect(half(1e-2).error).toMatch(/^wrong/);
    expect(verdict(40, 40, 1e-3).error).toMatch(/^wrong/);
  });

  it("holds nothing that runs on another device against this adapter's peak", () => {
    const m = judge(someCase, work, { medianMs: 2, minMs: 1 }, right, peaks, "CPU", false);
    expect(m).not.toHaveProperty("error");
    expect([m.gflops, m.shareOfPeak, m.shareOfCopy]).toEqual([500, null, null]);
  });

  it("has the fields that readers of the JSON rely on", () => {
    const names = [
      "kernel",
      "shape",
      "pass",
      "impl",
      "medianMs",
      "minMs",
      "gflops",
      "shareOfPeak",
      "maxError",
      "adapter",
    ];
    for (const m of [verdict(40, 20), failed({ ...someCase, impl: "peer" }, "adapter", "broken")]) {
      expect(Object.keys(m)).toEqual(expect.arrayContaining(names));
    }
    expect(verdict(40, 20).impl).toBe("ours");
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

  it("a ratio is of samples of the same round, so that a slow round cancels out", () => {
    const times = (rounds: number[]) => ({ ...summarizeTimes(rounds), rounds });
    expect(medianRatio(times([2, 20, 2]), times([4, 40, 4, 4]))).toBe(0.5);
    expect(medianRatio(times([2, 20, 30]), times([2, 10, 10]))).toBe(2);
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

describe("samples in turns", () => {
  it("takes one of each in every round, and as many as were asked for", async () => {
    const order: string[] = [];
    const sampler = (name: string, ms: number) => ({
      sample: async (passes: number) => {
        order.push(`${name}${passes}`);
        return ms;
      },
    });
    const times = await alternate([sampler("a", 30), sampler("b", 5)], 3);
    expect(times).toEqual([
      { medianMs: 30, minMs: 30, rounds: [30, 30] },
      { medianMs: 5, minMs: 5, rounds: [5, 5, 5] },
    ]);
    // Twice each to compile and to see how long it takes; a long run is a sample, short ones are repeated in one.
    expect(order.join(" ")).toBe("a1 a1 b1 b1 a1 b4 a1 b4 b4");
  });

  it("goes on without one that fails", async () => {
    let left = 3;
    const failing = { sample: async () => (left-- > 0 ? 50 : Promise.reject(new Error("crashed"))) };
    const [a, b] = await alternate([failing, { sample: async () => 40 }], 4);
    expect(a).toEqual(new Error("crashed"));
    expect(b).toMatchObject({ medianMs: 40, minMs: 40 });
  });

  it("stops when the time is used up", async () => {
    let calls = 0;
    await alternate([{ sample: async () => (calls++, 4000) }]);
    expect(calls).toBe(2);
  });
});

describe("the choice of cases", () => {
  const sources = readdirSync("src/kernels", { recursive: true, encoding: "utf8" }).filter((f) => f.endsWith(".ts"));
  const kernels = sources.flatMap((file) =>
    [...readFileSync(join("src/kernels", file), "utf8").matchAll(/name: "(\w+)",\s+params|KernelOf\("(\w+)"/g)].map(
      (m) => m[1] ?? m[2],
    ),
  );

  it("covers every kernel in src/kernels", () => {
    expect(kernels.length).toBeGreaterThan(30);
    const covered = new Set(choose({ shape: "small" }).flatMap((group) => group.flatMap((c) => c.covers)));
    expect(kernels.filter((name) => !covered.has(name))).toEqual([]);
    expect([...covered].filter((name) => !kernels.includes(name))).toEqual([]);
  });

  it("has a row for every name that --kernel takes", () => {
    for (const kernel of KERNELS) expect(choose({ kernel, shape: "small" }).length, kernel).toBeGreaterThan(0);
  });

  it("measures every layer of the U-Net in three passes at two sizes, and each hole share", () => {
    const groups = choose({ layers: true, holes: true });
    expect(groups).toHaveLength(2 * 16 * 3);
    const of = (shape: string, pass: string) => groups.filter((g) => g[0].shape === shape && g[0].pass === pass);
    for (const size of [256, 512]) {
      for (let level = 1; level <= 8; level++) {
        for (const pass of ["forward", "dx", "dw"]) {
          const [[encoder], [decoder]] = [of(`enc_${level}@${size}`, pass), of(`dec_${level}@${size}`, pass)];
          expect(encoder.map((c) => c.holes)).toEqual([null, 0, 0.25, 0.5]);
          expect(decoder.map((c) => c.holes)).toEqual([0, 0.25, 0.5]);
        }
      }
    }
    expect(LAYERS.get("dec_1@512")).toMatchObject({ h: 512, w: 512, c: 67, k: 3, kernel: [3, 3] });
    expect(LAYERS.get("enc_2@256")).toMatchObject({ h: 128, w: 128, c: 64, k: 128, kernel: [5, 5], stride: [2, 2] });
  });

  it.each([
    [{ kernel: "none" }],
    [{ shape: "Z" }],
    [{ pass: "up" }],
    [{ kernel: "adam", pass: "dx" }],
    [{ kernel: "adam", layers: true }],
  ])("refuses %j", (choice) => {
    expect(() => choose(choice)).toThrow(/expected .* got/);
  });
});

describe("operations", () => {
  const giga = (flops: { textbook: number; needed: number }) => [flops.textbook / 1e9, flops.needed / 1e9];

  it("of the U-Net are the textbook's 76 GFLOP at 512x512, of which 56 are needed without holes", () => {
    const [textbook, needed] = giga(unetFlops(512, 1, 8, centreHole(512, 512, 0)));
    expect(textbook).toBeCloseTo(75.94, 1);
    expect(needed).toBeCloseTo(55.77, 1);
  });

  it("of a training step with VGG are 792, of which a 25 % hole leaves at most 0.7", () => {
    const [textbook, needed] = giga(trainingStepFlops(512, 1, 8, centreHole(512, 512, 0.25), true));
    expect(textbook).toBeCloseTo(791.5, 0);
    expect(needed / textbook).toBeLessThanOrEqual(0.7);
    const [, whole] = giga(trainingStepFlops(512, 1, 8, centreHole(512, 512, 1), true));
    const [, none] = giga(trainingStepFlops(512, 1, 8, centreHole(512, 512, 0), true));
    expect(whole).toBeCloseTo(5 * 97.5, 0); // the U-Net sees nothing, the composite is all its own
    expect(none).toBeCloseTo(3 * 55.77 + 3 * 97.5, 0);
  });

  it("of a layer are needed where a window meets a valid pixel", () => {
    const layer = { ...SHAPES.get("small")!, h: 4, w: 4 };
    const mask = Float32Array.of(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const { textbook, needed } = convFlops(layer, mask);
    expect(needed / textbook).toBeCloseTo(4 / 16);
    expect(upFlops(layer, 8, mask).needed / needed).toBeCloseTo((4 * 8 + 9 * 8) / (9 * 16));
    expect(unetLayers(512).map((l) => l.name)[8]).toBe("dec_8");
  });
});
