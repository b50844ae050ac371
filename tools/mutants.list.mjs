/**
 * Deliberate mistakes in kernels, autograd, U-Net and loss; each must make a test fail (see mutants.mjs).
 *
 * `find` occurs exactly once in `file`; `tests` are the files that must catch it, without ending: those of test/gpu by their
 * names, others with their folder. `only`, where it is given, is part of the names of the tests in them that are run: long files
 * would take minutes for each mutant.
 */
import { conv } from "./mutants.conv.mjs";
import { layers } from "./mutants.layers.mjs";
import { kernels } from "./mutants.kernels.mjs";
import { memory } from "./mutants.memory.mjs";
import { parallel } from "./mutants.parallel.mjs";
import { training } from "./mutants.training.mjs";
import { winograd } from "./mutants.winograd.mjs";

const autograd = [
  {
    name: "mask ignored in the layer",
    file: "src/autograd/ops/pconvSums.ts",
    find: "mask ? maskMultiply(tape, x, mask) : x",
    replace: "x",
    why: "the convolution must not see what stands in holes",
    tests: ["autograd"],
  },
  {
    name: "gradients without the ratio",
    file: "src/kernels/pixelScale.ts",
    find: "dy[id] * s$",
    replace: "dy[id]$",
    why: "dy goes through the ratio before it meets x and the weight",
    tests: ["autograd"],
  },
  {
    name: "db counts holes",
    file: "src/autograd/ops/pconv2d.ts",
    find: "weight: ratio.biasScale, sum: db.storage",
    replace: "sum: db.storage",
    why: "where no bias was added it has no gradient",
    tests: ["autograd"],
  },
  {
    name: "one ratio for all kernel sizes",
    file: "src/autograd/ops/pconvRatio.ts",
    find: "JSON.stringify([s.kernel, s.stride,",
    replace: "JSON.stringify([s.stride,",
    why: "ratios are kept by geometry",
    tests: ["tape"],
  },
  {
    name: "fractional masks skipped",
    file: "src/autograd/ops/maskMultiply.ts",
    find: "if (x.zeroUnder === mask && mask.binary)",
    replace: "if (x.zeroUnder === mask)",
    why: "zeros in holes say nothing about fractions",
    tests: ["tape"],
  },
  {
    name: "sigmoid thought to keep zeros",
    file: "src/autograd/ops/activation.ts",
    find: 'if (name !== "sigmoid") y.zeroUnder',
    replace: "y.zeroUnder",
    why: "sigmoid(0) is 1/2: the next layer must mask again",
    tests: ["tape"],
  },
  {
    name: "batch norm's statistics count holes when `valid`",
    file: "src/autograd/ops/normalize.ts",
    find: 'o.statistics === "valid" ? valid?.mask : undefined',
    replace: "undefined",
    why: "zeros in holes would pull mean and variance down",
    tests: ["autograd"],
  },
  {
    name: "batch norm's gradient ignores its statistics",
    file: "src/autograd/ops/normalize.ts",
    find: 'n.options.mode === "fixed" ? "fixed" : counted',
    replace: '"fixed"',
    why: "batch statistics depend on x",
    tests: ["autograd"],
  },
  {
    name: "ImageNet's deviation ignored",
    file: "src/autograd/ops/channelAffine.ts",
    find: "IMAGENET.std.map((s) => 1 / s)",
    replace: "IMAGENET.std.map(() => 1)",
    why: "VGG was trained on (x - mean) / std",
    tests: ["autograd"],
  },
  {
    name: "concat's second gradient reads the first's channels",
    file: "src/autograd/ops/concat.ts",
    find: "first: i * ca,",
    replace: "first: 0,",
    why: "the slices follow the order",
    tests: ["autograd"],
  },
  {
    name: "gradient overwritten instead of added",
    file: "src/autograd/tape.ts",
    find: "leaf ? input.grad : gradients.get(input)",
    replace: "leaf ? input.grad : undefined",
    why: "a skip link's gradient has two parts",
    tests: ["tape"],
  },
  {
    name: "leaf gradient overwritten",
    file: "src/autograd/tape.ts",
    find: "leaf ? input.grad : gradients.get(input)",
    replace: "leaf ? undefined : gradients.get(input)",
    why: "gradients of several backwards add up",
    tests: ["tape"],
  },
  {
    name: "consume frees what backward needs",
    file: "src/autograd/tape.ts",
    find: "if (!this.kept.has(t) && !this.savedCount.get(t))",
    replace: "if (!this.kept.has(t))",
    why: "a freed buffer is handed out again and overwritten",
    tests: ["tape"],
  },
  {
    name: "backward frees kept tensors",
    file: "src/autograd/tape.ts",
    find: "if (!this.kept.has(node.output)) this",
    replace: "this",
    why: "loss terms are read after backward",
    tests: ["tape"],
  },
  {
    name: "state dict read as [I,O,kh,kw]",
    file: "src/autograd/layout.ts",
    find: "out[(t * ip + b) * op + a] = values[(a * i + b) * kh * kw + t];",
    replace: "out[(t * ip + b) * op + a] = values[(b * o + a) * kh * kw + t];",
    why: "PyTorch's order is [O,I,kh,kw]",
    tests: ["nn"],
  },
];

const networks = [
  {
    name: "frozen batch norm updates its statistics",
    file: "src/nn/layers.ts",
    find: "const batch = this.training && !this.frozen;",
    replace: "const batch = this.training;",
    why: "stage 2 keeps the encoder's statistics",
    tests: ["nn"],
  },
  {
    name: "Adam's resume forgets the step",
    file: "src/optim/adam.ts",
    find: "this.steps = Math.trunc(steps.toFloat32()[0]);",
    replace: "",
    why: "bias correction depends on it",
    tests: ["nn"],
  },
  {
    name: "concat order swapped",
    file: "src/autograd/ops/pconvSums.ts",
    find: 'lowFirst: order === "up-skip"',
    replace: 'lowFirst: order !== "up-skip"',
    why: "weights of other implementations and the mask groups follow the order",
    tests: ["unet"],
  },
  {
    name: "bias in a skip link's holes not masked",
    file: "src/autograd/ops/pconvSums.ts",
    find: "maskMultiply(tape, skip.x, skip.mask)",
    replace: "skip.x",
    why: "PConv-Keras leaves its bias there",
    tests: ["unet"],
  },
  {
    name: "U-Net's leaky slope 0.01",
    file: "src/pconv/unet.ts",
    find: "LEAKY_SLOPE = 0.2",
    replace: "LEAKY_SLOPE = 0.01",
    why: "the paper's is 0.2",
    tests: ["unet"],
  },
  {
    name: "stage 2 freezes the decoder",
    file: "src/pconv/unet.ts",
    find: 'for (const { bn } of this.encoder) if (bn) bn.frozen = which !== "none";',
    replace: 'for (const { bn } of this.encoder) if (bn) bn.frozen = which === "all";',
    why: "sec. 4.2: the encoder's batch norm",
    tests: ["unet"],
  },
  {
    name: "padding of odd sizes is valid",
    file: "src/kernels/window.ts",
    find: 'vectors ? "vec4f()" : "0.0"',
    replace: 'vectors ? "vec4f()" : "1.0"',
    why: "what is added to an image is hole",
    tests: ["unet"],
  },
  {
    name: "caller's image freed by the U-Net",
    file: "src/pconv/unet.ts",
    find: "if (skip.x !== image) tape.consume(skip.x);",
    replace: "tape.consume(skip.x);",
    why: "the caller may still compare with it",
    tests: ["unet"],
  },
];

const loss = [
  {
    name: "hole weight 6 -> 1",
    file: "src/pconv/loss.ts",
    find: "  hole: 6,",
    replace: "  hole: 1,",
    why: "eq. 7",
    tests: ["loss"],
  },
  {
    name: "hole and valid swapped",
    file: "src/pconv/loss.ts",
    find: 'region: "valid", mask }));\n      terms.set("hole", l1(tape, output, gt, { factor: mean, region: "hole", mask }));',
    replace:
      'region: "hole", mask }));\n      terms.set("hole", l1(tape, output, gt, { factor: mean, region: "valid", mask }));',
    why: "1 is valid",
    tests: ["loss"],
  },
  {
    name: "style term without 1/C^2",
    file: "src/pconv/loss.ts",
    find: "{ factor: 1 / (n * c * c) }",
    replace: "{ factor: 1 / n }",
    why: "every L1 is a mean",
    tests: ["loss"],
  },
  {
    name: "composite not used in the feature terms",
    file: "src/pconv/loss.ts",
    find: "forVgg(comp)",
    replace: "forVgg(output)",
    why: "eq. 4 and 5 look at both images",
    tests: ["loss"],
  },
  {
    name: "total variation over the whole image",
    file: "src/pconv/loss.ts",
    find: 'region: "inside",',
    replace: 'region: "all",',
    why: "eq. 6: the hole and its rim",
    tests: ["loss"],
  },
  {
    name: "composite takes the output where the picture is known",
    file: "src/kernels/composite.ts",
    find: "select(vec4f(), m * gt[id], m != 0.0) + select(vec4f(), (1.0 - m) * out[id], m != 1.0)",
    replace: "select(vec4f(), m * out[id], m != 0.0) + select(vec4f(), (1.0 - m) * gt[id], m != 1.0)",
    why: "known pixels are the truth's",
    tests: ["loss"],
  },
  {
    name: "VGG gets unnormalised images",
    file: "src/pconv/loss.ts",
    find: "this.normalized ? x : normalizeImageNet(tape, x)",
    replace: "x",
    why: "its features are those of normalised images",
    tests: ["loss"],
  },
];

export const MUTANTS = [
  ...kernels,
  ...conv,
  ...layers,
  ...winograd,
  ...memory,
  ...autograd,
  ...networks,
  ...loss,
  ...training,
  ...parallel,
];
