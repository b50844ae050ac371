/** Mask update and batch normalisation as workloads: few operations a byte, so memory is what limits them. */
import { unpadChannels } from "../src/autograd/layout.js";
import type { Gpu } from "../src/gpu/gpu.js";
import {
  batchNormBackward,
  batchNormBackwardRef,
  batchNormForward,
  batchNormForwardRef,
} from "../src/kernels/batchNorm.js";
import { batchNormStats, batchNormStatsRef } from "../src/kernels/batchNormStats.js";
import { maskUpdate, maskUpdateRef } from "../src/kernels/maskUpdate.js";
import { convOutputSize, type ConvShape, vec4s } from "../src/kernels/shape.js";
import { Rng } from "../src/pconv/rng.js";
import { fixedFlops } from "./flops.js";
import { compareAll } from "./op.js";
import { centreHole } from "./shapes.js";
import { DeviceMemory, floats } from "./tensors.js";
import type { Workload } from "./workload.js";

const EPS = 1e-5;

function timed<T>(run: () => T): readonly [result: T, milliseconds: number] {
  const started = performance.now();
  const result = run();
  return [result, performance.now() - started];
}

/**
 * The mask update of one layer with one mask group. The mask of the timing runs has the given centre hole; fresh masks for
 * the check are random.
 */
export function makeMaskUpdate(gpu: Gpu, layer: ConvShape, holes: number): Workload {
  const memory = new DeviceMemory(gpu);
  const [p, q] = convOutputSize("pconv-bench", layer);
  const s = { ...layer, n: 1, c: 1, k: 1, channels: layer.c };
  const spec = { convention: "paper", biased: true } as const;
  const outputs = { scale: memory.room(p * q), biasScale: memory.room(p * q), maskOut: memory.room(p * q) };
  const mask = memory.room(layer.h * layer.w);
  const weight = gpu.constant([layer.c]);
  let values = centreHole(layer.h, layer.w, holes);
  gpu.write(mask, values);
  return {
    flops: fixedFlops(2 * p * q * layer.kernel[0] * layer.kernel[1]),
    bytes: 4 * (layer.h * layer.w + 3 * p * q),
    fill: (seed) => {
      const rng = Rng.of(seed);
      values = values.map(() => (rng.uniform() < holes ? 0 : 1));
      gpu.write(mask, values);
      memory.poison(outputs.scale, outputs.biasScale, outputs.maskOut);
    },
    record: () => maskUpdate(gpu, s, spec, { ...outputs, mask, weight }),
    check: async () => {
      const [scale, biasScale, maskOut] = await gpu.read(outputs.scale, outputs.biasScale, outputs.maskOut);
      const [want, ms] = timed(() => maskUpdateRef(s, spec, values, [layer.c]));
      return compareAll(
        [
          [scale, want.scale],
          [biasScale, want.biasScale],
          [maskOut, want.maskOut],
        ],
        ms,
      );
    },
    free: () => memory.free(),
  };
}

/** Batch norm over a layer's output, with statistics of the batch; with `holes` its outputs there are zeroed. */
export function makeBatchNorm(gpu: Gpu, layer: ConvShape, holes: number | null, pass: "forward" | "dx"): Workload {
  const memory = new DeviceMemory(gpu);
  const [h, w] = convOutputSize("pconv-bench", layer);
  const s = { n: layer.n, h, w, c: layer.k };
  const count = s.n * h * w * s.c;
  const maskValues = holes === null ? undefined : centreHole(h, w, holes);
  const mask = maskValues && memory.room(maskValues.length);
  if (mask && maskValues) gpu.write(mask, maskValues);
  const activation = () => memory.activation(s.n * h * w, s.c);
  const channels = (rows: number) => memory.activation(rows, s.c);
  const x = activation();
  const dy = pass === "dx" ? activation() : undefined;
  const out = activation(); // y or dx
  const [stats, gamma, beta, sums] = [channels(3), channels(1), channels(1), channels(2)];
  const running = { runningMean: channels(1), runningVar: channels(1) };
  let given: Record<"x" | "dy" | "gamma" | "beta", Float32Array>;

  const recordStats = () => batchNormStats(gpu, s, { eps: EPS, momentum: 0.1, maskN: 1 }, { x, stats, ...running });
  const activations = (passes: number) => passes * s.n * h * w * vec4s(s.c) * 16;
  return {
    // Forward: 4 an entry for the statistics, 3 to normalise. Backward: 5 for the two sums, 7 for dx.
    flops: fixedFlops(count * (pass === "forward" ? 7 : 12)),
    // Forward reads x twice, since it must know the statistics first, and writes y; backward x and dy twice, and dx.
    bytes: activations(pass === "forward" ? 3 : 5),
    fill: (seed) => {
      const rng = Rng.of(seed);
      given = {
        x: floats(rng, count),
        dy: dy ? floats(rng, count) : new Float32Array(),
        gamma: floats(rng, s.c, 0.5, 2),
        beta: floats(rng, s.c),
      };
      memory.upload(x, given.x, s.c);
      if (dy) memory.upload(dy, given.dy, s.c);
      memory.upload(gamma, given.gamma, s.c);
      memory.upload(beta, given.beta, s.c);
      for (const storage of Object.values(running)) gpu.write(storage, new Float32Array(storage.bytes / 4));
      recordStats(); // the backward pass finds the statistics made
      memory.poison(out, sums);
    },
    record: () => {
      if (dy) {
        const options = { statistics: "all", masked: mask !== undefined, maskN: 1 } as const;
        batchNormBackward(gpu, s, options, { x, dy, stats, gamma, beta, mask, sums, dx: out });
      } else {
        recordStats();
        batchNormForward(gpu, s, 1, { x, stats, gamma, beta, mask, y: out });
      }
    },
    check: async () => {
      const [got, gotSums] = await gpu.read(out, sums);
      const plain = unpadChannels(got, s.c);
      const [batch, statsMs] = timed(() => batchNormStatsRef(s, given.x));
      const o = { ...given, ...batch, eps: EPS, mask: maskValues };
      if (!dy) {
        const [want, ms] = timed(() => batchNormForwardRef(s, o));
        return compareAll([[plain, want]], statsMs + ms);
      }
      const options = { ...o, statistics: "all", masked: mask !== undefined } as const;
      const [want, ms] = timed(() => batchNormBackwardRef(s, options));
      const [dbeta, dgamma] = [gotSums.subarray(0, s.c), gotSums.subarray(4 * vec4s(s.c), 4 * vec4s(s.c) + s.c)];
      return compareAll(
        [
          [plain, want.dx],
          [dbeta, want.dbeta],
          [dgamma, want.dgamma],
        ],
        ms,
      );
    },
    free: () => memory.free(),
  };
}
