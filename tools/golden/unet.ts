/** Golden cases of whole networks: training steps with gradients, running statistics and Adam state; evaluation. */
import { Tape } from "../../src/autograd/tape.js";
import { FormatError } from "../../src/errors.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import type { TensorEntry } from "../../src/io/tensorEntry.js";
import type { LoadableTensor } from "../../src/nn/module.js";
import { Adam } from "../../src/optim/adam.js";
import { InpaintingLoss, type LossVariant } from "../../src/pconv/loss.js";
import { PConvUNet, type UNetConfig } from "../../src/pconv/unet.js";
import { unetFromCheckpoint } from "../../src/pconv/unetWeights.js";
import { Vgg } from "../../src/pconv/vgg.js";
import { readWeightsFile } from "../../src/io/weightsFile.js";
import { image, maskOf, maskValues, nchw } from "./layers.js";
import { termValues } from "./losses.js";
import type { Computed, GoldenCase, GoldenFolder } from "./manifest.js";

/** PConv-Keras' layer names under ours: e1_kernel is enc_1.conv.weight, out_bias is head.bias. */
function ourName(name: string): string {
  return name
    .replace(/^out_/, "head.")
    .replace(/^e(\d+)_bn/, "enc_$1.bn")
    .replace(/^d(\d+)_bn/, "dec_$1.bn")
    .replace(/^e(\d+)_/, "enc_$1.conv.")
    .replace(/^d(\d+)_/, "dec_$1.conv.")
    .replace("kernel", "weight");
}

type Form = Pick<UNetConfig, "convention" | "concat" | "convBias" | "head" | "bnEps"> & { readonly loss: LossVariant };

/** Which implementation a case comes from decides layer, order, head and loss. */
function formOf(c: GoldenCase): Form {
  const norm = String(c.params["norm"]);
  if (c.reference.includes("PConv-Keras")) {
    const bnEps = (c.params["bn_eps"] as number | undefined) ?? 1e-3;
    return { convention: "keras", concat: "skip-up", convBias: "all", head: "sigmoid", bnEps, loss: "keras" };
  }
  const loss = "term.style_out" in c.tensors ? "paper" : "pytorch";
  const convention = norm.startsWith("NVIDIA") ? "paper" : "pytorch";
  return { convention, concat: "up-skip", convBias: "last", head: "none", bnEps: 1e-5, loss };
}

/** Channels are read off the encoder's weights. */
function channelsOf(init: ReadonlyMap<string, TensorEntry>): number[] {
  const channels: number[] = [];
  for (let i = 1; init.has(`enc_${i}.conv.weight`); i++) channels.push(init.get(`enc_${i}.conv.weight`)!.shape[0]);
  return channels;
}

/** Running statistics that a case leaves out start at 0 and 1. */
function withStatistics(state: ReadonlyMap<string, TensorEntry>): Map<string, LoadableTensor> {
  const full = new Map<string, LoadableTensor>(state);
  for (const [name, { shape }] of state) {
    const bn = /^(.*\.bn)\.weight$/.exec(name)?.[1];
    if (!bn) continue;
    const constant = (v: number) => ({ shape, toFloat32: () => new Float32Array(shape[0]).fill(v) });
    if (!full.has(`${bn}.running_mean`)) full.set(`${bn}.running_mean`, constant(0));
    if (!full.has(`${bn}.running_var`)) full.set(`${bn}.running_var`, constant(1));
  }
  return full;
}

async function renamed(folder: GoldenFolder, c: GoldenCase, prefix: string): Promise<Map<string, TensorEntry>> {
  return new Map([...(await folder.all(c, prefix))].map(([name, t]) => [ourName(name), t]));
}

/** The initial state of a case: its own `init.*`, or those of the case that `start` names. */
async function initOf(folder: GoldenFolder, c: GoldenCase): Promise<Map<string, TensorEntry>> {
  const other = /^(\S+) init/.exec(String(c.params["start"]))?.[1];
  return renamed(folder, other ? folder.case(other) : c, "init.");
}

/** Where a case's images come from: its own, or "X mask; gt = X gt" and "data of X" in words. */
async function dataOf(folder: GoldenFolder, c: GoldenCase) {
  const words = `${String(c.params["data"])}; ${String(c.params["start"])}`;
  const find = async (keys: string[], pattern: RegExp) => {
    for (const key of keys) if (key in c.tensors) return folder.get(c, key);
    const other = pattern.exec(words)?.[1];
    if (!other)
      throw new FormatError(
        c.id,
        `expected ${keys[0]} or a case that has it, got neither`,
        "the manifest is incomplete",
      );
    const from = folder.case(other);
    return folder.get(from, keys.find((k) => k in from.tensors) ?? keys[0]);
  };
  return {
    gt: await find(
      ["gt", "gt01"],
      /(?:gt = (\S+) gt|data of (\S+))/.test(words) ? /(?:gt = |data of )(\S+)/ : /(\S+) gt/,
    ),
    mask: await find(["mask"], /data of (\S+)/.test(words) ? /data of (\S+)/ : /(\S+) mask;/),
  };
}

interface Run {
  readonly model: PConvUNet;
  readonly optimizer: Adam;
}

/** Networks in the middle of a sequence of steps, by the id of the last case that ran. */
export type Runs = Map<string, Run>;

async function start(gpu: Gpu, folder: GoldenFolder, c: GoldenCase): Promise<Run> {
  const { convention, concat, convBias, head, bnEps } = formOf(c);
  const init = await initOf(folder, c);
  const channels = channelsOf(init);
  const model = new PConvUNet(gpu, {
    channels,
    convention,
    concat,
    convBias,
    head,
    bnEps,
    bnStatistics: "all",
    range: "imagenet",
  });
  model.loadStateDict(withStatistics(init), c.id);
  const adam = c.params["adam"] as { betas: [number, number]; eps: number } | undefined;
  const lr = (c.params["lr"] as number | undefined) ?? 0;
  return { model, optimizer: new Adam(model.namedParameters(), { lr, betas: adam?.betas, eps: adam?.eps }) };
}

/**
 * Loads what the references had after the case before, where it is stored ("teacher forcing", which the tolerances assume).
 * Adam's moments follow from the stored gradients. Returns whether everything was there; the manifest allows 20 times the
 * tolerance for a run on its own state.
 */
async function force(
  folder: GoldenFolder,
  run: Run,
  before: readonly GoldenCase[],
  last: GoldenCase,
): Promise<boolean> {
  const after = await renamed(folder, last, "after.");
  if (![...after.keys()].some((name) => name.endsWith("conv.weight"))) return false;
  run.model.loadStateDict(after, last.id);
  const gradients = await Promise.all(before.map((c) => renamed(folder, c, "grad.")));
  if (gradients.some((g) => g.size === 0)) return false;
  const { betas } = last.params["adam"] as { betas: [number, number] };
  const state = new Map<string, LoadableTensor>();
  for (const [name, p] of run.model.namedParameters()) {
    const m = new Float64Array(p.size);
    const v = new Float64Array(p.size);
    for (const g of gradients) {
      g.get(name)!
        .toFloat64()
        .forEach((x, i) => {
          m[i] = betas[0] * m[i] + (1 - betas[0]) * x;
          v[i] = betas[1] * v[i] + (1 - betas[1]) * x * x;
        });
    }
    for (const [key, values] of [
      ["m", m],
      ["v", v],
    ] as const) {
      state.set(`${key}.${name}`, { shape: p.torchShape, toFloat32: () => Float32Array.from(values) });
    }
  }
  state.set("steps", { shape: [], toFloat32: () => Float32Array.of(before.length) });
  run.optimizer.loadStateDict(state, last.id);
  return true;
}

/** A training step (with Adam) or a loss with its gradients (without). */
export async function trainStep(gpu: Gpu, folder: GoldenFolder, c: GoldenCase, runs: Runs) {
  const previous = /after\.\* of (\S+),/.exec(String(c.params["start"]))?.[1];
  let slack = 1;
  let run: Run;
  if (previous) {
    const last = folder.case(previous);
    run = runs.get(previous) ?? (await start(gpu, folder, folder.case(previous.replace(/\d+$/, "1"))));
    const chain: GoldenCase[] = [];
    for (
      let id: string | undefined = previous;
      id;
      id = /after\.\* of (\S+),/.exec(String(folder.case(id).params["start"]))?.[1]
    ) {
      chain.unshift(folder.case(id));
    }
    if (!(await force(folder, run, chain, last))) slack = 20;
  } else run = await start(gpu, folder, c);

  const { model, optimizer } = run;
  const mode = String(c.params["mode"]);
  model.train();
  model.freezeBatchNorm(mode.startsWith("finetune") ? "encoder" : "none");
  const tape = new Tape(gpu);
  const { gt, mask } = await dataOf(folder, c);
  const truth = image(tape, gt, "gt");
  const valid = maskOf(tape, mask);
  const vgg = new Vgg(gpu, await folder.tensors((c.params["vgg"] as string | undefined) ?? "vgg_small.safetensors"));
  const form = formOf(c);
  const normalized = (c.params["vgg_input"] ?? "as is") === "as is";
  const { output, mask: maskOut } = model.forward(tape, truth, valid);
  tape.keep(output);
  const result = new InpaintingLoss({ variant: form.loss, vgg, normalized }).forward(tape, output, truth, valid);
  const computed = await termValues(result);
  computed.set("out", await nchw(output));
  if ("mask_out" in c.tensors) computed.set("mask_out", await maskValues(gpu, maskOut, c.tensors["mask_out"].shape));
  tape.backward(result.total);
  // Case keys are the references' names: match ours to them.
  const keysOf = (prefix: string) => Object.keys(c.tensors).filter((k) => k.startsWith(prefix));
  const parameters = new Map(model.namedParameters());
  for (const key of keysOf("grad.")) {
    const p = parameters.get(ourName(key.slice("grad.".length)));
    if (p?.grad) computed.set(key, p.toTorch((await gpu.read(p.grad.storage))[0]).slice());
  }
  if (typeof c.params["lr"] === "number") {
    optimizer.lr = c.params["lr"];
    optimizer.step();
    const moments = await optimizer.stateDict();
    for (const [prefix, ours] of [
      ["adam_m.", "m."],
      ["adam_v.", "v."],
    ] as const) {
      for (const key of keysOf(prefix))
        computed.set(
          key,
          Float32Array.from(moments.get(ours + ourName(key.slice(prefix.length)))!.values as Float32Array),
        );
    }
  } else optimizer.zeroGrad();
  const state = await model.stateDict();
  for (const key of keysOf("after.")) {
    const t = state.get(ourName(key.slice("after.".length)));
    if (t) computed.set(key, Float64Array.from(t.values as Iterable<number | bigint>, Number));
  }
  tape.dispose();
  vgg.free();
  runs.set(c.id, run);
  return { computed: computed as Computed, slack };
}

/** Output in evaluation mode, from a sequence's end or from a checkpoint of the PyTorch port. */
export async function evaluate(gpu: Gpu, folder: GoldenFolder, c: GoldenCase, runs: Runs): Promise<Computed> {
  const startText = String(c.params["start"]);
  const after = /state after (\S+),/.exec(startText)?.[1];
  let model: PConvUNet;
  if (after) {
    const last = folder.case(after);
    const first = folder.case(after.replace(/\d+$/, "1"));
    const run = runs.get(after) ?? (await start(gpu, folder, first));
    model = run.model;
    model.loadStateDict(await renamed(folder, last, "after."), c.id);
  } else {
    model = unetFromCheckpoint(gpu, await readWeightsFile(folder.path(startText)), startText);
  }
  model.eval();
  const tape = new Tape(gpu, { grad: false });
  const { gt, mask } = await dataOf(folder, c);
  const { output } = model.forward(tape, image(tape, gt, "gt"), maskOf(tape, mask));
  const computed = new Map([["out", await nchw(output)]]);
  tape.dispose();
  return computed;
}
