/** Decoder levels: the weight's parts against their reference, and the level against upsampling and joining in full. */
import { describe, expect, it } from "vitest";
import { concat } from "../../src/autograd/ops/concat.js";
import { pconv2d, pconv2dUp } from "../../src/autograd/ops/pconv2d.js";
import { joinMasks, upsampleNearest } from "../../src/autograd/ops/upsample.js";
import { Tape } from "../../src/autograd/tape.js";
import { Mask, type Tensor } from "../../src/autograd/tensor.js";
import { ShapeError } from "../../src/errors.js";
import { FlopCounter } from "../../src/kernels/conv/flopCounter.js";
import {
  upWeight,
  upWeightBackward,
  upWeightBackwardRef,
  upWeightBytes,
  upWeightRef,
} from "../../src/kernels/upWeight.js";
import { activationLeaf, channelLeaf, weightLeaf } from "../support/ops.js";
import { expectClose } from "../support/close.js";
import { Draw, nanInHoles } from "../support/draw.js";
import { useGpu } from "../support/gpu.js";
import { oihwToDevice, unpadChannels } from "../../src/autograd/layout.js";
import { toOihw } from "../support/ops.js";

const gpu = useGpu();
const EPS = 2 ** -22;

/** [taps, rows, k] padded as the device has it -> unpadded. */
function unpadWeight(device: Float32Array, taps: number, rows: number, k: number): number[] {
  const perTap = 4 * Math.ceil(rows / 4) * k;
  const flat = unpadChannels(device, k);
  return Array.from({ length: taps }, (_, t) => [...flat.slice(t * perTap, t * perTap + rows * k)]).flat();
}

const transposeTaps = (values: ArrayLike<number>, taps: number, rows: number, columns: number): Float64Array =>
  Float64Array.from({ length: taps * rows * columns }, (_, at) => {
    const [tap, rest] = [Math.floor(at / (rows * columns)), at % (rows * columns)];
    return values[(tap * rows + (rest % rows)) * columns + Math.floor(rest / rows)];
  });

describe.each([
  { low: 8, skip: 4, k: 8, lowFirst: true },
  { low: 5, skip: 3, k: 6, lowFirst: true },
  { low: 7, skip: 3, k: 4, lowFirst: false },
  { low: 1, skip: 6, k: 3, lowFirst: false },
])("upWeight of $low + $skip channels, low first: $lowFirst", (s) => {
  const draw = new Draw(0x7570, s.low * 64 + s.skip);
  const c = s.low + s.skip;
  const weight = draw.floats(9 * c * s.k);

  it.each(["low", "skip"] as const)("takes out %s, plain and transposed", async (part) => {
    const side = part === "low" ? 4 : 3;
    const from = gpu().alloc(9 * 4 * Math.ceil(c / 4) * 4 * Math.ceil(s.k / 4) * 4, "weight");
    gpu().write(from, oihwToDevice(toOihw(weight, 9, c, s.k), [s.k, c, 3, 3]));
    const taken = [false, true].map((transposed) => {
      const to = gpu().alloc(upWeightBytes(s, part), "part");
      upWeight(gpu(), s, { part, transposed }, from, to);
      return to;
    });
    const [plain, transposed] = await gpu().read(...taken);
    const want = upWeightRef(s, part, weight);
    expectClose("plain", unpadWeight(plain, side * side, s[part], s.k), want, EPS * 4, draw.seed);
    const back = transposeTaps(unpadWeight(transposed, side * side, s.k, s[part]), side * side, s.k, s[part]);
    expectClose("transposed", back, want, EPS * 4, draw.seed);
    for (const storage of [from, ...taken]) gpu().free(storage);
  });

  it("adds the gradients of the parts up", async () => {
    const low = draw.floats(16 * s.k * s.low);
    const skip = draw.floats(9 * s.skip * s.k);
    const upload = (values: Float32Array, taps: number, rows: number, columns: number) => {
      const side = Math.sqrt(taps);
      const storage = gpu().alloc(taps * 4 * Math.ceil(rows / 4) * 4 * Math.ceil(columns / 4) * 4, "part");
      gpu().write(storage, oihwToDevice(toOihw(values, taps, rows, columns), [columns, rows, side, side]));
      return storage;
    };
    const parts = { low: upload(low, 16, s.k, s.low), skip: upload(skip, 9, s.skip, s.k) };
    const dw = gpu().alloc(9 * 4 * Math.ceil(c / 4) * 4 * Math.ceil(s.k / 4) * 4, "dw");
    upWeightBackward(gpu(), s, { ...parts, dw });
    const [got] = await gpu().read(dw);
    expectClose("dw", unpadWeight(got, 9, c, s.k), upWeightBackwardRef(s, low, skip), EPS * 8, draw.seed);
    for (const storage of [dw, parts.low, parts.skip]) gpu().free(storage);
  });
});

interface Level {
  readonly n: number;
  readonly h: number;
  readonly w: number;
  readonly low: number;
  readonly skip: number;
  readonly k: number;
}

const LEVELS: readonly (Level & {
  readonly order: "up-skip" | "skip-up";
  readonly holes: number;
  readonly maskN: number;
})[] = [
  { n: 2, h: 6, w: 10, low: 8, skip: 4, k: 4, order: "up-skip", holes: 0.4, maskN: 2 },
  { n: 1, h: 4, w: 4, low: 5, skip: 3, k: 7, order: "skip-up", holes: 0.4, maskN: 1 },
  { n: 2, h: 2, w: 2, low: 20, skip: 18, k: 33, order: "up-skip", holes: 0.2, maskN: 1 },
  { n: 1, h: 12, w: 20, low: 16, skip: 16, k: 40, order: "up-skip", holes: 0.97, maskN: 1 },
  { n: 1, h: 8, w: 6, low: 4, skip: 3, k: 3, order: "skip-up", holes: 0, maskN: 1 },
  { n: 1, h: 8, w: 8, low: 4, skip: 4, k: 16, order: "up-skip", holes: 1, maskN: 1 },
];

describe("pconv2dUp", () => {
  it.each(LEVELS)("$low + $skip -> $k at $h x $w, holes $holes: equals upsample, join and pconv2d", async (s) => {
    const draw = new Draw(0x75706c76, s.low * 100 + s.k);
    const { n, h, w, low, skip, k, maskN } = s;
    const lowMask = draw.mask((maskN * h * w) / 4, s.holes);
    const skipMask = draw.mask(maskN * h * w, s.holes);
    const weight = weightLeaf("weight", { kernel: [3, 3], c: low + skip, k }, draw.floats(9 * (low + skip) * k));
    const bias = channelLeaf("bias", draw.floats(k));
    const sources = [
      { shape: { n, h: h / 2, w: w / 2, c: low }, values: draw.floats((n * h * w * low) / 4), mask: lowMask },
      { shape: { n, h, w, c: skip }, values: draw.floats(n * h * w * skip), mask: skipMask },
    ] as const;
    const dy = draw.floats(n * h * w * k);
    const rule = { convention: "paper", multiChannel: true } as const;

    const run = async (
      forward: (tape: Tape, x: Tensor[], m: Mask[], w: Tensor, b: Tensor) => { y: Tensor; mask: Mask },
    ) => {
      const tape = new Tape(gpu());
      const x = sources.map((f) => {
        const leaf = activationLeaf("x", f.shape, f.values);
        const tensor = leaf.upload(gpu());
        gpu().write(tensor.storage, padded(nanInHoles(f.values, f.shape.c, f.mask), f.shape.c));
        return { leaf, tensor };
      });
      const masks = sources.map((f) => tape.uploadMask({ ...f.shape, n: maskN }, f.mask));
      const [wt, bt] = [weight.upload(gpu()), bias.upload(gpu())];
      const { y, mask } = forward(tape, x.map((v) => v.tensor), masks, wt, bt); // prettier-ignore
      tape.keep(y);
      const values = await y.values();
      const [valid] = await gpu().read(mask.storage);
      tape.backward(y, tape.upload(y.shape, dy, "dy"));
      const gradients = [
        ...(await Promise.all(x.map((v) => v.leaf.gradient(v.tensor)))),
        await weight.gradient(wt),
        await bias.gradient(bt),
      ];
      tape.dispose();
      for (const { tensor } of x) tensor.grad?.free();
      for (const t of [...x.map((v) => v.tensor), wt, bt]) t.free();
      return [values, valid, ...gradients];
    };
    const padded = (values: Float32Array, c: number) => {
      const stride = 4 * Math.ceil(c / 4);
      const out = new Float32Array((values.length / c) * stride);
      values.forEach((v, i) => (out[Math.floor(i / c) * stride + (i % c)] = v));
      return out;
    };
    const got = await run((tape, [a, b], [ma, mb], wt, bt) =>
      pconv2dUp(tape, { x: a, mask: ma }, { x: b, mask: mb }, s.order, wt, bt, rule),
    );
    const want = await run((tape, [a, b], [ma, mb], wt, bt) => {
      const large = upsampleNearest(tape, a);
      const joined = s.order === "up-skip" ? concat(tape, large, b) : concat(tape, b, large);
      const mask = joinMasks(tape, { mask: ma, channels: low }, { mask: mb, channels: skip }, s.order);
      const one = [1, 1] as const;
      return pconv2d(tape, joined, mask, wt, bt, { ...rule, stride: one, padding: one, dilation: one });
    });
    ["y", "mask", "dLow", "dSkip", "dw", "db"].forEach((name, i) => {
      const scale = want[i].reduce((a, v) => Math.max(a, Math.abs(v)), 0);
      expectClose(name, got[i], want[i], 1e-5 * scale, draw.seed);
    });
  });

  it("leaves holes out where there may be some, and gives the same where they are not looked for", async () => {
    const draw = new Draw(0x75706c77);
    const [n, h, c, k] = [1, 32, 8, 16];
    const bytes = { low: draw.mask((n * h * h) / 4, 0), skip: draw.mask(n * h * h, 0) };
    for (let y = 0; y < h; y++) for (let x = 0; x < h / 2; x++) bytes.skip[y * h + x] = 0;
    for (let y = 0; y < h / 2; y++) for (let x = 0; x < h / 4; x++) bytes.low[(y * h) / 2 + x] = 0;
    const weight = weightLeaf("weight", { kernel: [3, 3], c: 2 * c, k }, draw.floats(9 * 2 * c * k));
    const values = { low: draw.floats((n * h * h * c) / 4), skip: draw.floats(n * h * h * c) };
    const rule = { convention: "paper", multiChannel: true } as const;
    const run = async (uniform: boolean) => {
      const tape = new Tape(gpu());
      const counter = new FlopCounter(gpu());
      const source = (name: "low" | "skip", side: number) => {
        const m = tape.uploadMask({ n, h: side, w: side }, bytes[name]);
        const mask = uniform ? new Mask(m.n, m.h, m.w, m.groupChannels, m.storage, m.binary, true) : m;
        return { x: tape.upload({ n, h: side, w: side, c }, values[name], name), mask };
      };
      const wt = weight.upload(gpu());
      const { y, mask } = pconv2dUp(tape, source("low", h / 2), source("skip", h), "up-skip", wt, null, rule);
      tape.keep(y);
      const result = [await y.values(), ...(await gpu().read(mask.storage))];
      tape.backward(y, tape.upload(y.shape, new Float32Array(n * h * h * k).fill(1), "dy"));
      result.push(await weight.gradient(wt));
      const totals = await counter.totals();
      counter.detach();
      tape.dispose();
      wt.free();
      const share = (kernel: string) => totals.get(kernel)!.needed / totals.get(kernel)!.textbook;
      return { result, forward: share("pconvUpForward"), weight: share("pconvUpBackwardWeight") };
    };
    const looked = await run(false);
    const whole = await run(true);
    ["y", "mask", "dw"].forEach((name, i) => {
      const scale = looked.result[i].reduce((a, v) => Math.max(a, Math.abs(v)), 0);
      expectClose(name, whole.result[i], looked.result[i], 1e-5 * scale, draw.seed);
    });
    expect(looked.forward).toBeLessThan(0.7 * whole.forward);
    expect(looked.weight).toBeLessThan(0.8 * whole.weight);
  });

  it("refuses sources that are not twice as large", () => {
    const tape = new Tape(gpu());
    const make = (h: number) => ({
      x: tape.alloc({ n: 1, h, w: h, c: 4 }, "x"),
      mask: tape.allocMask({ n: 1, h, w: h }, null, true),
    });
    const weight = tape.alloc({ n: 3, h: 3, w: 8, c: 4 }, "weight");
    const rule = { convention: "paper", multiChannel: true } as const;
    expect(() => pconv2dUp(tape, make(4), make(6), "up-skip", weight, null, rule)).toThrow(ShapeError);
    const wide = tape.alloc({ n: 3, h: 3, w: 12, c: 4 }, "weight");
    expect(() => pconv2dUp(tape, make(4), make(8), "up-skip", wide, null, rule)).toThrow(/expected a 3x3 weight for 8/);
    tape.dispose();
  });
});
