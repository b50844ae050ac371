/** Golden cases of single layers: partial convolution in three conventions, PCBActiv blocks, VGG features, Gram, Adam. */
import { leakyRelu, relu } from "../../src/autograd/ops/activation.js";
import { batchNorm } from "../../src/autograd/ops/batchNorm.js";
import { gram } from "../../src/autograd/ops/gram.js";
import { nchwToNhwc, nhwcToNchw } from "../../src/autograd/layout.js";
import { Tape } from "../../src/autograd/tape.js";
import type { Mask, Tensor } from "../../src/autograd/tensor.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import type { TensorEntry } from "../../src/io/tensorEntry.js";
import type { PConvConvention } from "../../src/kernels/maskUpdate.js";
import { PConv2d } from "../../src/nn/layers.js";
import { Parameter } from "../../src/nn/parameter.js";
import { Adam } from "../../src/optim/adam.js";
import { Vgg } from "../../src/pconv/vgg.js";
import type { Computed, GoldenCase, GoldenFolder } from "./manifest.js";

type Four = [number, number, number, number];
type Pair = [number, number];

/** Uploads an NCHW tensor. */
export function image(tape: Tape, entry: TensorEntry, name: string): Tensor {
  const [n, c, h, w] = entry.shape;
  return tape.upload({ n, h, w, c }, nchwToNhwc(entry.toFloat32(), entry.shape as Four), name);
}

/** Uploads an NCHW mask; every channel is a group of its own unless there is one. */
export function maskOf(tape: Tape, entry: TensorEntry): Mask {
  const [n, c, h, w] = entry.shape;
  const values = nchwToNhwc(entry.toFloat32(), entry.shape as Four);
  return tape.uploadMask({ n, h, w }, values, c === 1 ? null : Array<number>(c).fill(1));
}

/** Reads a tensor back as NCHW. */
export async function nchw(t: Tensor): Promise<Float32Array> {
  const { n, h, w, c } = t.shape;
  return nhwcToNchw(await t.values(), [n, c, h, w]);
}

/** A mask as the references return it: repeated over batch and channels to `shape` [N,C,P,Q]. */
export async function maskValues(gpu: Gpu, mask: Mask, shape: readonly number[]): Promise<Float32Array> {
  const [values] = await gpu.read(mask.storage);
  const [n, c, h, w] = shape;
  return Float32Array.from(
    { length: n * c * h * w },
    (_, i) => values[(Math.floor(i / (c * h * w)) % mask.n) * h * w + (i % (h * w))],
  );
}

/** One partial convolution, forward and backward. */
export async function partialConv(
  gpu: Gpu,
  folder: GoldenFolder,
  c: GoldenCase,
  convention: PConvConvention,
): Promise<Computed> {
  const tape = new Tape(gpu);
  const x = image(tape, await folder.get(c, "x"), "x");
  x.requiresGrad = true;
  const maskEntry = await folder.find(c, "mask");
  const weight = await folder.get(c, "weight");
  const bias = await folder.find(c, "bias");
  const layer = new PConv2d(gpu, {
    inChannels: weight.shape[1],
    outChannels: weight.shape[0],
    kernelSize: [weight.shape[2], weight.shape[3]],
    stride: c.params["stride"] as Pair,
    padding: c.params["padding"] as Pair,
    dilation: c.params["dilation"] as Pair,
    bias: bias !== undefined,
    convention,
    multiChannel: c.params["multi_channel"] !== false,
  });
  layer.weight.set(weight.toFloat32());
  if (bias) layer.bias!.set(bias.toFloat32());
  const { y, mask } = layer.forward(tape, x, maskEntry ? maskOf(tape, maskEntry) : null);
  const computed = new Map<string, ArrayLike<number>>();
  computed.set("out", await nchw(y));
  computed.set("mask_out", await maskValues(gpu, mask, c.tensors["mask_out"].shape));
  tape.backward(y, image(tape, await folder.get(c, "grad_out"), "dy"));
  computed.set("grad_x", await nchw(x.grad!));
  const gradient = async (p: Parameter) => p.toTorch((await gpu.read(p.grad!.storage))[0]);
  computed.set("grad_weight", await gradient(layer.weight));
  if (layer.bias) computed.set("grad_bias", await gradient(layer.bias));
  x.grad!.free();
  layer.free();
  tape.dispose();
  return computed;
}

/** Kernel, stride and padding of a PCBActiv sample such as `down-5` (stride 2) or `none-3`. */
function sampleGeometry(sample: unknown): { kernelSize: number; stride: number; padding: number } {
  const [, kind, size] = /^(down|none)-(\d+)$/.exec(String(sample)) ?? [];
  if (kind === undefined) throw new Error(`unknown sample ${String(sample)}`);
  const kernelSize = Number(size);
  return { kernelSize, stride: kind === "down" ? 2 : 1, padding: kernelSize >> 1 };
}

/** naoto0804's PCBActiv: partial convolution, batch norm over all pixels, activation; holes as the reference leaves them. */
export async function pcbActiv(gpu: Gpu, folder: GoldenFolder, c: GoldenCase): Promise<Computed> {
  const tape = new Tape(gpu);
  const before = await folder.all(c, "before.");
  const param = (name: string, trained = true) => {
    const entry = before.get(name);
    return entry ? new Parameter(gpu, entry.shape, name, entry.toFloat32(), trained) : null;
  };
  const conv = await folder.get(c, "before.conv.input_conv.weight");
  const layer = new PConv2d(gpu, {
    inChannels: conv.shape[1],
    outChannels: conv.shape[0],
    ...sampleGeometry(c.params["sample"]),
    bias: c.params["conv_bias"] === true,
    convention: "pytorch",
  });
  layer.weight.set(conv.toFloat32());
  layer.bias?.set(before.get("conv.input_conv.bias")!.toFloat32());
  const x = image(tape, await folder.get(c, "x"), "x");
  x.requiresGrad = true;
  const result = layer.forward(tape, x, maskOf(tape, await folder.get(c, "mask")));
  let { y } = result;
  const train = c.params["train"] === true;
  const [gamma, beta] = [param("bn.weight"), param("bn.bias")];
  const [runningMean, runningVar] = [param("bn.running_mean", false), param("bn.running_var", false)];
  if (c.params["bn"] === true) {
    y = batchNorm(
      tape,
      y,
      result.mask,
      { gamma: gamma!, beta: beta!, runningMean: runningMean!, runningVar: runningVar! },
      {
        eps: c.params["bn_eps"] as number,
        momentum: c.params["bn_momentum"] as number,
        mode: train ? "batch" : "fixed",
        statistics: "all",
        holes: "keep",
      },
    );
  }
  if (c.params["activ"] === "relu") y = relu(tape, y);
  if (c.params["activ"] === "leaky") y = leakyRelu(tape, y, c.params["leaky_slope"] as number);
  const computed = new Map<string, ArrayLike<number>>();
  computed.set("out", await nchw(y));
  computed.set("mask_out", await maskValues(gpu, result.mask, c.tensors["mask_out"].shape));
  tape.backward(y, image(tape, await folder.get(c, "grad_out"), "dy"));
  computed.set("grad_x", await nchw(x.grad!));
  const gradients = {
    "conv.input_conv.weight": layer.weight,
    "conv.input_conv.bias": layer.bias,
    "bn.weight": gamma,
    "bn.bias": beta,
  };
  for (const [name, p] of Object.entries(gradients)) {
    if (p?.grad) computed.set(`grad.${name}`, p.toTorch((await gpu.read(p.grad.storage))[0]));
  }
  if (runningMean && runningVar) {
    computed.set("after.bn.running_mean", await runningMean.values());
    computed.set("after.bn.running_var", await runningVar.values());
    computed.set("after.bn.num_batches_tracked", [
      before.get("bn.num_batches_tracked")!.toFloat64()[0] + Number(train),
    ]);
  }
  for (const p of [gamma, beta, runningMean, runningVar]) p?.free();
  x.grad!.free();
  layer.free();
  tape.dispose();
  return computed;
}

export async function vggFeatures(gpu: Gpu, folder: GoldenFolder, c: GoldenCase): Promise<Computed> {
  const tape = new Tape(gpu, { grad: false });
  const vgg = new Vgg(gpu, await folder.tensors(String(c.params["weights"])));
  const input = (await folder.find(c, "x_norm")) ?? (await folder.get(c, "x"));
  const features = vgg.forward(tape, image(tape, input, "x"));
  const computed = new Map<string, ArrayLike<number>>();
  for (const [name, t] of Object.entries(features) as [string, Tensor][]) computed.set(name, await nchw(t));
  vgg.free();
  tape.dispose();
  return computed;
}

export async function gramMatrix(gpu: Gpu, folder: GoldenFolder, c: GoldenCase): Promise<Computed> {
  const tape = new Tape(gpu, { grad: false });
  const g = gram(tape, image(tape, await folder.get(c, "feat"), "feat"));
  const computed = new Map([["gram", await g.values()]]);
  tape.dispose();
  return computed;
}

/** torch.optim.Adam, step by step, with the learning rate changed at step 5. */
export async function adamSteps(gpu: Gpu, folder: GoldenFolder, c: GoldenCase): Promise<Computed> {
  const start = await folder.get(c, "p0");
  const parameter = new Parameter(gpu, [start.toFloat32().length], "p", start.toFloat32());
  const { lr, betas, eps } = c.params as { lr: number; betas: Pair; eps: number };
  const optimizer = new Adam([["p", parameter]], { lr, betas, eps });
  const computed = new Map<string, ArrayLike<number>>();
  for (let t = 1; `g${t}` in c.tensors; t++) {
    const later = c.params["lr_from_step5"];
    if (t >= 5 && typeof later === "number") optimizer.lr = later;
    parameter.grad = new Parameter(gpu, [parameter.size], "g", (await folder.get(c, `g${t}`)).toFloat32());
    optimizer.step();
    computed.set(`p${t}`, await parameter.values());
    const state = await optimizer.stateDict();
    for (const key of ["m", "v"])
      computed.set(`${key}${t}`, Float32Array.from(state.get(`${key}.p`)!.values as Float32Array));
  }
  optimizer.free();
  parameter.free();
  return computed;
}
