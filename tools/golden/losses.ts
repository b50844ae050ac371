/** Golden cases of the loss in its named forms. */
import { Tape } from "../../src/autograd/tape.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { InpaintingLoss, type InpaintingLossResult, type LossTerm, type LossVariant } from "../../src/pconv/loss.js";
import { Vgg } from "../../src/pconv/vgg.js";
import { image, maskOf, nchw } from "./layers.js";
import type { Computed, GoldenCase, GoldenFolder } from "./manifest.js";

/** The manifest's name of a loss form is the end of the op. */
export const LOSS_OPS: Record<string, LossVariant> = {
  "loss.paper": "paper",
  "loss.paper_rawvgg": "paper",
  "loss.naoto": "pytorch",
  "loss.keras": "keras",
  "loss.nvidia": "nvidia",
};

/** The terms under the manifest's keys. naoto0804 adds both style terms up; NVIDIA reports weighted ones. */
export async function termValues(result: InpaintingLossResult): Promise<Map<string, ArrayLike<number>>> {
  const value = async (t: LossTerm) => (await result.terms.get(t)?.item()) ?? 0;
  const style = [await value("styleOut"), await value("styleComp")];
  const perceptual = await value("perceptual");
  return new Map<string, ArrayLike<number>>([
    ["term.valid", [await value("valid")]],
    ["term.hole", [await value("hole")]],
    ["term.prc", [perceptual]],
    ["term.style_out", [style[0]]],
    ["term.style_comp", [style[1]]],
    ["term.style", [style[0] + style[1]]],
    ["term.tv", [await value("tv")]],
    ["term.total", [await result.total.item()]],
    ["term.prc_weighted", [0.05 * perceptual]],
    ["term.style_weighted", [120 * style[0]]],
  ]);
}

/** Weights of the manifest under our names. */
function weightsOf(c: GoldenCase, variant: LossVariant): Partial<Record<LossTerm, number>> {
  const w = c.params["weights"] as Record<string, number> | undefined;
  if (!w || variant === "nvidia") return {};
  return {
    valid: w["valid"],
    hole: w["hole"],
    perceptual: w["prc"],
    styleOut: w["style"],
    styleComp: w["style"],
    tv: w["tv"],
  };
}

export async function loss(gpu: Gpu, folder: GoldenFolder, c: GoldenCase, variant: LossVariant): Promise<Computed> {
  const tape = new Tape(gpu);
  const shared = c.params["inputs_shared_from"];
  const from = typeof shared === "string" ? folder.case(shared) : c;
  const gt = image(tape, await folder.get(from, "gt"), "gt");
  const output = image(tape, await folder.get(from, "output"), "output");
  output.requiresGrad = true;
  const mask = maskOf(tape, await folder.get(from, "mask"));
  const vgg = new Vgg(gpu, await folder.tensors(String(c.params["vgg"])));
  const normalized = c.params["vgg_input"] === "as is";
  const result = new InpaintingLoss({ variant, vgg, normalized, weights: weightsOf(c, variant) }).forward(
    tape,
    output,
    gt,
    mask,
  );
  const computed = await termValues(result);
  tape.backward(result.total);
  computed.set("grad_output", await nchw(output.grad!));
  output.grad!.free();
  vgg.free();
  tape.dispose();
  return computed;
}
