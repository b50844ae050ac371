/**
 * The inpainting loss of Liu et al. 2018, sec. 3.3, and the forms of it that other implementations train with.
 *
 *   L = valid + 6 hole + 0.05 perceptual + 120 (styleOut + styleComp) + 0.1 tv
 *   valid       |M (out - gt)|_1 / N                        N = N_batch C H W; all L1 terms are means (authors' erratum)
 *   hole        |(1-M) (out - gt)|_1 / N
 *   perceptual  sum_p mean|F_p(out) - F_p(gt)| + mean|F_p(comp) - F_p(gt)|          p = pool1, pool2, pool3 of VGG
 *   style*      sum_p mean|G_p(.) - G_p(gt)| over C x C,    G = F^T F / (C H W)
 *   tv          pairs inside the dilated hole: |comp(i,j+1) - comp(i,j)| + |comp(i+1,j) - comp(i,j)|, / N
 *
 * Variants: `paper` as above; `pytorch` (naoto0804): tv is the mean over the whole composite; `keras` (PConv-Keras): tv of
 * (region x comp), false edges included; `nvidia` (NVIDIA/partialconv models/loss.py): 5 L1 + 0.05 perceptual + 120 style of
 * the output alone, on ImageNet-normalised images, no mask.
 */
import { normalizeImageNet } from "../autograd/ops/channelAffine.js";
import { composite } from "../autograd/ops/composite.js";
import { gram } from "../autograd/ops/gram.js";
import { l1 } from "../autograd/ops/l1.js";
import { dilateHole, totalVariation } from "../autograd/ops/totalVariation.js";
import { weightedSum } from "../autograd/ops/weightedSum.js";
import type { Tape } from "../autograd/tape.js";
import type { Mask, Tensor } from "../autograd/tensor.js";
import { UserError } from "../errors.js";
import type { Vgg, VggFeatures } from "./vgg.js";

/** Whose form of the loss; see {@link InpaintingLoss}. */
export type LossVariant = "paper" | "pytorch" | "keras" | "nvidia";

/** Names of the terms; `nvidia` has its one L1 term under `valid`, and no hole, styleComp and tv. */
export const LOSS_TERMS = ["valid", "hole", "perceptual", "styleOut", "styleComp", "tv"] as const;
/** One of {@link LOSS_TERMS}. */
export type LossTerm = (typeof LOSS_TERMS)[number];

/** Factors of the terms (Liu et al. 2018, eq. 7). */
export const LOSS_WEIGHTS: Readonly<Record<LossTerm, number>> = {
  valid: 1,
  hole: 6,
  perceptual: 0.05,
  styleOut: 120,
  styleComp: 120,
  tv: 0.1,
};

/** Options of {@link InpaintingLoss}. */
export interface InpaintingLossConfig {
  readonly variant?: LossVariant;
  /** The loss network; without it the perceptual and style terms are left out. */
  readonly vgg?: Vgg | null;
  /** Factors that differ from {@link LOSS_WEIGHTS}. */
  readonly weights?: Partial<Record<LossTerm, number>>;
  /** The images are normalised by ImageNet's mean and deviation already: VGG gets them as they are. */
  readonly normalized?: boolean;
}

/** What {@link InpaintingLoss.forward} records. */
export interface InpaintingLossResult {
  readonly total: Tensor;
  /** Unweighted terms, scalars; those that the configuration leaves out are absent. */
  readonly terms: ReadonlyMap<LossTerm, Tensor>;
  /** The composite image; absent with `nvidia`. */
  readonly comp: Tensor | null;
}

const POOLS = ["pool1", "pool2", "pool3"] as const;
const one = [1, 1, 1];

/** The loss; `forward` records it on a tape, `Tape.backward(total)` gives the gradient of the output. */
export class InpaintingLoss {
  readonly variant: LossVariant;
  private readonly vgg: Vgg | null;
  private readonly weights: Readonly<Record<LossTerm, number>>;
  private readonly normalized: boolean;

  /** @throws {UserError} for `nvidia` without VGG: its terms need it. */
  constructor(config: InpaintingLossConfig = {}) {
    this.variant = config.variant ?? "paper";
    this.vgg = config.vgg ?? null;
    const nvidia: Partial<Record<LossTerm, number>> = this.variant === "nvidia" ? { valid: 5 } : {};
    this.weights = { ...LOSS_WEIGHTS, ...nvidia, ...config.weights };
    this.normalized = config.normalized ?? false;
    if (this.variant === "nvidia" && !this.vgg) {
      throw new UserError(
        "InpaintingLoss",
        "expected VGG weights for the variant nvidia, got none",
        "pass vgg, or use the variant paper",
      );
    }
  }

  /**
   * Records the loss and its terms.
   * @param output the network's image, [N,H,W,3]
   * @param gt the true image, [N,H,W,3]; a constant
   * @param mask [N or 1,H,W], 1 = valid
   */
  forward(tape: Tape, output: Tensor, gt: Tensor, mask: Mask): InpaintingLossResult {
    mask.checkSingle("InpaintingLoss", output.shape);
    const terms = new Map<LossTerm, Tensor>();
    const { n, h, w, c } = output.shape;
    const mean = 1 / (n * h * w * c);
    const forVgg = (x: Tensor) => (this.normalized ? x : normalizeImageNet(tape, x));
    let comp: Tensor | null = null;

    if (this.variant === "nvidia") {
      const [x, y] = [forVgg(output), forVgg(gt)];
      terms.set("valid", l1(tape, x, y, { factor: mean }));
      this.featureTerms(tape, terms, y, x, null);
    } else {
      comp = composite(tape, gt, output, mask);
      terms.set("valid", l1(tape, output, gt, { factor: mean, region: "valid", mask }));
      terms.set("hole", l1(tape, output, gt, { factor: mean, region: "hole", mask }));
      if (this.vgg) {
        this.featureTerms(tape, terms, forVgg(gt), forVgg(output), { image: forVgg(comp), mask });
      }
      terms.set("tv", this.tvTerm(tape, comp, mask));
    }
    const names = [...terms.keys()];
    const total = weightedSum(tape, names.map((t) => terms.get(t)!), names.map((t) => this.weights[t])); // prettier-ignore
    for (const t of [total, ...terms.values()]) tape.keep(t);
    return { total, terms, comp };
  }

  /** The perceptual term over output and composite and one style term for each, against the truth's features. */
  private featureTerms(
    tape: Tape,
    terms: Map<LossTerm, Tensor>,
    truth: Tensor,
    output: Tensor,
    composite: { readonly image: Tensor; readonly mask: Mask } | null,
  ): void {
    const { truth: target, images, composite: full } = this.vgg!.compare(tape, truth, [output], composite);
    const targetGrams = POOLS.map((p) => gram(tape, target[p]));
    const perceptual: Tensor[] = [];
    const style = (features: VggFeatures) => {
      const distances = POOLS.map((p, i) => {
        const { n, h, w, c } = features[p].shape;
        perceptual.push(l1(tape, features[p], target[p], { factor: 1 / (n * h * w * c) }));
        return l1(tape, gram(tape, features[p]), targetGrams[i], { factor: 1 / (n * c * c) });
      });
      return weightedSum(tape, distances, one);
    };
    const styleOut = style(images[0]);
    const styleComp = full && style(full);
    terms.set("perceptual", weightedSum(tape, perceptual, perceptual.map(() => 1))); // prettier-ignore
    terms.set("styleOut", styleOut);
    if (styleComp) terms.set("styleComp", styleComp);
  }

  private tvTerm(tape: Tape, comp: Tensor, mask: Mask): Tensor {
    const { n, h, w, c } = comp.shape;
    const wholeX = 1 / (n * c * h * Math.max(1, w - 1));
    const wholeY = 1 / (n * c * Math.max(1, h - 1) * w);
    switch (this.variant) {
      case "pytorch":
        return totalVariation(tape, comp, { region: "all", factorX: wholeX, factorY: wholeY });
      case "keras":
        return totalVariation(tape, comp, {
          region: "product",
          mask: dilateHole(tape, mask),
          factorX: wholeX,
          factorY: wholeY,
        });
      default: {
        const factor = 1 / (n * c * h * w);
        return totalVariation(tape, comp, {
          region: "inside",
          mask: dilateHole(tape, mask),
          factorX: factor,
          factorY: factor,
        });
      }
    }
  }
}
