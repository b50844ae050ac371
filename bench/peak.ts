/**
 * What the adapter can do at most, measured: multiply-adds from registers, and copying from memory to memory.
 * Both results are verified, so that work which was skipped cannot pass for speed.
 */
import { defineKernel } from "../src/gpu/kernel.js";
import type { Gpu } from "../src/gpu/gpu.js";
import { linearGrid, linearMain } from "../src/gpu/linear.js";
import { time } from "./measure.js";
import type { Times } from "./sampling.js";
import { DeviceMemory } from "./tensors.js";

export interface FmaSpec {
  /** Independent sums per invocation: enough to hide latency, few enough for registers. */
  readonly accumulators: number;
  /** Multiply-adds per accumulator written out in the loop body. */
  readonly unroll: number;
  /** Width of an accumulator. */
  readonly lanes: 1 | 4;
}

/** No single form is the fastest everywhere: scalar ones win on wide CPUs' software adapters, vectors on some GPUs. */
export const FMA_SPECS: readonly FmaSpec[] = [
  { accumulators: 8, unroll: 32, lanes: 1 },
  { accumulators: 12, unroll: 16, lanes: 1 },
  { accumulators: 4, unroll: 16, lanes: 4 },
];

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/**
 * a_i = fma(a_i, factor, term), `rounds` times `unroll` times, then y = sum of a_i.
 * The caller passes factor = term = 1, which no compiler knows: the sums are then whole numbers below 2^24, exact in
 * float32, and tell how many multiply-adds ran.
 */
export const fmaPeakKernel = defineKernel({
  name: "fmaPeak",
  params: { items: "u32", rounds: "u32", factor: "f32", term: "f32" },
  bindings: ["read_write"],
  wgsl: ({ accumulators, unroll, lanes }: FmaSpec) => {
    const type = lanes === 1 ? "f32" : "vec4f";
    const A = range(accumulators);
    const total = A.map((i) => `a_${i}`).join(" + ");
    return /* wgsl */ `
@group(0) @binding(1) var<storage, read_write> y: array<f32>;    // [items]
${linearMain(
  "p.items",
  `  let factor = ${type}(p.factor);
  let term = ${type}(p.term);
  ${A.map((i) => `var a_${i} = ${type}(f32(id % 64u) + ${i}.0);`).join(" ")}
  for (var round = 0u; round < p.rounds; round++) {
    ${range(unroll)
      .map(() => A.map((i) => `a_${i} = fma(a_${i}, factor, term);`).join(" "))
      .join("\n    ")}
  }
  y[id] = ${lanes === 1 ? total : `dot(${total}, vec4f(1.0))`};`,
)}
`;
  },
});

/** What one invocation of {@link fmaPeakKernel} must store. */
export function fmaPeakRef({ accumulators, unroll, lanes }: FmaSpec, rounds: number, id: number): number {
  const starts = accumulators * (id % 64) + (accumulators * (accumulators - 1)) / 2;
  return lanes * (starts + accumulators * rounds * unroll);
}

/** y = x, in vec4s. */
export const copyPeakKernel = defineKernel({
  name: "copyPeak",
  params: { items: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [items]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [items]
${linearMain("p.items", "  y[id] = x[id];")}
`,
});

/** Rates are those of the fastest sample: a peak is what the adapter can do, not what it usually does. */
export interface Peaks {
  readonly gflops: number;
  readonly copyGigabytesPerSecond: number;
  /** Of the fastest form; `items` invocations a launch. */
  readonly fma: Times & { readonly spec: FmaSpec; readonly items: number };
  /** `bytes` read and written a launch. */
  readonly copy: Times & { readonly bytes: number };
}

/** A launch shorter than this measures the waiting for it. */
const LAUNCH_MS = 20;
const SAMPLES = 7;
const ROUNDS_TIMES_UNROLL = 8192;
const MAX_ITEMS = 2 ** 22;

function verify(what: string, got: ArrayLike<number>, want: (i: number) => number): void {
  for (let i = 0; i < got.length; i++) {
    if (got[i] === want(i)) continue;
    throw new Error(
      `${what}: the adapter computed ${got[i]} at ${i}, expected ${want(i)}; nothing it measures can be trusted`,
    );
  }
}

async function fmaPeak(gpu: Gpu, spec: FmaSpec): Promise<Times & { items: number; flops: number }> {
  const memory = new DeviceMemory(gpu);
  try {
    const y = memory.room(MAX_ITEMS);
    const rounds = ROUNDS_TIMES_UNROLL / spec.unroll;
    const record = (items: number) =>
      gpu.dispatch(fmaPeakKernel, spec, { items, rounds, factor: 1, term: 1 }, [y], linearGrid(items));
    const launch = async (items: number) => {
      const started = performance.now();
      record(items);
      await gpu.sync();
      return performance.now() - started;
    };
    let items = 1024;
    await launch(items); // compiles
    while (items < MAX_ITEMS && (await launch(items)) < LAUNCH_MS) items *= 2;
    const times = await time(gpu, () => record(items), SAMPLES);
    memory.poison(y);
    record(items);
    const [got] = await gpu.read(y);
    verify("fmaPeak", got.subarray(0, items), (id) => fmaPeakRef(spec, rounds, id));
    return { ...times, items, flops: 2 * items * spec.accumulators * spec.lanes * ROUNDS_TIMES_UNROLL };
  } finally {
    memory.free();
  }
}

async function copyPeak(gpu: Gpu): Promise<Times & { bytes: number }> {
  const memory = new DeviceMemory(gpu);
  try {
    // Far beyond any cache, and no more than every adapter binds.
    const megabytes = gpu.adapter.software ? 32 : 128;
    const count = megabytes * 2 ** 18;
    const [x, y] = [memory.room(count), memory.room(count)];
    const values = Float32Array.from({ length: count }, (_, i) => i % 8191);
    const record = () => gpu.dispatch(copyPeakKernel, undefined, { items: count / 4 }, [x, y], linearGrid(count / 4));
    gpu.write(x, values);
    const times = await time(gpu, record, SAMPLES);
    memory.poison(y);
    record();
    const [got] = await gpu.read(y);
    verify("copyPeak", got, (i) => values[i]);
    return { ...times, bytes: 2 * 4 * count };
  } finally {
    memory.free();
  }
}

/**
 * Measures both; takes about three seconds.
 * @throws {Error} when the adapter computes a peak kernel wrongly
 */
export async function measurePeaks(gpu: Gpu): Promise<Peaks> {
  const copy = await copyPeak(gpu);
  let fastest: Peaks["fma"] | undefined;
  let gflops = 0;
  for (const spec of FMA_SPECS) {
    const { flops, ...times } = await fmaPeak(gpu, spec);
    const rate = flops / times.minMs / 1e6;
    if (rate > gflops) [gflops, fastest] = [rate, { ...times, spec }];
  }
  gpu.trim();
  return { gflops, copyGigabytesPerSecond: copy.bytes / copy.minMs / 1e6, fma: fastest!, copy };
}
