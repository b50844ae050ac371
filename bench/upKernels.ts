/** The decoder's convolution over its two sources, and the kernels that take its weight apart. */
import { unpadChannels } from "../src/autograd/layout.js";
import type { Gpu } from "../src/gpu/gpu.js";
import type { Storage } from "../src/gpu/pool.js";
import { maskUpdateUp, maskUpdateUpRef } from "../src/kernels/maskUpdateUp.js";
import { pconvBackwardInputRef } from "../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeightRef } from "../src/kernels/pconvBackwardWeight.js";
import { pconvForwardRef } from "../src/kernels/pconvForward.js";
import { pconvUpBackward, pconvUpForward, type UpShape } from "../src/kernels/pconvUp.js";
import { type ConvShape, vec4s } from "../src/kernels/shape.js";
import { upsampleForwardRef } from "../src/kernels/upsample.js";
import { upWeight, upWeightBackward, upWeightBackwardRef, upWeightRef } from "../src/kernels/upWeight.js";
import { Rng } from "../src/pconv/rng.js";
import { upFlops } from "./flops.js";
import { type Op, type OpKit, storages } from "./op.js";
import { type Sampled, sampledCheck } from "./sampledCheck.js";
import { centreHole } from "./shapes.js";
import { DeviceMemory, floats, padWeight, unpadWeight } from "./tensors.js";
import type { Check, Pass, Workload } from "./workload.js";

const CONVENTION = { convention: "paper", biased: true } as const;

/** Sources of half the layer's input channels each, in whole vec4s. */
function halves({ layer }: OpKit) {
  const channels = 4 * vec4s(Math.ceil(layer.c / 2));
  const s = { low: channels, skip: channels, k: 4 * vec4s(layer.k), lowFirst: true };
  return { s, low: 16 * s.low, skip: 9 * s.skip, joined: 9 * (s.low + s.skip) };
}

export const UP_OPS: readonly Op[] = [
  {
    kernel: "upWeight",
    pass: "forward",
    covers: ["upWeight"],
    plan: (kit) => {
      const { s, ...rows } = halves(kit);
      const weight = kit.input(rows.joined, s.k);
      const parts = (["low", "skip"] as const).map((part) => ({ part, taken: kit.result(rows[part], s.k) }));
      return {
        flops: 0,
        record: () => {
          for (const { part, taken } of parts) {
            upWeight(kit.gpu, s, { part, transposed: false }, weight.storage, taken.storage);
          }
        },
        want: () => parts.map(({ part, taken }) => [taken, upWeightRef(s, part, weight.values)] as const),
      };
    },
  },
  {
    kernel: "upWeight",
    pass: "dw",
    covers: ["upWeightBackward"],
    plan: (kit) => {
      const { s, ...rows } = halves(kit);
      const [low, skip, dw] = [kit.input(16 * s.k, s.low), kit.input(rows.skip, s.k), kit.result(rows.joined, s.k)];
      return {
        flops: 0,
        record: () => upWeightBackward(kit.gpu, s, storages({ low, skip, dw })),
        want: () => [[dw, upWeightBackwardRef(s, low.values, skip.values)]],
      };
    },
  },
];

export interface UpCase {
  /** 3x3, stride 1, padding 1, even height and width; its input channels are the low source's and then the skip link's. */
  readonly layer: ConvShape;
  readonly lowChannels: number;
  /** Share of the centre hole, 0..1. */
  readonly holes: number;
}

/**
 * One pass over a decoder level. Forward includes the mask update; both gradients get g = dy * scale, as the layer before hands
 * it to them.
 */
export function makeUpConvolution(gpu: Gpu, pass: Pass, { layer, lowChannels, holes }: UpCase): Workload {
  const { n, h, w, c, k } = layer;
  const s: UpShape = { n, h, w, low: lowChannels, skip: c - lowChannels, k, lowFirst: true };
  const [pixels, lowPixels] = [n * h * w, (n * h * w) / 4];
  const memory = new DeviceMemory(gpu);

  const masks = { low: centreHole(h / 2, w / 2, holes), skip: centreHole(h, w, holes) };
  const maskShape = { n: 1, h, w, lowN: 1, skipN: 1, lowChannels: s.low, skipChannels: s.skip };
  const reference = maskUpdateUpRef(maskShape, CONVENTION, masks.low, masks.skip);
  const onDevice = (values: ArrayLike<number>): Storage => {
    const storage = memory.room(values.length);
    gpu.write(storage, Float32Array.from(values));
    return storage;
  };
  const mask = { low: onDevice(masks.low), skip: onDevice(masks.skip) };
  const [scale, biasScale, maskOut] = [memory.room(h * w), memory.room(h * w), memory.room(h * w)];
  const updateMask = () => maskUpdateUp(gpu, maskShape, CONVENTION, { ...mask, scale, biasScale, maskOut });
  updateMask();

  const inputs = {
    low: memory.activation(lowPixels, s.low),
    skip: memory.activation(pixels, s.skip),
    weight: memory.weight(9, c, k),
    bias: memory.activation(1, k),
    g: memory.activation(pixels, k),
  };
  const results = {
    y: memory.activation(pixels, k),
    dLow: memory.activation(lowPixels, s.low),
    dSkip: memory.activation(pixels, s.skip),
    dw: memory.weight(9, c, k),
  };
  let rng = Rng.of(0);
  let given: Record<keyof typeof inputs, Float32Array>;
  /** What the kernels never make: the two sources as one tensor. */
  const joined = (): Float64Array => {
    const up = upsampleForwardRef({ n, h: h / 2, w: w / 2, c: s.low }, given.low);
    const x = new Float64Array(pixels * c);
    for (let i = 0; i < pixels; i++) {
      x.set(up.subarray(i * s.low, (i + 1) * s.low), i * c);
      x.set(given.skip.subarray(i * s.skip, (i + 1) * s.skip), i * c + s.low);
    }
    return x;
  };

  const clear = (values: Float32Array, channels: number, valid: ArrayLike<number>) =>
    values.map((v, i) => (valid[Math.floor(i / channels) % valid.length] === 0 ? 0 : v));
  const live = { liveLow: { mask: mask.low, n: 1 }, liveSkip: { mask: mask.skip, n: 1 }, liveY: { mask: scale, n: 1 } };
  const record = {
    forward: () => {
      updateMask();
      const { low, skip, weight, bias } = inputs;
      pconvUpForward(gpu, s, {
        low,
        skip,
        weight,
        bias,
        ratio: { scale, biasScale, n: 1 },
        live: { mask: scale, n: 1 },
        y: results.y,
      });
    },
    dx: () => pconvUpBackward(gpu, s, { ...inputs, dLow: results.dLow, dSkip: results.dSkip, ...live }),
    dw: () => pconvUpBackward(gpu, s, { ...inputs, dw: results.dw, ...live }),
  }[pass];

  const flops = upFlops(layer, s.low, maskOr(masks.low, masks.skip, h, w));
  const sampled = (o: Pick<Sampled, "got" | "units" | "width" | "reference" | "defined">) =>
    sampledCheck({ ...o, flops: flops.textbook, rng });
  const check = {
    forward: async () =>
      sampled({
        got: unpadChannels((await gpu.read(results.y))[0], k),
        units: pixels,
        width: k,
        reference: (only) => pconvForwardRef(layer, joined(), given.weight, given.bias, { ...reference, n: 1 }, only),
      }),
    dx: async () => {
      const [low, skip] = await gpu.read(results.dLow, results.dSkip);
      const dx = (only: (pixel: number) => boolean) => pconvBackwardInputRef(layer, given.g, given.weight, only);
      const ofSkip = sampled({
        got: unpadChannels(skip, s.skip),
        units: pixels,
        width: s.skip,
        reference: (only) => {
          const all = dx(only);
          return Float64Array.from({ length: pixels * s.skip }, (_, i) => all[Math.floor(i / s.skip) * c + s.low + (i % s.skip)]); // prettier-ignore
        },
        defined: (pixel) => masks.skip[pixel % masks.skip.length] !== 0,
      });
      /** The four pixels that read a pixel of the low source. */
      const lowOf = (pixel: number) => (Math.floor(pixel / w) >> 1) * (w / 2) + ((pixel % w) >> 1);
      const ofLow = sampled({
        got: unpadChannels(low, s.low),
        units: lowPixels,
        width: s.low,
        reference: (only) => {
          const all = dx((pixel) => only(lowOf(pixel)));
          const sum = new Float64Array(lowPixels * s.low);
          for (let i = 0; i < pixels; i++) {
            for (let j = 0; j < s.low; j++) sum[lowOf(i) * s.low + j] += all[i * c + j];
          }
          return sum;
        },
        defined: (pixel) => masks.low[pixel % masks.low.length] !== 0,
      });
      return worse(ofLow, ofSkip);
    },
    dw: async () =>
      sampled({
        got: unpadWeight((await gpu.read(results.dw))[0], c, k),
        units: 9 * c,
        width: k,
        reference: (only) => pconvBackwardWeightRef(layer, joined(), given.g, (tap, row) => only(tap * c + row)),
      }),
  }[pass];

  return {
    flops,
    bytes: 16 * (lowPixels * vec4s(s.low) + pixels * (vec4s(s.skip) + vec4s(k)) + 9 * 4 * vec4s(c) * vec4s(k)),
    fill: (seed) => {
      rng = Rng.of(seed);
      given = {
        low: clear(floats(rng, lowPixels * s.low), s.low, masks.low),
        skip: clear(floats(rng, pixels * s.skip), s.skip, masks.skip),
        weight: floats(rng, 9 * c * k),
        bias: floats(rng, k),
        g: clear(floats(rng, pixels * k), k, reference.scale),
      };
      memory.upload(inputs.low, given.low, s.low);
      memory.upload(inputs.skip, given.skip, s.skip);
      gpu.write(inputs.weight, padWeight(given.weight, c, k));
      memory.upload(inputs.bias, given.bias, k);
      memory.upload(inputs.g, given.g, k);
      memory.poison(...Object.values(results));
    },
    record,
    check,
    free: () => memory.free(),
  };
}

/** 1 where either source of a decoder level is valid. */
function maskOr(low: ArrayLike<number>, skip: ArrayLike<number>, h: number, w: number): Float32Array {
  return Float32Array.from({ length: h * w }, (_, i) =>
    Math.max(skip[i], low[(Math.floor(i / w) >> 1) * (w / 2) + ((i % w) >> 1)]),
  );
}

/** Of two results of one pass: the larger error, all that was compared. */
const worse = (a: Check, b: Check): Check => ({
  maxError: Math.max(a.maxError, b.maxError),
  checked: a.checked + b.checked,
  entries: a.entries + b.entries,
  referenceMs: a.referenceMs + b.referenceMs,
});
