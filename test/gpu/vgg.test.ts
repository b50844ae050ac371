/** Features of a composite, computed where its holes reach and copied elsewhere, against the plain computation. */
import { describe, expect, it } from "vitest";
import { composite } from "../../src/autograd/ops/composite.js";
import { conv2d, type FusedConv2dOptions } from "../../src/autograd/ops/conv2d.js";
import { l1 } from "../../src/autograd/ops/l1.js";
import { weightedSum } from "../../src/autograd/ops/weightedSum.js";
import { Tape } from "../../src/autograd/tape.js";
import { Tensor } from "../../src/autograd/tensor.js";
import { ShapeError } from "../../src/errors.js";
import { FlopCounter } from "../../src/kernels/conv/flopCounter.js";
import { receptiveField, receptiveFieldRef } from "../../src/kernels/receptiveField.js";
import { pconvForwardRef } from "../../src/kernels/pconvForward.js";
import { Parameter } from "../../src/nn/parameter.js";
import { Vgg, type VggFeatures } from "../../src/pconv/vgg.js";
import { expectClose, expectExact } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";
import { activationLeaf, channelLeaf, checkOp, largest, weightLeaf } from "../support/ops.js";
import { tinyVggState } from "../support/tinyVgg.js";

const gpu = useGpu();

describe("receptiveField", () => {
  const WINDOWS = [
    { n: 2, h: 7, w: 5, kernel: 1, stride: 1, padding: 0, clear: 1 },
    { n: 2, h: 7, w: 5, kernel: 3, stride: 1, padding: 1, clear: 0 },
    { n: 3, h: 9, w: 6, kernel: 2, stride: 2, padding: 0, clear: 0 },
    { n: 1, h: 1, w: 1, kernel: 3, stride: 1, padding: 1, clear: 0 },
    { n: 1, h: 13, w: 70, kernel: 5, stride: 2, padding: 2, clear: 0 },
  ] as const;
  it.each(WINDOWS)("%j", async (o) => {
    for (const [i, share] of [0, 0.05, 0.5, 1].entries()) {
      const draw = new Draw(2500, i);
      const marked = draw.mask(o.n * o.h * o.w, 1 - share, true); // fractions too: they mark, and in a mask they are not valid
      const source = o.clear === 1 ? marked.map((v) => 1 - v) : marked;
      const want = receptiveFieldRef(o, source);
      await withScratch(gpu(), async (t) => {
        const live = t.outFloats("live", want.length);
        receptiveField(gpu(), o, { source: t.floats(source), live: live.storage });
        expectExact("live", (await t.read(live))[0], want, draw.seed);
      });
    }
  });
});

describe("a convolution with a fused activation", () => {
  const s = {
    n: 2,
    h: 5,
    w: 4,
    c: 3,
    k: 6,
    kernel: [3, 3],
    stride: [1, 1],
    padding: [1, 1],
    dilation: [1, 1],
  } as const;
  it.each([0, 0.2])("slope %f: values and all gradients", async (slope) => {
    const draw = new Draw(2510);
    const x = activationLeaf("x", s, draw.doubles(s.n * s.h * s.w * s.c));
    const weight = weightLeaf("weight", s, draw.doubles(9 * s.c * s.k, -0.5, 0.5));
    const bias = channelLeaf("bias", draw.doubles(s.k));
    const reference = () =>
      pconvForwardRef(s, x.values, weight.values, bias.values).map((v) => (v > 0 ? v : slope * v));
    // The kink must not lie between the two points of a central difference.
    expect(Math.min(...pconvForwardRef(s, x.values, weight.values, bias.values).map(Math.abs))).toBeGreaterThan(1e-4);
    await checkOp(gpu(), {
      name: "conv2d",
      leaves: [x, weight, bias],
      forward: (tape, [a, w, b]) => conv2d(tape, a, w, b, { ...s, slope }),
      reference,
      draw,
    });
  });

  it("refuses what it cannot do right", () => {
    const tape = new Tape(gpu());
    const shape = { n: 1, h: 4, w: 4, c: 4 };
    const [x, base] = [tape.upload(shape, new Float32Array(64), "x"), tape.upload(shape, new Float32Array(64), "base")];
    const weight = new Parameter(gpu(), [4, 4, 3, 3], "weight", new Float32Array(144));
    const reach = { mask: base.storage, n: 1 };
    const attempt = (o: Partial<FusedConv2dOptions>) => () => conv2d(tape, x, weight, null, { ...s, ...o });
    const known = { live: reach, liveX: reach, base };
    expect(attempt({ slope: -0.1 })).toThrow("expected a slope of at least 0");
    expect(attempt({ known })).toThrow("expected constant weights");
    weight.requiresGrad = false;
    expect(attempt({ known: { ...known, base: tape.upload({ ...shape, h: 3, w: 3 }, new Float32Array(36), "b") } })).toThrow(ShapeError); // prettier-ignore
    base.requiresGrad = true;
    expect(attempt({ known })).toThrow("that requires a gradient");
    tape.dispose();
    weight.free();
  });
});

const POOLS = ["pool1", "pool2", "pool3"] as const;

/** Holes as functions of row, column and picture; 0 = hole. */
const HOLES: readonly (readonly [string, (row: number, col: number, n: number) => number])[] = [
  ["none", () => 1],
  ["everything", () => 0],
  ["one pixel", (row, col) => Number(row !== 20 || col !== 17)],
  ["the last corner", (row, col) => Number(row < 40 || col < 34)],
  ["the first column", (_, col) => Number(col > 0)],
  ["a rectangle, elsewhere in each picture", (row, col, n) => Number(row < 5 + 9 * n || row > 19 + 9 * n || col < 8 || col > 20)], // prettier-ignore
  ["one picture only", (row, col, n) => Number(n === 0 || row > 9 || col > 9)],
  ["fractions only", (row, col) => (row > 10 && row < 14 && col > 10 && col < 14 ? 0.75 : 1)],
];

describe.each([
  { channels: undefined, maskN: 2 },
  { channels: undefined, maskN: 1 },
  { channels: [12, 12, 20, 20, 24, 24, 24], maskN: 2 }, // wide enough for the subgroup tiles
])("Vgg.compare: %j", ({ channels, maskN }) => {
  it.each(HOLES)("%s", async (_, valid) => {
    const shape = { n: 2, h: 43, w: 37, c: 3 }; // odd: every pool drops a row or a column
    const area = shape.h * shape.w;
    const draw = new Draw(
      2520,
      HOLES.findIndex(([, f]) => f === valid),
    );
    const mask = Float32Array.from({ length: maskN * area }, (_, i) =>
      valid(Math.floor(i / shape.w) % shape.h, i % shape.w, Math.floor(i / area)),
    );
    const gt = draw.floats(shape.n * area * 3);
    const output = draw.floats(shape.n * area * 3);
    const vgg = new Vgg(gpu(), tinyVggState(channels));
    const targets = new Map<string, Float32Array>();

    /** Features of all three, and the gradient that random distances of the composite's features give the output. */
    const run = async (plain: boolean) => {
      const tape = new Tape(gpu());
      const out = Tensor.from(gpu(), shape, output, "output");
      out.requiresGrad = true;
      const truth = tape.upload(shape, gt, "truth");
      const m = tape.uploadMask({ ...shape, n: maskN }, mask);
      const comp = composite(tape, truth, out, m);
      let all: VggFeatures[];
      if (plain) all = [truth, out, comp].map((image) => vgg.forward(tape, image));
      else {
        const { truth: first, images, composite: full } = vgg.compare(tape, truth, [out], { image: comp, mask: m });
        all = [first, ...images, full!];
      }
      const features = await Promise.all(all.flatMap((f) => POOLS.map((p) => f[p].values())));
      const terms = POOLS.map((p) => {
        const { shape: size } = all[2][p];
        const count = size.n * size.h * size.w * size.c;
        if (!targets.has(p)) targets.set(p, draw.floats(count));
        return l1(tape, all[2][p], tape.upload(size, targets.get(p)!, "target"), { factor: 1 / count });
      });
      tape.backward(weightedSum(tape, terms, [1, 2, 3]));
      const gradient = await out.grad!.values();
      tape.dispose();
      out.grad!.free();
      out.free();
      return { features, gradient };
    };

    const want = await run(true);
    const got = await run(false);
    want.features.forEach((f, i) => expectClose(`features ${i}`, got.features[i], f, 1e-6 * largest(f), draw.seed));
    expectClose("gradient", got.gradient, want.gradient, 1e-6 * largest(want.gradient), draw.seed);
    expect(largest(want.gradient) > 0, "there is a gradient").toBe(mask.some((v) => v !== 1));
    vgg.free();
  });
});

it.each([
  { hole: "none", valid: () => 1, least: 0, most: 0 },
  { hole: "one pixel", valid: (i: number) => Number(i !== 20 * 37 + 17), least: 0.01, most: 0.4 },
  { hole: "everything", valid: () => 0, least: 1, most: 1 },
])("the composite of a hole of $hole costs its share of an image, both ways", async ({ valid, least, most }) => {
  const shape = { n: 1, h: 43, w: 37, c: 3 };
  const values = new Draw(2530).floats(shape.h * shape.w * 3);
  const vgg = new Vgg(gpu(), tinyVggState());
  const counter = new FlopCounter(gpu());
  const tape = new Tape(gpu());
  const image = Tensor.from(gpu(), shape, values, "image");
  image.requiresGrad = true;
  const mask = tape.uploadMask(
    shape,
    Float32Array.from({ length: shape.h * shape.w }, (_, i) => valid(i)),
  );
  const { composite: full } = vgg.compare(tape, tape.upload(shape, values, "truth"), [], { image, mask });
  tape.backward(full!.pool3, tape.upload(full!.pool3.shape, new Float32Array(5 * 4 * 8).fill(1), "dy"));
  const totals = await counter.totals();
  // Forward the truth is computed too, whole.
  const { textbook, needed } = totals.get("pconvForward")!;
  const forward = (2 * needed) / textbook - 1;
  const backward = totals.get("pconvBackwardInput")!;
  for (const share of [forward, backward.needed / backward.textbook]) {
    expect(share).toBeGreaterThanOrEqual(least);
    expect(share).toBeLessThanOrEqual(most);
  }
  counter.detach();
  tape.dispose();
  image.grad!.free();
  image.free();
  vgg.free();
});

it("Vgg.compare refuses a mask of another size", () => {
  const tape = new Tape(gpu());
  const vgg = new Vgg(gpu(), tinyVggState());
  const image = tape.upload({ n: 1, h: 8, w: 8, c: 3 }, new Float32Array(192), "image");
  const mask = tape.uploadMask({ n: 1, h: 8, w: 9 }, new Float32Array(72));
  expect(() => vgg.compare(tape, image, [], { image, mask })).toThrow(ShapeError);
  tape.dispose();
  vgg.free();
});
