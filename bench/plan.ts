/** All cases of `pconv-bench`, and the choice among them by its options. */
import { UserError } from "../src/errors.js";
import { CONV_BACKENDS, type ConvBackend } from "../src/kernels/conv/backend.js";
import type { ConvShape } from "../src/kernels/shape.js";
import { makeConvolution } from "./convolution.js";
import { ENGINE_KERNELS } from "./engine.js";
import { FUSED_OPS } from "./fusedKernels.js";
import { LAYER_OPS } from "./layerKernels.js";
import { LOSS_OPS } from "./lossKernels.js";
import { makeOp } from "./op.js";
import { makeBatchNorm, makeMaskUpdate } from "./pixelKernels.js";
import { SCALE_OPS } from "./scaleKernels.js";
import { describeShape, REAL_SHAPES, SHAPES, type UNetLayer, unetLayers } from "./shapes.js";
import { makeUpConvolution, UP_OPS } from "./upKernels.js";
import { type Case, type Pass, PASSES } from "./workload.js";

export const CONVOLUTIONS: readonly { readonly kernel: string; readonly pass: Pass }[] = [
  { kernel: "pconvForward", pass: "forward" },
  { kernel: "pconvBackwardInput", pass: "dx" },
  { kernel: "pconvBackwardWeight", pass: "dw" },
];

/** What a convolution may dispatch. */
const CONV_KERNELS = [
  ...ENGINE_KERNELS,
  ...["maskUpdate", "maskUpdateUp", "pixelScale", "transposeWeight", "sumPartials", "upWeight", "upWeightBackward"],
];

const SOME_HOLES = 0.25;
/** Plain, then partial at these hole shares. */
const FEW_SHARES = [null, SOME_HOLES] as const;
const ALL_SHARES = [null, 0, SOME_HOLES, 0.5] as const;
export const LAYER_SIZES = [256, 512];

/** The decoder's convolution over its two sources. */
const UP_KERNEL = "pconvUp";
const OPS = [...LAYER_OPS, ...UP_OPS, ...FUSED_OPS, ...LOSS_OPS, ...SCALE_OPS];
export const KERNELS = [
  ...new Set([
    ...CONVOLUTIONS.map((c) => c.kernel),
    UP_KERNEL,
    "maskUpdate",
    "batchNorm",
    ...OPS.map((op) => op.kernel),
  ]),
];

const UNET = new Map(
  LAYER_SIZES.flatMap((size) => unetLayers(size).map((l): [string, UNetLayer] => [`${l.name}@${size}`, l])),
);

/** The U-Net's layers by names such as `enc_3@256`. */
export const LAYERS: ReadonlyMap<string, ConvShape> = new Map([...UNET].map(([name, { layer }]) => [name, layer]));

/** Any shape that has a name. */
const shapeOf = (name: string): ConvShape => SHAPES.get(name) ?? LAYERS.get(name)!;

/** Channels of a shape that come from the level below: a decoder layer's own; of others that could be one, two thirds. */
function lowChannelsOf(name: string): number {
  const own = UNET.get(name)?.lowChannels;
  if (own !== undefined) return own;
  const { h, w, c, kernel, stride } = shapeOf(name);
  const possible = kernel[0] === 3 && kernel[1] === 3 && stride[0] === 1 && stride[1] === 1 && (h % 2) + (w % 2) === 0;
  return possible ? 4 * Math.round(c / 6) : 0;
}

/** In words, for those that the header explains. */
export const explain = (name: string): string => `${name} ${describeShape(shapeOf(name))}`;

/** Cases that are measured in turns, so that their ratios mean something; most often one. */
export type Group = readonly Case[];

function convolutions(
  shape: string,
  shares: readonly (number | null)[],
  choice: Choice,
  { kernel, pass }: (typeof CONVOLUTIONS)[number],
): Group {
  const layer = shapeOf(shape);
  const { backend } = choice;
  return shares.map((holes) => ({
    kernel,
    covers: CONV_KERNELS,
    shape,
    layer,
    pass,
    holes,
    half: backend === "matrix",
    make: (gpu) => makeConvolution(gpu, pass, { layer, holes, backend }),
  }));
}

/** The decoder's convolution at a shape that it can have; it is always partial. */
function upConvolutions(shape: string, shares: readonly (number | null)[]): Group[] {
  const [layer, lowChannels] = [shapeOf(shape), lowChannelsOf(shape)];
  if (lowChannels === 0) return [];
  return PASSES.map((pass): Group =>
    shares
      .filter((holes) => holes !== null)
      .map((holes) => ({
        kernel: UP_KERNEL,
        covers: CONV_KERNELS,
        shape,
        layer,
        pass,
        holes,
        make: (gpu) => makeUpConvolution(gpu, pass, { layer, lowChannels, holes }),
      })),
  );
}

const NORM_KERNELS = {
  forward: ["batchNormChunks", "batchNormStats", "batchNormForward"],
  dx: ["batchNormSums", "batchNormBackward", "sumPartials"],
};

/** Everything that is no convolution, at one shape. */
function others(shape: string): Case[] {
  const layer = shapeOf(shape);
  const norms: Case[] = FEW_SHARES.flatMap((holes) =>
    (["forward", "dx"] as const).map((pass): Case => ({
      kernel: "batchNorm",
      covers: NORM_KERNELS[pass],
      shape,
      layer,
      pass,
      holes,
      make: (gpu) => makeBatchNorm(gpu, layer, holes, pass),
    })),
  );
  const mask: Case = {
    kernel: "maskUpdate",
    covers: ["maskUpdate"],
    shape,
    layer,
    pass: "forward",
    holes: SOME_HOLES,
    make: (gpu) => makeMaskUpdate(gpu, layer, SOME_HOLES),
  };
  const ops = OPS.map((op): Case => ({ ...op, shape, layer, holes: null, make: (gpu) => makeOp(gpu, op, layer) }));
  return [mask, ...ops, ...norms];
}

/** What the user asked for; an absent field means all. */
export interface Choice {
  readonly kernel?: string | undefined;
  readonly shape?: string | undefined;
  readonly pass?: string | undefined;
  readonly backend?: ConvBackend | undefined;
  /** Every layer of the U-Net, instead of the shapes. */
  readonly layers?: boolean | undefined;
  /** All hole shares, convolutions only. */
  readonly holes?: boolean | undefined;
}

function known(option: string, value: string | undefined, names: readonly string[]): void {
  if (value === undefined || names.includes(value)) return;
  throw new UserError(`--${option}`, `expected one of ${names.join(", ")}, got ${value}`, `pass one of these names`);
}

/**
 * The cases that a choice selects, shape by shape, convolutions last. Without a named kernel or shape the kernels that are no
 * convolutions run at shape A only.
 * @throws {UserError} a name that is not known, or a combination that selects nothing
 */
export function choose(choice: Choice): Group[] {
  known("kernel", choice.kernel, KERNELS);
  known("shape", choice.shape, [...SHAPES.keys(), ...LAYERS.keys()]);
  known("pass", choice.pass, PASSES);
  known("backend", choice.backend, CONV_BACKENDS);
  const named = choice.shape === undefined ? null : [choice.shape];
  const shapes = named ?? (choice.layers ? [...LAYERS.keys()] : REAL_SHAPES);
  const shares = choice.holes ? ALL_SHARES : FEW_SHARES;
  const special = choice.layers === true || choice.holes === true || choice.backend !== undefined;
  const groups = shapes.flatMap((shape): Group[] => {
    const all = !special && (named !== null || choice.kernel !== undefined || shape === REAL_SHAPES[0]);
    const single = all ? others(shape).map((c): Group => [c]) : [];
    const up = choice.backend === undefined ? upConvolutions(shape, shares) : [];
    // A decoder layer's two sources are never joined: `up` computes it, unless a backend of the joined form is asked for.
    const twoSources = (UNET.get(shape)?.lowChannels ?? 0) > 0 && choice.backend === undefined;
    return [...single, ...(twoSources ? [] : CONVOLUTIONS.map((c) => convolutions(shape, shares, choice, c))), ...up];
  });
  const wanted = ({ kernel, pass }: Case) =>
    (choice.kernel === undefined || choice.kernel === kernel) && (choice.pass === undefined || choice.pass === pass);
  const chosen = groups.filter((group) => wanted(group[0]));
  if (chosen.length > 0) return chosen;
  const ofKernel = groups.filter(([c]) => choice.kernel === undefined || choice.kernel === c.kernel);
  const passes = [...new Set(ofKernel.map(([c]) => c.pass))].join(", ");
  throw new UserError(
    "pconv-bench",
    `expected a combination that exists, got --kernel ${choice.kernel}${choice.pass === undefined ? "" : ` --pass ${choice.pass}`}`,
    passes ? `its passes: ${passes}` : "--layers, --holes and --backend are for the convolutions",
  );
}
