/** The tape: gradients that add, who frees what, masks shared by tapes, and what `zeroUnder` may leave out. */
import { describe, expect, it } from "vitest";
import { leakyRelu, relu, sigmoid } from "../../src/autograd/ops/activation.js";
import { batchNorm } from "../../src/autograd/ops/batchNorm.js";
import { composite } from "../../src/autograd/ops/composite.js";
import { concat } from "../../src/autograd/ops/concat.js";
import { pconv2d } from "../../src/autograd/ops/pconv2d.js";
import { l1 } from "../../src/autograd/ops/l1.js";
import { maskMultiply } from "../../src/autograd/ops/maskMultiply.js";
import { joinMasks, upsampleNearest } from "../../src/autograd/ops/upsample.js";
import { weightedSum } from "../../src/autograd/ops/weightedSum.js";
import { resizeMaskCanvas } from "../../src/autograd/ops/window.js";
import { Tape } from "../../src/autograd/tape.js";
import { type Mask, Tensor } from "../../src/autograd/tensor.js";
import { ShapeError } from "../../src/errors.js";
import { sizeClass } from "../../src/gpu/pool.js";
import type { ActivationShape } from "../../src/kernels/shape.js";
import { maskJoinRef } from "../../src/kernels/maskJoin.js";
import { maskMultiplyRef } from "../../src/kernels/maskMultiply.js";
import { maskUpdateRef } from "../../src/kernels/maskUpdate.js";
import { pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { expectClose, expectExact } from "../support/close.js";
import { Draw, nanInHoles } from "../support/draw.js";
import { useGpu } from "../support/gpu.js";
import { activationLeaf, channelLeaf, checkOp, freeLeaves, weightLeaf } from "../support/ops.js";

const gpu = useGpu();
const S: ActivationShape = { n: 1, h: 4, w: 4, c: 4 };
const SIZE = 64;

/** A leaf outside any tape; the caller frees it. */
function leaf(values: ArrayLike<number>, shape = S): Tensor {
  const tensor = Tensor.from(gpu(), shape, values, "leaf");
  tensor.requiresGrad = true;
  return tensor;
}

describe("gradients", () => {
  it("add when a tensor is used more than once, as a leaf and as a result", async () => {
    const draw = new Draw(2100);
    const x = activationLeaf("x", S, draw.doubles(SIZE));
    await checkOp(gpu(), {
      name: "diamond",
      leaves: [x],
      forward: (tape, [t]) => {
        const a = sigmoid(tape, t);
        // `a` is read by three ops, `t` by two.
        return concat(tape, weightedSum(tape, [a, t, a], [2, -3, 0.5]), sigmoid(tape, a));
      },
      reference: () => {
        const f = (v: number) => 1 / (1 + Math.exp(-v));
        return Float64Array.from({ length: 2 * SIZE }, (_, i) => {
          const v = x.values[Math.floor(i / 8) * 4 + (i % 4)];
          return i % 8 < 4 ? 2.5 * f(v) - 3 * v : f(f(v));
        });
      },
      draw,
    });
  });

  it("of a second backward are added to the leaf's, until they are cleared", async () => {
    const draw = new Draw(2101);
    const x = leaf(draw.floats(SIZE));
    const dy = draw.floats(SIZE);
    const step = (factor: number) => {
      const tape = new Tape(gpu());
      tape.backward(weightedSum(tape, [x], [factor]), tape.upload(S, dy, "dy"));
      tape.dispose();
    };
    step(2);
    expectExact("once", await x.grad!.values(), dy.map((v) => 2 * v), draw.seed); // prettier-ignore
    step(4);
    expectExact("twice", await x.grad!.values(), dy.map((v) => 2 * v + 4 * v), draw.seed); // prettier-ignore
    freeLeaves([x]);
  });

  it("do not go to leaves that want none, nor through a tape without gradients", async () => {
    const x = leaf(new Float32Array(SIZE).fill(1));
    const constant = Tensor.from(gpu(), S, new Float32Array(SIZE).fill(1), "constant");
    const tape = new Tape(gpu());
    const dy = tape.upload(S, new Float32Array(SIZE).fill(1), "dy");
    expect(relu(tape, constant).requiresGrad).toBe(false);
    tape.backward(weightedSum(tape, [x, relu(tape, constant)], [1, 1]), dy);
    expect(constant.grad).toBeNull();
    expectExact("x", await x.grad!.values(), new Float32Array(SIZE).fill(1), "no seed");
    tape.dispose();
    freeLeaves([x, constant]);

    const y = leaf(new Float32Array(SIZE));
    const inference = new Tape(gpu(), { grad: false });
    expect(relu(inference, y).requiresGrad).toBe(false);
    inference.dispose();
    freeLeaves([y]);
  });

  it("need a scalar or a gradient of the output's shape", () => {
    const x = leaf(new Float32Array(SIZE));
    const tape = new Tape(gpu());
    const y = relu(tape, x);
    expect(() => tape.backward(y)).toThrow(ShapeError);
    expect(() => tape.backward(y, tape.upload({ ...S, h: 2 }, new Float32Array(32), "dy"))).toThrow(ShapeError);
    tape.dispose();
    freeLeaves([x]);
  });
});

describe("device memory", () => {
  const BLOCK = sizeClass(SIZE * 4);
  const inUse = () => gpu().memory().inUse;

  it("comes back with consume, release and dispose", () => {
    gpu().constant([1]); // kept by the device, made on first use
    const x = leaf(new Float32Array(SIZE));
    const start = inUse();
    const tape = new Tape(gpu());
    const up = upsampleNearest(tape, x); // saves nothing
    const y = relu(tape, up); // saves its output
    const full = inUse();
    tape.consume(up);
    expect(full - inUse(), "an unsaved tensor is freed at once").toBe(4 * BLOCK);
    tape.consume(y);
    expect(full - inUse(), "a saved tensor stays for backward").toBe(4 * BLOCK);
    tape.consume(x);
    const own = tape.storage(SIZE * 4, "own");
    tape.release(own);
    tape.release(own); // releasing twice, or what is not the tape's, changes nothing
    tape.release(x.storage);
    expect(full - inUse()).toBe(4 * BLOCK);
    tape.dispose();
    expect(inUse()).toBe(start);
    freeLeaves([x]);
  });

  it("of everything but leaf gradients and kept tensors comes back in backward", async () => {
    const draw = new Draw(2110);
    const values = draw.awayFromZero(SIZE, 0.01);
    const x = leaf(values);
    const start = inUse();
    const tape = new Tape(gpu());
    const kept = tape.keep(sigmoid(tape, x));
    tape.consume(kept);
    const middle = leakyRelu(tape, weightedSum(tape, [kept, x], [1, 1]), 0.2);
    const zero = tape.upload(S, new Float32Array(SIZE), "zero");
    const loss = tape.keep(l1(tape, middle, zero, { factor: 1 }));
    tape.backward(loss);
    // Left: the kept result, the kept loss, the constant target and the leaf's gradient.
    expect(inUse() - start).toBe(3 * BLOCK + sizeClass(16));
    const sigmoids = Float64Array.from(values, (v) => 1 / (1 + Math.exp(-Math.fround(v))));
    expectClose("kept", await kept.values(), sigmoids, 1e-6, draw.seed);
    const want = sigmoids.reduce((sum, s, i) => sum + Math.max(s + values[i], -0.2 * (s + values[i])), 0);
    expectClose("loss", [await loss.item()], [want], 1e-4, draw.seed);
    tape.dispose();
    expect(inUse() - start, "the leaf's gradient is its owner's").toBe(BLOCK);
    freeLeaves([x]);
    expect(start - inUse()).toBe(BLOCK);
  });

  it("that an op saved for backward comes back at once when nothing is recorded", () => {
    const channel = { n: 1, h: 1, w: 1, c: 4 };
    const [x, ...parameters] = [S, channel, channel, channel, channel].map((s) => Tensor.from(gpu(), s, new Float32Array(s.h * s.w * 4).fill(1), "t")); // prettier-ignore
    const [gamma, beta, runningMean, runningVar] = parameters;
    const start = inUse();
    const tape = new Tape(gpu());
    const options = { eps: 1e-5, momentum: 0.1, mode: "batch", statistics: "all", holes: "zero" } as const;
    batchNorm(tape, x, null, { gamma, beta, runningMean, runningVar }, options);
    expect(inUse() - start, "only the result is left").toBe(BLOCK);
    tape.dispose();
    freeLeaves([x, ...parameters]);
  });
});

describe("masks", () => {
  const conv = { stride: [1, 1], padding: [1, 1], dilation: [1, 1], multiChannel: true } as const;
  const shape = { n: 1, h: 5, w: 6, c: 3, k: 3, kernel: [3, 3], ...conv } as const;

  it("may outlive the tape that first used them in a layer", async () => {
    const draw = new Draw(2120);
    const weight = weightLeaf("weight", shape, draw.doubles(81)).upload(gpu());
    const owner = new Tape(gpu(), { grad: false });
    const mask = owner.uploadMask(shape, draw.mask(30, 0.6));
    const x = owner.upload(shape, draw.floats(90), "x");
    const results: Float32Array[] = [];
    for (let i = 0; i < 2; i++) {
      const tape = new Tape(gpu(), { grad: false });
      // What the first tape gave back is overwritten by the second.
      for (let j = 0; j < 8; j++) tape.upload({ ...shape, c: 1 }, new Float32Array(30).fill(7), "other");
      results.push(await pconv2d(tape, x, mask, weight, null, { ...conv, convention: "paper" }).y.values());
      tape.dispose();
    }
    expectExact("second tape", results[1], results[0], draw.seed);
    owner.dispose();
    freeLeaves([weight]);
  });

  const read = async (mask: Mask) => (await gpu().read(mask.storage))[0];

  it.each(["up-skip", "skip-up"] as const)("of two levels are joined as groups, %s", async (order) => {
    const draw = new Draw(2123);
    const tape = new Tape(gpu());
    const [low, skip] = [draw.mask(2 * 3 * 2 * 2, 0.5), draw.mask(6 * 4, 0.5)];
    const lowMask = tape.uploadMask({ n: 2, h: 3, w: 2 }, low, [4, 5]);
    const skipMask = tape.uploadMask({ n: 1, h: 6, w: 4 }, skip);
    const joined = joinMasks(tape, { mask: lowMask, channels: 9 }, { mask: skipMask, channels: 3 }, order);
    const lowFirst = order === "up-skip";
    expect(joined.groupChannels).toEqual(lowFirst ? [4, 5, 3] : [3, 4, 5]);
    const sizes = { n: 2, h: 6, w: 4, lowN: 2, lowGroups: 2, skipN: 1, skipGroups: 1, lowFirst };
    expectExact("joined", await read(joined), maskJoinRef(sizes, low, skip), draw.seed);
    expect(() => joinMasks(tape, { mask: skipMask, channels: 3 }, { mask: lowMask, channels: 9 }, order)).toThrow(ShapeError); // prettier-ignore
    tape.dispose();
  });

  it("are hole where they are made larger", async () => {
    const tape = new Tape(gpu());
    const mask = tape.uploadMask({ n: 1, h: 1, w: 2 }, [1, 0, 1, 1], [1, 2]);
    expectExact("larger", await read(resizeMaskCanvas(tape, mask, 2, 3)), [1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0], "no seed"); // prettier-ignore
    expectExact("smaller", await read(resizeMaskCanvas(tape, mask, 1, 1)), [1, 0], "no seed");
    tape.dispose();
  });

  it("serve layers of several geometries", async () => {
    const draw = new Draw(2124);
    const values = draw.mask(30, 0.5);
    const tape = new Tape(gpu(), { grad: false });
    const mask = tape.uploadMask(shape, values);
    const x = tape.upload(shape, draw.floats(90), "x");
    for (const kernel of [
      [3, 3],
      [1, 1],
    ] as const) {
      // prettier-ignore
      for (const padding of [[1, 1], [0, 0]] as const) { // prettier-ignore
        const s = { ...shape, kernel, padding };
        const weight = weightLeaf("weight", s, draw.doubles(kernel[0] * kernel[1] * 9));
        const device = weight.upload(gpu());
        const ratio = maskUpdateRef({ ...s, c: 1, k: 1, channels: 3 }, { convention: "paper", biased: false }, values, [3]); // prettier-ignore
        const got = pconv2d(tape, x, mask, device, null, { ...conv, padding, convention: "paper" });
        expectClose("u", await read(got.mask), ratio.maskOut, 0, draw.seed);
        const masked = maskMultiplyRef(shape, await x.values(), values, [0, 0, 0], 1, 1);
        const want = pconvForwardRef(s, masked, weight.values, undefined, { ...ratio, n: 1 });
        expectClose("y", await got.y.values(), want, 1e-4, draw.seed);
        freeLeaves([device]);
      }
    }
    tape.dispose();
  });

  it("are needed again after an op that does not keep zeros", async () => {
    const draw = new Draw(2125);
    const values = draw.mask(30, 0.5);
    const x = activationLeaf("x", shape, draw.doubles(90));
    const w = weightLeaf("weight", shape, draw.doubles(81));
    const ratio = maskUpdateRef({ ...shape, c: 1, k: 1, channels: 3 }, { convention: "paper", biased: false }, values, [3]); // prettier-ignore
    const masked = (v: ArrayLike<number>) => maskMultiplyRef(shape, v, values, [0, 0, 0], 1, 1);
    await checkOp(gpu(), {
      name: "sigmoid under a mask",
      leaves: [x, w],
      forward: (tape, [tx, tw]) => {
        const mask = tape.uploadMask(shape, values);
        return pconv2d(tape, sigmoid(tape, maskMultiply(tape, tx, mask)), mask, tw, null, { ...conv, convention: "paper" }).y; // prettier-ignore
      },
      reference: () => {
        const y = masked(x.values).map((v) => 1 / (1 + Math.exp(-v)));
        return pconvForwardRef(shape, masked(y), w.values, undefined, { ...ratio, n: 1 });
      },
      draw,
    });
  });

  it("of several groups are refused where only one is understood", () => {
    const tape = new Tape(gpu());
    const x = tape.upload(S, new Float32Array(SIZE), "x");
    const mask = tape.uploadMask(S, new Float32Array(32).fill(1), [1, 3]);
    expect(() => composite(tape, x, x, mask)).toThrow("one group");
    expect(() => l1(tape, x, x, { factor: 1, region: "hole", mask })).toThrow("one group");
    expect(() => maskMultiply(tape, tape.upload({ ...S, c: 3 }, new Float32Array(48), "x"), mask)).toThrow(ShapeError);
    expect(() => l1(tape, x, x, { factor: 1, region: "valid" })).toThrow("expected a mask");
    expect(() => weightedSum(tape, [x], [1, 2])).toThrow(ShapeError);
    tape.dispose();
  });

  const chains = (["paper", "pytorch", "keras", "unscaled"] as const).flatMap((convention) =>
    [false, true].map((biased) => ({ convention, biased })),
  );
  it.each(chains)(
    "that a tensor is known to be zero under are not multiplied again, to the same bits: %j",
    async (o) => {
      const draw = new Draw(2121, chains.indexOf(o));
      const leaves = [
        activationLeaf("x", shape, new Float32Array(90)),
        weightLeaf("w1", shape, draw.doubles(81)),
        weightLeaf("w2", shape, draw.doubles(81)),
        channelLeaf("bias", draw.doubles(3)),
        channelLeaf("gamma", draw.doubles(3, 0.5, 2)),
        channelLeaf("beta", draw.doubles(3)),
      ];
      const values = draw.mask(30, 0.8);
      values.fill(0, 0, 18); // the upper rows: a hole that one layer does not close
      values[25] = 1;
      leaves[0].values.set(nanInHoles(draw.floats(90), 3, values));
      const dy = draw.floats(90);
      let skipped = 0;
      const run = async (forced: boolean) => {
        const tape = new Tape(gpu());
        const tensors = leaves.map((l) => l.upload(gpu()));
        const [x, w1, w2, bias, gamma, beta] = tensors;
        const mask = tape.uploadMask(shape, values);
        const known = (t: Tensor): Tensor => {
          if (t.zeroUnder && !forced) skipped++;
          if (forced) t.zeroUnder = null;
          return t;
        };
        const first = pconv2d(tape, known(maskMultiply(tape, x, mask)), mask, w1, o.biased ? bias : null, {
          ...conv,
          ...o,
        });
        const flat = tape.upload({ n: 1, h: 1, w: 1, c: 3 }, [1, 1, 1], "running");
        const stats = { gamma, beta, runningMean: flat, runningVar: tape.upload(flat.shape, [1, 1, 1], "running") };
        const options = { eps: 1e-5, momentum: 0.1, mode: "batch", statistics: "valid", holes: "zero" } as const;
        const normed = o.convention === "keras" ? first.y : batchNorm(tape, first.y, first.mask, stats, options);
        const active = known(leakyRelu(tape, normed, 0.2));
        const second = pconv2d(tape, active, first.mask, w2, null, { ...conv, ...o });
        const y = await second.y.values();
        tape.backward(second.y, tape.upload(second.y.shape, dy, "dy"));
        const gradients: Float32Array[] = [];
        for (const [i, l] of leaves.entries()) if (tensors[i].grad) gradients.push(await l.gradient(tensors[i]));
        tape.dispose();
        freeLeaves(tensors);
        return [y, ...gradients];
      };
      const [plain, forced] = [await run(false), await run(true)];
      expect(plain.length).toBeGreaterThanOrEqual(4);
      plain.forEach((v, i) => expectExact(`result ${i}`, v, forced[i], draw.seed));
      expect(plain[0].some((v) => v !== 0)).toBe(true);
      // PConv-Keras' bias stands in the holes: there the multiplication is needed.
      expect(skipped).toBe(o.convention === "keras" && o.biased ? 1 : 2);
    },
  );

  it.each(["paper", "keras"] as const)("of fractions are multiplied in every layer, %s", async (convention) => {
    const draw = new Draw(2122);
    const values = new Float32Array(30);
    [values[24], values[28], values[29]] = [0.1, 1, 0.7]; // three channels of 0.1 leave a fraction for the next layer
    const x = activationLeaf("x", shape, nanInHoles(draw.floats(90), 3, values));
    const [w1, w2] = ["w1", "w2"].map((name) => weightLeaf(name, shape, draw.doubles(81)));
    const update = (m: ArrayLike<number>) =>
      maskUpdateRef({ ...shape, c: 1, k: 1, channels: 3 }, { convention, biased: false }, m, [3]);
    const [one, two] = [update(values), update(update(values).maskOut)];
    expect(
      one.maskOut.some((v) => v > 0 && v < 1),
      "a fraction survives the first layer",
    ).toBe(true);
    const masked = (v: ArrayLike<number>, m: ArrayLike<number>) => maskMultiplyRef(shape, v, m, [0, 0, 0], 1, 1);
    await checkOp(gpu(), {
      name: "fractions",
      leaves: [x, w1, w2],
      forward: (tape, [tx, t1, t2]) => {
        const first = pconv2d(tape, tx, tape.uploadMask(shape, values), t1, null, { ...conv, convention });
        return pconv2d(tape, first.y, first.mask, t2, null, { ...conv, convention }).y;
      },
      reference: () => {
        const y = pconvForwardRef(shape, masked(x.values, values), w1.values, undefined, { ...one, n: 1 });
        return pconvForwardRef(shape, masked(y, one.maskOut), w2.values, undefined, { ...two, n: 1 });
      },
      draw,
    });
  });
});
