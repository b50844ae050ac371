/** The GPU runtime: errors that surface, memory that is reused, commands that keep their order. */
import { afterEach, describe, expect, it } from "vitest";
import { GpuError } from "../../src/errors.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { defineKernel } from "../../src/gpu/kernel.js";
import { linearGrid, linearMain } from "../../src/gpu/linear.js";
import { openGpu } from "../../src/gpu/node.js";
import { sizeClass, type Storage } from "../../src/gpu/pool.js";
import { channelSum } from "../../src/kernels/channelSum.js";
import { gramForward } from "../../src/kernels/gram.js";
import { pconvBackwardWeight } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForward } from "../../src/kernels/pconvForward.js";
import { weightedSum, weightedSumKernel } from "../../src/kernels/weightedSum.js";
import { expectExact } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu } from "../support/gpu.js";
import { padChannels } from "../support/tensors.js";

const gpu = useGpu();

function upload(on: Gpu, values: Float32Array): Storage {
  const storage = on.alloc(values.byteLength, "test input");
  on.write(storage, values);
  return storage;
}

describe("errors", () => {
  // Each of these devices ends up broken: none is shared.
  const opened: Gpu[] = [];
  const open = async () => {
    const own = await openGpu();
    opened.push(own);
    return own;
  };
  afterEach(() => {
    for (const own of opened.splice(0)) own.close();
  });

  it("a kernel that does not compile fails the next wait and every call after it", async () => {
    const own = await open();
    const broken = defineKernel({
      name: "broken",
      params: { count: "u32" },
      bindings: ["read_write"],
      wgsl: () =>
        `@group(0) @binding(1) var<storage, read_write> y: array<f32>;\n${linearMain("p.count", "  y[id] = oops;")}`,
    });
    const y = own.alloc(256, "y");
    own.dispatch(broken, undefined, { count: 4 }, [y], [1]);
    await expect(own.read(y)).rejects.toThrow(/unresolved value 'oops'/);
    await expect(own.read(y)).rejects.toThrow(GpuError);
    await expect(own.sync()).rejects.toThrow(GpuError);
    expect(() => own.alloc(256, "y")).toThrow(GpuError);
  });

  it("a dispatch that validation refuses fails the next wait", async () => {
    const own = await open();
    const y = own.alloc(256, "y");
    // Read and written by the same dispatch.
    weightedSum(own, 4, { alpha: 1 }, { a: y, y });
    await expect(own.sync()).rejects.toThrow(GpuError);
  });

  it("a lost device is reported as such, by whatever call comes next", async () => {
    const own = await open();
    const y = upload(own, new Float32Array(64));
    own.device.destroy();
    await expect(own.read(y)).rejects.toThrow(/GPU: the device was lost \(destroyed\).*\nhelp: open the GPU again/);
    await expect(own.sync()).rejects.toThrow(/the device was lost/);
    expect(() => own.alloc(4, "y")).toThrow(/the device was lost/);
  });

  it("a lost device is reported by sync alone, too", async () => {
    const own = await open();
    own.device.destroy();
    await expect(own.sync()).rejects.toThrow(/the device was lost/);
  });

  it("a closed GPU says so", async () => {
    const own = await open();
    own.close();
    own.close();
    expect(() => own.alloc(4, "y")).toThrow("GPU: it was closed\nhelp: open it again with openGpu()");
  });

  it("a tensor beyond the adapter's limit names itself, the limit and the way out", () => {
    const { maxBufferSize: limit } = gpu().limits;
    expect(() => gpu().alloc(limit + 4, "decoder 1")).toThrow(GpuError);
    expect(() => gpu().alloc(limit + 4, "decoder 1")).toThrow(
      /^decoder 1: expected a tensor of at most \d+ MiB \(this adapter's limit\), got \d+ MiB\nhelp: use a smaller/,
    );
  });

  it("a wrong number of buffers is refused", () => {
    const y = gpu().alloc(256, "y");
    const params = { vec4s: 1, alpha: 1, beta: 0 };
    expect(() => gpu().dispatch(weightedSumKernel, { both: false }, params, [y], [1])).toThrow(
      "weightedSum: expected 3 buffers, got 1",
    );
    gpu().free(y);
  });
});

describe("memory", () => {
  it("refuses to free twice, also when the buffer was handed out again or destroyed in between", () => {
    const a = gpu().alloc(5000, "a");
    gpu().free(a);
    expect(() => gpu().free(a)).toThrow("freed twice");
    const b = gpu().alloc(5000, "b");
    expect(b.buffer).toBe(a.buffer);
    expect(() => gpu().free(a)).toThrow("freed twice");
    gpu().free(b);
    gpu().trim();
    expect(() => gpu().free(b)).toThrow("freed twice");
  });

  it("has few size classes, wastes at most a quarter, and keeps copies aligned", () => {
    for (let bytes = 1; bytes < 3e8; bytes = Math.ceil(bytes * 1.013)) {
      const size = sizeClass(bytes);
      expect(size).toBeGreaterThanOrEqual(bytes);
      expect(size % 4).toBe(0);
      if (bytes > 256) expect(size).toBeLessThanOrEqual(1.25 * bytes);
      expect(sizeClass(size)).toBe(size);
    }
  });

  it("stays flat over 300 steps", async () => {
    const s = {
      n: 2,
      h: 33,
      w: 21,
      c: 5,
      k: 7,
      kernel: [3, 3],
      stride: [1, 1],
      padding: [1, 1],
      dilation: [1, 1],
    } as const;
    const draw = new Draw(3000);
    const x = padChannels(draw.floats(2 * 33 * 21 * 5), 5);
    const before = gpu().memory().inUse;
    let afterFirst = 0;
    for (let step = 0; step < 300; step++) {
      const input = upload(gpu(), x);
      const weight = upload(gpu(), x.subarray(0, 9 * 8 * 8));
      const y = gpu().alloc(2 * 33 * 21 * 8 * 4, "y");
      const dw = gpu().alloc(9 * 8 * 8 * 4, "dw");
      pconvForward(gpu(), s, { x: input, weight, y });
      pconvBackwardWeight(gpu(), s, { x: input, dy: y, dw });
      await gpu().read(dw);
      for (const storage of [input, weight, y, dw]) gpu().free(storage);
      if (step === 0) afterFirst = gpu().memory().allocated;
    }
    expect(gpu().memory().allocated).toBe(afterFirst);
    expect(gpu().memory().inUse).toBe(before);
    gpu().trim();
    expect(gpu().memory().allocated).toBe(before);
  });
});

describe("commands", () => {
  it("a write does not overtake what was recorded before it", async () => {
    const a = upload(gpu(), new Float32Array(64).fill(1));
    const [before, after] = [gpu().alloc(256, "before"), gpu().alloc(256, "after")];
    weightedSum(gpu(), 16, { alpha: 1 }, { a, y: before });
    gpu().write(a, new Float32Array(64).fill(2));
    weightedSum(gpu(), 16, { alpha: 1 }, { a, y: after });
    const got = await gpu().read(before, after);
    expectExact("before", got[0], new Float32Array(64).fill(1), "no seed");
    expectExact("after", got[1], new Float32Array(64).fill(2), "no seed");
    for (const storage of [a, before, after]) gpu().free(storage);
  });

  it("a write may start in the middle, and come from memory that threads share", async () => {
    const a = upload(gpu(), new Float32Array(64));
    const shared = new Float32Array(new SharedArrayBuffer(16)).fill(3);
    gpu().write(a, shared, 8);
    const [got] = await gpu().read(a);
    expect(Array.from(got.subarray(0, 8))).toEqual([0, 0, 3, 3, 3, 3, 0, 0]);
    gpu().free(a);
  });

  it("a copy keeps its place between dispatches", async () => {
    const [a, b, c] = [upload(gpu(), new Float32Array(64).fill(1)), gpu().alloc(256, "b"), gpu().alloc(256, "c")];
    weightedSum(gpu(), 16, { alpha: 5 }, { a, y: b });
    gpu().copy(b, c, 256);
    weightedSum(gpu(), 16, { alpha: 7 }, { a, y: b });
    const got = await gpu().read(b, c);
    expect([got[0][63], got[1][63]]).toEqual([7, 5]);
    for (const storage of [a, b, c]) gpu().free(storage);
  });

  it("a freed buffer may be reused at once: what was recorded still sees the old contents", async () => {
    const a = upload(gpu(), new Float32Array(64).fill(1));
    const y = gpu().alloc(256, "y");
    weightedSum(gpu(), 16, { alpha: 1 }, { a, y });
    gpu().free(a);
    const b = gpu().alloc(256, "b");
    expect(b.buffer).toBe(a.buffer);
    gpu().write(b, new Float32Array(64).fill(9));
    expect((await gpu().read(y))[0][0]).toBe(1);
    gpu().free(b);
    gpu().free(y);
  });

  it("a dispatch over nothing does nothing", async () => {
    const a = upload(gpu(), new Float32Array(64).fill(1));
    const y = upload(gpu(), new Float32Array(64).fill(4));
    weightedSum(gpu(), 0, { alpha: 1 }, { a, y });
    expect((await gpu().read(y))[0][0]).toBe(4);
    gpu().free(a);
    gpu().free(y);
  });

  it("more dispatches than there are uniform slots keep their own parameters", async () => {
    const ones = upload(gpu(), new Float32Array(64).fill(1));
    let [from, to] = [upload(gpu(), new Float32Array(64)), gpu().alloc(256, "to")];
    const steps = 5000;
    for (let i = 1; i <= steps; i++) {
      weightedSum(gpu(), 16, { alpha: 1, beta: i }, { a: from, b: ones, y: to });
      [from, to] = [to, from];
    }
    // Below 2^24: exact in float32.
    expectExact("sum", (await gpu().read(from))[0], new Float32Array(64).fill((steps * (steps + 1)) / 2), "no seed");
    for (const storage of [ones, from, to]) gpu().free(storage);
  });

  it("more workgroups than one dimension holds", async () => {
    const vec4s = 65_535 * 64 + 64 * 3 + 5;
    expect(linearGrid(vec4s)).toEqual([65_535, 2]);
    const a = upload(
      gpu(),
      Float32Array.from({ length: vec4s * 4 }, (_, i) => i % 4099),
    );
    const y = upload(gpu(), new Float32Array(vec4s * 4 + 16).fill(NaN));
    weightedSum(gpu(), vec4s, { alpha: 2 }, { a, y });
    const [got] = await gpu().read(y);
    expect(got.findIndex((v, i) => v !== 2 * (i % 4099))).toBe(vec4s * 4);
    expect(got.subarray(vec4s * 4).every(Number.isNaN)).toBe(true);
    for (const storage of [a, y]) gpu().free(storage);
    gpu().trim();
  });

  it("the same work twice gives the same bits", async () => {
    const s = {
      n: 2,
      h: 65,
      w: 67,
      c: 9,
      k: 10,
      kernel: [3, 3],
      stride: [1, 1],
      padding: [1, 1],
      dilation: [1, 1],
    } as const;
    const draw = new Draw(3001);
    const xValues = padChannels(draw.floats(2 * 65 * 67 * 9), 9);
    const runs: Uint8Array[][] = [];
    for (let run = 0; run < 2; run++) {
      const x = upload(gpu(), xValues);
      const weight = upload(gpu(), xValues.subarray(0, 9 * 12 * 12));
      const sizes = [2 * 65 * 67 * 12, 9 * 12 * 12, 12, 2 * 9 * 12];
      const [y, dw, sum, g] = sizes.map((floats) => gpu().alloc(floats * 4, "result"));
      pconvForward(gpu(), s, { x, weight, y });
      pconvBackwardWeight(gpu(), s, { x, dy: y, dw });
      channelSum(gpu(), { ...s, c: 10 }, { x: y, sum });
      gramForward(gpu(), s, { f: x, g });
      const got = await gpu().read(y, dw, sum, g);
      runs.push(got.map((v) => new Uint8Array(v.slice().buffer)));
      for (const storage of [x, weight, y, dw, sum, g]) gpu().free(storage);
    }
    runs[0].forEach((bytes, i) => expect(Buffer.compare(bytes, runs[1][i]), `result ${i}`).toBe(0));
  });
});

describe("buffer plans", () => {
  const record = (sizes: readonly number[]) => {
    const first = gpu().alloc(sizes[0], "first");
    const second = gpu().alloc(sizes[1], "second");
    gpu().free(first);
    const third = gpu().alloc(sizes[2], "third");
    for (const storage of [second, third]) gpu().free(storage);
    return [first, second, third];
  };

  it("are followed as rehearsed, run after run, and given back", () => {
    const before = gpu().memory().allocated;
    const plan = gpu().rehearse(() => void record([4096, 512, 2048]));
    expect(gpu().memory().allocated).toBe(before);
    const runs = [1, 2].map(() =>
      gpu()
        .followPlan(plan, () => record([4096, 512, 2048]))
        .map((s) => s.buffer),
    );
    expect(runs[0]).toEqual(runs[1]);
    expect(runs[0][2]).toBe(runs[0][0]);
    expect(runs[0][1]).not.toBe(runs[0][0]);
    expect(gpu().memory().allocated).toBe(before + 4096 + 512);
    gpu().dropPlan(plan);
    expect(gpu().memory().allocated).toBe(before);
  });

  it("are left where something else is asked for", () => {
    const plan = gpu().rehearse(() => void record([4096, 512, 2048]));
    const [a, b, c] = gpu().followPlan(plan, () => record([4096, 1024, 2048]));
    expect(new Set([a.buffer, b.buffer, c.buffer]).size).toBe(3);
    expect(b.bytes).toBe(1024);
    // For good: what comes next may be as it was rehearsed, and what it would share a buffer with not yet given back.
    const held = gpu().followPlan(plan, () => [4096, 1024, 512, 2048].map((bytes) => gpu().alloc(bytes, "held")));
    expect(new Set(held.map((s) => s.buffer)).size).toBe(4);
    held.forEach((s) => gpu().free(s));
    gpu().dropPlan(plan);
  });

  it("are left where a buffer is given back later than in the rehearsal", () => {
    const plan = gpu().rehearse(() => {
      for (let i = 0; i < 2; i++) gpu().free(gpu().alloc(1024, "one after the other"));
    });
    const both = gpu().followPlan(plan, () => [gpu().alloc(1024, "first"), gpu().alloc(1024, "second")]);
    expect(both[0].buffer).not.toBe(both[1].buffer);
    for (const storage of both) gpu().free(storage);
    gpu().dropPlan(plan);
  });

  it("cannot be made of commands that keep a buffer, and a rehearsal runs nothing", async () => {
    const kept = gpu().alloc(256, "kept");
    gpu().write(kept, new Float32Array(64).fill(1));
    expect(() =>
      gpu().rehearse(() => {
        gpu().alloc(256, "lost");
      }),
    ).toThrow("rehearse: 1 buffers were not given back");
    gpu().rehearse(() => {
      weightedSum(gpu(), 16, { alpha: 2 }, { a: gpu().constant([5, 5, 5, 5]), y: kept });
    });
    expect((await gpu().read(kept))[0]).toEqual(new Float32Array(64).fill(1));
    // A constant that a rehearsal asked for first is as good as any.
    expect([...(await gpu().read(gpu().constant([5, 5, 5, 5])))[0]]).toEqual([5, 5, 5, 5]);
    gpu().free(kept);
  });
});
