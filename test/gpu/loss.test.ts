/** The loss against a plain float64 implementation, written down from the paper with loops of its own. */
import { describe, expect, it } from "vitest";
import { Tape } from "../../src/autograd/tape.js";
import { Tensor } from "../../src/autograd/tensor.js";
import { UserError } from "../../src/errors.js";
import type { LoadableTensor } from "../../src/nn/module.js";
import { InpaintingLoss, LOSS_TERMS, type LossTerm, type LossVariant } from "../../src/pconv/loss.js";
import { Vgg, type VggArchitecture } from "../../src/pconv/vgg.js";
import { expectClose, expectExact } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu } from "../support/gpu.js";
import { dot } from "../support/ops.js";

const gpu = useGpu();

type Values = ArrayLike<number>;
interface Image {
  readonly n: number;
  readonly h: number;
  readonly w: number;
  readonly c: number;
  readonly v: Values;
}

const INDICES = {
  vgg16: [[0, 2], [5, 7], [10, 12, 14]],
  vgg19: [[0, 2], [5, 7], [10, 12, 14, 16]],
} as const; // prettier-ignore
const CHANNELS = [5, 6, 7];

interface Layer {
  readonly weight: Float32Array; // [O,I,3,3]
  readonly bias: Float32Array;
  readonly shape: readonly [number, number, number, number];
}

/** VGG with few channels and random weights. */
function tinyVgg(draw: Draw, architecture: VggArchitecture): Map<number, Layer> {
  const layers = new Map<number, Layer>();
  let from = 3;
  INDICES[architecture].forEach((block, b) => {
    for (const index of block) {
      const to = CHANNELS[b];
      const limit = Math.sqrt(6 / (from * 9));
      layers.set(index, { weight: draw.floats(to * from * 9, -limit, limit), bias: draw.floats(to, 0, 0.3), shape: [to, from, 3, 3] }); // prettier-ignore
      from = to;
    }
  });
  return layers;
}

const stateOf = (layers: Map<number, Layer>) =>
  new Map<string, LoadableTensor>(
    [...layers].flatMap(([index, l]) => [
      [`features.${index}.weight`, { shape: l.shape, toFloat32: () => l.weight }] as const,
      [`features.${index}.bias`, { shape: [l.bias.length], toFloat32: () => l.bias }] as const,
    ]),
  );

function convRelu(x: Image, l: Layer): Image {
  const [k] = l.shape;
  const v = new Float64Array(x.n * x.h * x.w * k);
  for (let n = 0; n < x.n; n++)
    for (let i = 0; i < x.h; i++)
      for (let j = 0; j < x.w; j++)
        for (let o = 0; o < k; o++) {
          let sum = l.bias[o];
          for (let a = Math.max(0, i - 1); a <= Math.min(x.h - 1, i + 1); a++)
            for (let b = Math.max(0, j - 1); b <= Math.min(x.w - 1, j + 1); b++)
              for (let c = 0; c < x.c; c++)
                sum += l.weight[((o * x.c + c) * 3 + (a - i + 1)) * 3 + (b - j + 1)] * x.v[((n * x.h + a) * x.w + b) * x.c + c]; // prettier-ignore
          v[((n * x.h + i) * x.w + j) * k + o] = Math.max(0, sum);
        }
  return { ...x, c: k, v };
}

function pool(x: Image): Image {
  const [h, w] = [x.h >> 1, x.w >> 1];
  const v = new Float64Array(x.n * h * w * x.c).fill(-Infinity);
  for (let n = 0; n < x.n; n++)
    for (let i = 0; i < 2 * h; i++)
      for (let j = 0; j < 2 * w; j++)
        for (let c = 0; c < x.c; c++) {
          const to = ((n * h + (i >> 1)) * w + (j >> 1)) * x.c + c;
          v[to] = Math.max(v[to], x.v[((n * x.h + i) * x.w + j) * x.c + c]);
        }
  return { ...x, h, w, v };
}

function features(x: Image, layers: Map<number, Layer>, architecture: VggArchitecture): Image[] {
  const pools: Image[] = [];
  for (const block of INDICES[architecture]) {
    for (const index of block) x = convRelu(x, layers.get(index)!);
    pools.push((x = pool(x)));
  }
  return pools;
}

/** F^T F / (C H W) for every image. */
function gramOf(x: Image): number[] {
  const g = Array<number>(x.n * x.c * x.c).fill(0);
  for (let n = 0; n < x.n; n++)
    for (let i = 0; i < x.h * x.w; i++)
      for (let a = 0; a < x.c; a++)
        for (let b = 0; b < x.c; b++) {
          const at = (n * x.h * x.w + i) * x.c;
          g[(n * x.c + a) * x.c + b] += (x.v[at + a] * x.v[at + b]) / (x.c * x.h * x.w);
        }
  return g;
}

const meanDistance = (a: Values, b: Values) => Array.from(a).reduce((s, v, i) => s + Math.abs(v - b[i]), 0) / a.length;

interface Scene {
  readonly variant: LossVariant;
  readonly vgg: { readonly layers: Map<number, Layer>; readonly architecture: VggArchitecture } | null;
  readonly normalized: boolean;
  readonly shape: { readonly n: number; readonly h: number; readonly w: number; readonly c: 3 };
  /** [n or 1,h,w] */
  readonly mask: Float32Array;
  readonly gt: Float32Array;
  readonly output: Float64Array;
}

/** All terms of the loss in float64. */
function exactTerms(s: Scene): Partial<Record<LossTerm, number>> {
  const { n, h, w } = s.shape;
  const N = n * h * w * 3;
  const m = (pixel: number) => s.mask[pixel % s.mask.length];
  const [mean, std] = [
    [0.485, 0.456, 0.406],
    [0.229, 0.224, 0.225],
  ];
  const image = (v: Values): Image => ({ ...s.shape, v: s.normalized ? v : Float64Array.from(v, (x, i) => (x - mean[i % 3]) / std[i % 3]) }); // prettier-ignore
  const pools = (v: Values) => features(image(v), s.vgg!.layers, s.vgg!.architecture);
  const perceptual = (a: Image[], b: Image[]) => a.reduce((sum, f, i) => sum + meanDistance(f.v, b[i].v), 0);
  const style = (a: Image[], b: Image[]) => a.reduce((sum, f, i) => sum + meanDistance(gramOf(f), gramOf(b[i])), 0);
  if (s.variant === "nvidia") {
    const [out, gt] = [pools(s.output), pools(s.gt)];
    return { valid: meanDistance(image(s.output).v, image(s.gt).v), perceptual: perceptual(out, gt), styleOut: style(out, gt) }; // prettier-ignore
  }
  const comp = s.output.map((v, i) => (m(Math.floor(i / 3)) ? s.gt[i] : v));
  const terms: Partial<Record<LossTerm, number>> = { valid: 0, hole: 0 };
  s.output.forEach((v, i) => {
    terms[m(Math.floor(i / 3)) ? "valid" : "hole"]! += Math.abs(v - s.gt[i]) / N;
  });
  if (s.vgg) {
    const [out, full, gt] = [pools(s.output), pools(comp), pools(s.gt)];
    terms.perceptual = perceptual(out, gt) + perceptual(full, gt);
    terms.styleOut = style(out, gt);
    terms.styleComp = style(full, gt);
  }
  /** The hole and its rim. */
  const region = (b: number, i: number, j: number) => {
    for (let y = Math.max(0, i - 1); y <= Math.min(h - 1, i + 1); y++)
      for (let x = Math.max(0, j - 1); x <= Math.min(w - 1, j + 1); x++) if (!m((b * h + y) * w + x)) return 1;
    return 0;
  };
  let [tvX, tvY] = [0, 0];
  for (let b = 0; b < n; b++)
    for (let i = 0; i < h; i++)
      for (let j = 0; j < w; j++)
        for (let c = 0; c < 3; c++) {
          const value = (y: number, x: number) => comp[((b * h + y) * w + x) * 3 + c] * (s.variant === "keras" ? region(b, y, x) : 1); // prettier-ignore
          const counts = (y: number, x: number) => s.variant !== "paper" || (region(b, i, j) && region(b, y, x));
          if (j + 1 < w && counts(i, j + 1)) tvX += Math.abs(value(i, j + 1) - value(i, j));
          if (i + 1 < h && counts(i + 1, j)) tvY += Math.abs(value(i + 1, j) - value(i, j));
        }
  terms.tv = s.variant === "paper" ? (tvX + tvY) / N : tvX / (n * 3 * h * (w - 1)) + tvY / (n * 3 * (h - 1) * w);
  return terms;
}

function scene(
  draw: Draw,
  variant: LossVariant,
  o: { vgg: VggArchitecture | null; normalized?: boolean; maskN?: number },
): Scene {
  const shape = { n: 2, h: 17, w: 12, c: 3 } as const; // odd: the pools drop a row
  const area = shape.h * shape.w;
  const mask = draw.mask((o.maskN ?? shape.n) * area, 0.02).map((v, i) => {
    const [row, col] = [Math.floor(i / shape.w) % shape.h, i % shape.w];
    return row > 3 && row < 9 && col > 2 && col < 8 ? 0 : v;
  });
  const vgg = o.vgg && { layers: tinyVgg(draw, o.vgg), architecture: o.vgg };
  const values = () => draw.floats(shape.n * area * 3, 0, 1);
  return {
    variant,
    vgg,
    normalized: o.normalized ?? false,
    shape,
    mask,
    gt: values(),
    output: Float64Array.from(values()),
  };
}

/** The same on the device. */
async function onDevice(s: Scene, weights?: Partial<Record<LossTerm, number>>) {
  const start = gpu().memory().inUse;
  const vgg = s.vgg && new Vgg(gpu(), stateOf(s.vgg.layers));
  if (vgg) expect(vgg.architecture).toBe(s.vgg.architecture);
  const loss = new InpaintingLoss({ variant: s.variant, vgg, normalized: s.normalized, ...(weights && { weights }) });
  const tape = new Tape(gpu());
  const output = Tensor.from(gpu(), s.shape, s.output, "output");
  output.requiresGrad = true;
  const mask = tape.uploadMask({ ...s.shape, n: s.mask.length / (s.shape.h * s.shape.w) }, s.mask);
  const { total, terms, comp } = loss.forward(tape, output, tape.upload(s.shape, s.gt, "gt"), mask);
  const image = comp && (await comp.values());
  tape.backward(total);
  const values = await Promise.all([...terms].map(async ([name, t]) => [name, await t.item()] as const));
  const result = {
    total: await total.item(),
    terms: new Map(values),
    comp: image,
    gradient: await output.grad!.values(),
  };
  tape.dispose();
  output.grad!.free();
  output.free();
  vgg?.free(); // and the forms of its weights that kernels keep
  const left = gpu().memory().inUse - start;
  return { ...result, left };
}

const WEIGHTS = { valid: 1, hole: 6, perceptual: 0.05, styleOut: 120, styleComp: 120, tv: 0.1 };
const weighted = (terms: Partial<Record<LossTerm, number>>, weights: Record<LossTerm, number>) =>
  LOSS_TERMS.reduce((sum, name) => sum + (terms[name] ?? 0) * weights[name], 0);

const CASES = [
  { variant: "paper", vgg: "vgg16" },
  { variant: "paper", vgg: "vgg19", maskN: 1 },
  { variant: "paper", vgg: null },
  { variant: "paper", vgg: "vgg16", normalized: true },
  { variant: "pytorch", vgg: "vgg16" },
  { variant: "keras", vgg: "vgg16", maskN: 1 },
  { variant: "nvidia", vgg: "vgg16" },
  { variant: "nvidia", vgg: "vgg16", normalized: true },
] as const;

describe("terms, total and gradient", () => {
  it.each(CASES)("%j", async (o) => {
    const draw = new Draw(2400, CASES.indexOf(o));
    const s = scene(draw, o.variant, o);
    await onDevice(s); // constants and pipelines are made
    const got = await onDevice(s);
    expect(got.left, "bytes in use afterwards").toBe(0);
    const want = exactTerms(s);
    const weights = { ...WEIGHTS, ...(o.variant === "nvidia" && { valid: 5 }) };
    expect([...got.terms.keys()]).toEqual(LOSS_TERMS.filter((name) => want[name] !== undefined));
    for (const [name, value] of got.terms) {
      expect(want[name], name).toBeGreaterThan(0);
      expectClose(name, [value], [want[name]!], 2e-5 * want[name]!, draw.seed);
    }
    const total = weighted(want, weights);
    expectClose("total", [got.total], [total], 2e-5 * total, draw.seed);
    if (o.variant === "nvidia") expect(got.comp).toBeNull();
    else {
      const holes = s.output.map((v, i) => (s.mask[Math.floor(i / 3) % s.mask.length] ? s.gt[i] : v));
      expectExact("comp", got.comp!, Float32Array.from(holes), draw.seed);
    }

    // Along random directions, and at single pixels in the hole, on its rim and far from it.
    const loss = () => weighted(exactTerms(s), weights);
    const start = s.output.slice();
    const along = (direction: Values, step: number) => {
      s.output.set(start.map((v, i) => v + step * direction[i]));
      const value = loss();
      s.output.set(start);
      return value;
    };
    const check = (name: string, direction: Values) => {
      const numeric = (along(direction, 1e-6) - along(direction, -1e-6)) / 2e-6;
      const scale = Math.sqrt(dot(got.gradient, got.gradient) * dot(direction, direction));
      expectClose(name, [dot(got.gradient, direction)], [numeric], 1e-4 * scale, draw.seed);
    };
    for (let i = 0; i < 3; i++) check(`gradient, direction ${i}`, draw.floats(start.length));
    for (const pixel of [5 * 12 + 4, 4 * 12 + 2, 16 * 12 + 11, 17 * 12 + 6 * 12 + 5]) {
      check(`gradient, pixel ${pixel}`, start.map((_, i) => Number(Math.floor(i / 3) === pixel))); // prettier-ignore
    }
  });

  it("weights given replace the defaults, and a weight of 0 removes a term from the total", async () => {
    const draw = new Draw(2401);
    const s = scene(draw, "paper", { vgg: null });
    const { total, terms, gradient } = await onDevice(s, { hole: 3, valid: 0, tv: 0 });
    const want = 3 * exactTerms(s).hole!;
    expectClose("total", [total], [want], 2e-5 * want, draw.seed);
    expect(terms.get("tv"), "terms are reported unweighted").toBeGreaterThan(0);
    const N = s.output.length;
    const exact = s.output.map((v, i) => (s.mask[Math.floor(i / 3)] ? 0 : (3 * Math.sign(v - s.gt[i])) / N));
    expectClose("gradient", gradient, exact, 1e-9, draw.seed);
  });

  it("of a perfect output are zero, but for total variation", async () => {
    const draw = new Draw(2402);
    const s = scene(draw, "paper", { vgg: "vgg16" });
    const { terms } = await onDevice({ ...s, output: Float64Array.from(s.gt) });
    for (const [name, value] of terms) {
      if (name === "tv") expect(value).toBeGreaterThan(0);
      else expect(value, name).toBe(0);
    }
  });
});

describe("refusals", () => {
  it("nvidia without VGG", () => {
    expect(() => new InpaintingLoss({ variant: "nvidia" })).toThrow(UserError);
  });

  it("VGG weights with a missing or misshapen convolution", () => {
    const layers = tinyVgg(new Draw(2410), "vgg16");
    const state = new Map(stateOf(layers));
    state.delete("features.7.bias");
    expect(() => new Vgg(gpu(), state)).toThrow("features.7");
    const wrong = new Map(stateOf(layers));
    wrong.set("features.5.weight", { shape: [6, 4, 3, 3], toFloat32: () => new Float32Array(216) });
    expect(() => new Vgg(gpu(), wrong)).toThrow("expected features.5.weight of shape 6x5x3x3, got 6x4x3x3");
  });

  it("VGG has no trainable parameters, and leaves its input's gradient to the tape", async () => {
    const draw = new Draw(2411);
    const layers = tinyVgg(draw, "vgg16");
    const vgg = new Vgg(gpu(), stateOf(layers));
    expect(vgg.namedParameters()).toEqual([]);
    const tape = new Tape(gpu(), { grad: false });
    const s = { n: 1, h: 9, w: 8, c: 3 };
    const x = draw.floats(216);
    const got = vgg.forward(tape, tape.upload(s, x, "x"));
    const want = features({ ...s, v: x }, layers, "vgg16");
    for (const [i, name] of (["pool1", "pool2", "pool3"] as const).entries()) {
      expectClose(name, await got[name].values(), want[i].v, 1e-5, draw.seed);
    }
    tape.dispose();
    vgg.free();
  });
});
