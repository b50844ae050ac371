/**
 * The gather and weight passes in every backend and with every option, against float64, over random shapes. Tiles are small
 * ones: software adapters compile the real ones for up to a minute, and the text is the same.
 */
import { describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu/gpu.js";
import { blockTiling, gather, launchGather, launchWeight, weightPass } from "../../src/kernels/conv/backend.js";
import type { WeightPassBuffers } from "../../src/kernels/conv/backend.js";
import { availableBackends } from "../../src/kernels/conv/choice.js";
import { columnSpec, launchColumns } from "../../src/kernels/conv/column.js";
import type { Direction, GatherBuffers, GatherOptions } from "../../src/kernels/conv/gather.js";
import { gatherMatrixKernelOf, matrixTile } from "../../src/kernels/conv/matrix.js";
import { weightMatrixKernelOf, weightMatrixLayout } from "../../src/kernels/conv/weightMatrix.js";
import { pconvBackwardInputRef } from "../../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeightRef } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { convOutputSize, type ConvShape } from "../../src/kernels/shape.js";
import { transposeWeightRef } from "../../src/kernels/transposeWeight.js";
import { abs, expectClose, rounding } from "../support/close.js";
import { randomShape } from "../support/convShapes.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";
import { emulatedMatrices } from "../support/matrixEmulation.js";
import { padChannels } from "../support/tensors.js";

const RANDOM_SHAPES = 60;

const gpu = useGpu();

type Gather = (s: ConvShape, direction: Direction, b: GatherBuffers, o: GatherOptions) => void;
type Weight = (s: ConvShape, b: WeightPassBuffers, imagePerTap: boolean) => void;

/** Of every count more than one, and the counts of rows and columns unlike each other. */
const TILE = { pixels: 8, channels4: 4, depth4: 2, threadPixels: 2, threadChannels4: 2 } as const;
const WEIGHT_TILE = { rows4: 4, columns4: 2, depth: 4, threadRows4: 2, threadColumns4: 1 } as const;
/** A unit of three different sides, so that none can be taken for another. */
const UNIT = { m: 4, n: 8, k: 2 } as const;

/** Matrix kernels in emulation: the adapter needs subgroups of one size, nothing more. */
function emulated(gpu: Gpu) {
  const lanes = gpu.adapter.subgroupSize;
  if (lanes === null || !gpu.device.features.has("subgroups")) return null;
  const language = emulatedMatrices(gpu.device.features.has("shader-f16") ? "f16" : "f32");
  const unit = { ...UNIT, lanes };
  return {
    gather: {
      kernel: gatherMatrixKernelOf("gatherMatrixEmulated", language),
      spec: { pixels: 16, channels4: 8, depth4: lanes / 4, subPixels: 8, subChannels: 16, unit },
    },
    weight: {
      kernel: weightMatrixKernelOf("weightMatrixEmulated", language),
      spec: { rows4: 4, columns4: 8, depth: lanes, subRows: 8, subColumns: 16, unit },
    },
  };
}

function gatherVariants(gpu: Gpu): Record<string, Gather> {
  const variants: Record<string, Gather> = {};
  for (const backend of availableBackends(gpu)) {
    // The tiles that it would choose compile for too long on software adapters.
    if (backend === "matrix" || (backend === "workgroup" && gpu.adapter.software)) continue;
    variants[backend] = (s, direction, b, o) => gather(gpu, s, direction, b, o, backend);
  }
  for (const splits of [1, 3]) {
    variants[`workgroup in ${splits}`] = (s, direction, b, o) =>
      gather(gpu, s, direction, b, o, { backend: "workgroup", spec: TILE, splits });
  }
  // As on GPUs with large subgroups; windows that columns are not for go the usual way.
  variants["columns"] = (s, direction, buffers, options) => {
    const spec = columnSpec(s, direction, 0);
    if (spec) launchColumns(gpu, { s, direction, buffers, options }, spec);
    else gather(gpu, s, direction, buffers, options, "register");
  };
  const matrix = emulated(gpu)?.gather;
  if (matrix) {
    for (const splits of [1, 2]) {
      variants[`matrix in ${splits}`] = (s, direction, buffers, options) => {
        const launch = { s, direction, buffers, options };
        launchGather(gpu, launch, matrix.kernel, matrix.spec, matrixTile(matrix.spec), splits);
      };
    }
  }
  return variants;
}

function weightVariants(gpu: Gpu): Record<string, Weight> {
  const variants: Record<string, Weight> = {};
  for (const backend of availableBackends(gpu)) {
    if (backend === "matrix" || (backend === "workgroup" && gpu.adapter.software)) continue;
    variants[backend] = (s, b, imagePerTap) => weightPass(gpu, s, b, { imagePerTap }, backend);
  }
  variants["small workgroup"] = (s, b, imagePerTap) =>
    weightPass(gpu, s, b, { imagePerTap }, { backend: "workgroup", spec: WEIGHT_TILE });
  const matrix = emulated(gpu)?.weight;
  if (matrix) {
    variants["matrix"] = (s, b, imagePerTap) => {
      const tiling = blockTiling(s, imagePerTap, matrix.spec, weightMatrixLayout(matrix.spec).invocations);
      launchWeight(gpu, s, b, imagePerTap, { kernel: matrix.kernel, spec: matrix.spec, ...tiling });
    };
  }
  return variants;
}

/** Values that half precision holds exactly, so that matrix units round no more than the others. */
const halves = (draw: Draw, count: number) => draw.floats(count).map((v) => Math.round(v * 64) / 64);

/** A mask with runs of dead pixels longer than a tile, and dead pixels between live ones. */
function liveMask(draw: Draw, count: number): Float32Array {
  const mask = draw.mask(count, 0.3);
  const start = draw.integer(0, count);
  const gap = mask.map((v, i) => (i >= start && i < start + 40 ? 0 : v));
  return draw.pick([gap, mask.map(() => 0), mask.map(() => 1)]);
}

/** Raw sums of a gather pass in float64, [pixels,channels]. */
function sums(
  s: ConvShape,
  direction: Direction,
  src: Float64Array,
  weight: Float64Array,
  perImage: boolean,
): Float64Array {
  if (!perImage) {
    return direction === "forward" ? pconvForwardRef(s, src, weight, undefined) : pconvBackwardInputRef(s, src, weight);
  }
  const one = { ...s, n: 1 };
  const [srcSize, weightSize] = [src.length / s.n, weight.length / s.n];
  return Float64Array.from(
    Array.from({ length: s.n }, (_, n) => {
      const part = (values: Float64Array, size: number) => values.slice(n * size, (n + 1) * size);
      return [...sums(one, direction, part(src, srcSize), part(weight, weightSize), false)];
    }).flat(),
  );
}

async function checkGather(draw: Draw): Promise<void> {
  const s = randomShape(draw);
  const direction = draw.pick(["forward", "backwardInput"] as const);
  const perImage = draw.pick([false, false, true]);
  const [p, q] = convOutputSize("test", s);
  const forward = direction === "forward";
  const [inner, outer] = forward ? [s.h * s.w, p * q] : [p * q, s.h * s.w];
  const [inC, outC] = forward ? [s.c, s.k] : [s.k, s.c];
  const taps = s.kernel[0] * s.kernel[1];
  const src = halves(draw, s.n * inner * inC);
  const weight = halves(draw, (perImage ? s.n : 1) * taps * s.c * s.k);
  const bias = draw.pick([undefined, draw.floats(outC)]);
  const gain = bias && draw.pick([undefined, draw.floats(outC, -2, 2)]);
  const scaleN = draw.pick([0, 1, s.n]);
  const [scale, share] = [draw.floats(scaleN * outer, 1, 3), draw.floats(scaleN * outer)];
  const liveN = draw.pick([0, 1, s.n]);
  const live = liveMask(draw, liveN * outer);
  const base = liveN > 0 && draw.pick([false, true]) ? draw.floats(s.n * outer * outC) : undefined;
  const before = draw.pick([undefined, draw.floats(s.n * outer * outC)]);
  const slope = draw.pick([undefined, 0, 0.25]);
  // Where nothing is live, nothing is read either; without a base, few tiles are computed all the same.
  if (base && live.every((v) => v === 0)) src.fill(NaN);

  const finish = (raw: number, at: number, size: (v: number) => number, activate: boolean) => {
    const pixel = Math.floor(at / outC);
    const scaled = (scaleN ? size(scale[pixel % scale.length]) : 1) * (gain ? size(gain[at % outC]) : 1) * raw;
    const shared = bias ? size(bias[at % outC]) * (scaleN ? size(share[pixel % share.length]) : 1) : 0;
    const value = scaled + shared;
    return activate && slope !== undefined && value < 0 ? slope * value : value;
  };
  const same = (v: number) => v;
  const raw = sums(s, direction, Float64Array.from(src), Float64Array.from(weight), perImage);
  const size = sums(s, direction, abs(src), abs(weight), perImage);
  const full = raw.map((v, i) => finish(v + (before?.[i] ?? 0), i, same, true));
  const left = raw.map((_, i) => base?.[i] ?? finish(0, i, same, true));
  const allowed = rounding(size.map((v, i) => finish(v + Math.abs(before?.[i] ?? 0), i, Math.abs, false)));

  await withScratch(gpu(), async (t) => {
    const buffers = {
      src: t.activation(src, inC),
      // The pass wants [taps, source channels, output channels].
      weight: forward
        ? t.weight(weight, (perImage ? s.n : 1) * taps, s.c, s.k)
        : t.weight(transposeWeights(s, weight, perImage ? s.n : 1), (perImage ? s.n : 1) * taps, s.k, s.c),
      bias: bias && t.floats(Float32Array.from([bias, gain ?? []].flatMap((v) => [...padChannels(v, outC)]))),
      scale: scaleN ? { scale: t.floats(scale), biasScale: t.floats(share), n: scaleN } : undefined,
      live: liveN ? { mask: t.floats(live), n: liveN } : undefined,
      base: base && t.activation(base, outC),
    };
    const options = { accumulate: before !== undefined, slope, weightPerImage: perImage, gained: gain !== undefined };
    for (const [name, run] of Object.entries(gatherVariants(gpu()))) {
      const dst = t.outActivation(name, s.n * outer, outC);
      if (before) gpu().write(dst.storage, padChannels(before, outC));
      run(s, direction, { ...buffers, dst: dst.storage }, options);
      const [got] = await t.read(dst);
      // A dead pixel may have been computed with its neighbours, or not.
      const want = full.map((v, i) => {
        const dead = liveN > 0 && live[Math.floor(i / outC) % live.length] === 0;
        return dead && !(Math.abs(got[i] - v) <= allowed[i]) ? left[i] : v;
      });
      const about = { ...s, direction, ...options, biased: !!bias, scaleN, liveN, based: !!base };
      // Only values from outside have an error when nothing was summed up.
      const tolerance = allowed.map((v) => (Number.isNaN(v) ? 1e-5 : v));
      expectClose(`${name} ${direction}`, got, want, tolerance, `${draw.seed}, ${JSON.stringify(about)}`);
    }
  });
}

/** Transposes each of `count` weights. */
function transposeWeights(s: ConvShape, weight: Float32Array, count: number): Float32Array {
  const size = weight.length / count;
  const parts = Array.from({ length: count }, (_, i) =>
    transposeWeightRef(s, weight.subarray(i * size, (i + 1) * size)),
  );
  return Float32Array.from(parts.flatMap((part) => [...part]));
}

async function checkWeight(draw: Draw): Promise<void> {
  const imagePerTap = draw.pick([false, false, true]);
  const drawn = randomShape(draw);
  const one = { kernel: [1, 1], stride: [1, 1], padding: [0, 0], dilation: [1, 1] } as const;
  const s: ConvShape = imagePerTap ? { ...drawn, ...one } : drawn;
  const [p, q] = convOutputSize("test", s);
  const taps = imagePerTap ? s.n : s.kernel[0] * s.kernel[1];
  const liveN = draw.pick([0, 1, s.n]);
  const live = liveMask(draw, liveN * p * q);
  const x = halves(draw, s.n * s.h * s.w * s.c);
  const isDead = (i: number) => liveN > 0 && live[Math.floor(i / s.k) % live.length] === 0;
  const dy = halves(draw, s.n * p * q * s.k).map((v, i) => (isDead(i) ? 0 : v));
  const reference = (X: Float64Array, D: Float64Array) => {
    if (!imagePerTap) return pconvBackwardWeightRef(s, X, D);
    const part = (values: Float64Array, n: number) => {
      const size = values.length / s.n;
      return values.slice(n * size, (n + 1) * size);
    };
    const images = Array.from({ length: s.n }, (_, n) =>
      pconvBackwardWeightRef({ ...s, n: 1 }, part(X, n), part(D, n)),
    );
    return Float64Array.from(images.flatMap((dw) => [...dw]));
  };
  const want = reference(Float64Array.from(x), Float64Array.from(dy));
  const allowed = rounding(reference(abs(x), abs(dy)));
  // Where nothing is live, nothing is read.
  const hidden = liveN > 0 && live.every((v) => v === 0) ? x.map(() => NaN) : x;
  await withScratch(gpu(), async (t) => {
    const buffers = {
      x: t.activation(hidden, s.c),
      dy: t.activation(dy, s.k),
      live: liveN ? { mask: t.floats(live), n: liveN } : undefined,
    };
    // Some look at no dead pixel at all.
    const unseen = t.activation(dy.map((v, i) => (isDead(i) ? NaN : v)), s.k); // prettier-ignore
    for (const [name, run] of Object.entries(weightVariants(gpu()))) {
      const dw = t.outWeight(name, taps, s.c, s.k);
      const own = ["simple", "register", "subgroup"].includes(name) ? { ...buffers, dy: unseen } : buffers;
      run(s, { ...own, dw: dw.storage }, imagePerTap);
      const [got] = await t.read(dw);
      expectClose(name, got, want, allowed, `${draw.seed}, ${JSON.stringify({ ...s, imagePerTap, liveN })}`);
    }
  });
}

describe("passes in every backend, with their options", () => {
  const cases = Array.from({ length: RANDOM_SHAPES }, (_, i) => i);
  it.each(cases)("gather, random case %i", (i) => checkGather(new Draw(5100, i)));
  it.each(cases)("weight, random case %i", (i) => checkWeight(new Draw(5101, i)));
});

it("reads nothing where nothing is live in many tiles, and writes nothing where nobody reads it", async () => {
  const s: ConvShape = {
    n: 1,
    h: 48,
    w: 48,
    c: 4,
    k: 4,
    kernel: [3, 3],
    stride: [1, 1],
    padding: [1, 1],
    dilation: [1, 1],
  };
  await withScratch(gpu(), async (t) => {
    const pixels = s.h * s.w;
    const src = t.activation(new Float32Array(pixels * 4).fill(NaN), 4);
    const weight = t.weight(new Float32Array(9 * 16).fill(1), 9, 4, 4);
    const live = { mask: t.floats(new Float32Array(pixels)), n: 1 };
    for (const [name, run] of Object.entries(gatherVariants(gpu()))) {
      const dst = t.outActivation(name, pixels, 4);
      run(s, "forward", { src, weight, live, dst: dst.storage }, {});
      expect(
        (await t.read(dst))[0].every((v) => v === 0),
        name,
      ).toBe(true);
      gpu().write(dst.storage, new Float32Array(pixels * 4).fill(7));
      run(s, "forward", { src, weight, live, dst: dst.storage }, { unwritten: true });
      expect(
        (await t.read(dst))[0].every((v) => v === 7),
        name,
      ).toBe(true);
    }
  });
});

describe("live pixels first, in as many tiles as give a workgroup several", () => {
  const same = { n: 2, h: 61, w: 60, c: 4, k: 128, dilation: [1, 1] } as const;
  it.each<[string, Direction, ConvShape]>([
    ["forward", "forward", { ...same, kernel: [1, 1], stride: [1, 1], padding: [0, 0] }],
    [
      "input gradient",
      "backwardInput",
      { ...same, c: 128, k: 4, kernel: [2, 2], stride: [2, 2], padding: [0, 0], h: 122 },
    ],
  ])("%s", async (_, direction, s) => {
    const draw = new Draw(5102, 0);
    const [p, q] = convOutputSize("test", s);
    const forward = direction === "forward";
    const [inner, outer] = forward ? [s.h * s.w, p * q] : [p * q, s.h * s.w];
    const [inC, outC] = forward ? [s.c, s.k] : [s.k, s.c];
    const taps = s.kernel[0] * s.kernel[1];
    const src = halves(draw, s.n * inner * inC);
    const weight = halves(draw, taps * s.c * s.k);
    const bias = draw.floats(outC);
    const share = draw.floats(outer);
    // The first image has holes of its own, the second a hole of a half.
    const live = draw.mask(s.n * outer, 0.9).fill(0, outer, outer + (outer >> 1));
    const isDead = (i: number) => live[Math.floor(i / outC)] === 0;
    const of = (i: number) => bias[i % outC] * share[Math.floor(i / outC) % outer];
    const want = sums(s, direction, Float64Array.from(src), Float64Array.from(weight), false);
    const size = sums(s, direction, abs(src), abs(weight), false);
    const allowed = rounding(size.map((v, i) => v + Math.abs(of(i))));
    await withScratch(gpu(), async (t) => {
      const buffers = {
        src: t.activation(src, inC),
        weight: forward ? t.weight(weight, taps, s.c, s.k) : t.weight(transposeWeights(s, weight, 1), taps, s.k, s.c),
        bias: t.floats(bias),
        scale: { scale: t.floats(new Float32Array(outer).fill(1)), biasScale: t.floats(share), n: 1 },
        live: { mask: t.floats(live), n: s.n },
      };
      for (const [name, run] of Object.entries(gatherVariants(gpu())))
        for (const unwritten of [false, true]) {
          const dst = t.outActivation(name, s.n * outer, outC);
          const before = 1000;
          gpu().write(dst.storage, new Float32Array(s.n * outer * outC).fill(before));
          run(s, direction, { ...buffers, dst: dst.storage }, { unwritten });
          const [got] = await t.read(dst);
          const about = `${name}, ${unwritten}`;
          const left = (i: number) => (unwritten ? before : Math.fround(of(i)));
          const computed = want.map((v, i) => v + of(i));
          // Dead pixels may have been computed with live ones of their tile, of which each group has one; but for columns' tiles.
          const near = (i: number) => Math.abs(got[i] - computed[i]) <= allowed[i];
          const dead = [...got.keys()].filter(isDead);
          const inTile = dead.filter((i) => near(i) && Math.abs(left(i) - computed[i]) > 0.1);
          if (name !== "columns") expect(inTile.length, about).toBeLessThan(0.05 * dead.length);
          const expected = computed.map((v, i) => (isDead(i) && !near(i) ? left(i) : v));
          expectClose(about, got, expected, allowed, draw.seed);
        }
    });
  });
});
