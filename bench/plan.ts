/** All cases of `pconv-bench`, and the choice among them by its options. */
import { UserError } from "../src/errors.js";
import { makeBackwardInput, makeBackwardWeight, makeForward } from "./convolution.js";
import { makeBatchNorm, makeMaskUpdate } from "./pixelKernels.js";
import { SHAPES } from "./shapes.js";
import { type Case, PASSES, VARIANTS } from "./workload.js";

const CONVOLUTIONS = [
  { kernel: "pconvForward", pass: "forward", make: makeForward },
  { kernel: "pconvBackwardInput", pass: "dx", make: makeBackwardInput },
  { kernel: "pconvBackwardWeight", pass: "dw", make: makeBackwardWeight },
] as const;

/** Plain, then partial at these hole shares. */
const HOLES = [null, 0, 0.25, 0.5] as const;
const SOME_HOLES = 0.25;

export const KERNELS = [...CONVOLUTIONS.map((c) => c.kernel), "maskUpdate", "batchNorm"];

function allCases(): Case[] {
  return [...SHAPES].flatMap(([shape, layer]): Case[] => [
    ...CONVOLUTIONS.flatMap(({ kernel, pass, make }) =>
      VARIANTS.flatMap((variant) =>
        HOLES.map((holes): Case => ({
          kernel,
          shape,
          layer,
          pass,
          variant,
          holes,
          make: (gpu) => make(gpu, { layer, holes, variant }),
        })),
      ),
    ),
    {
      kernel: "maskUpdate",
      shape,
      layer,
      pass: "forward",
      variant: null,
      holes: SOME_HOLES,
      make: (gpu) => makeMaskUpdate(gpu, layer, SOME_HOLES),
    },
    ...([null, SOME_HOLES] as const).flatMap((holes) =>
      (["forward", "dx"] as const).map((pass): Case => ({
        kernel: "batchNorm",
        shape,
        layer,
        pass,
        variant: null,
        holes,
        make: (gpu) => makeBatchNorm(gpu, layer, holes, pass),
      })),
    ),
  ]);
}

/** What the user asked for; an absent field means all, but of the variants only the fast one. */
export interface Choice {
  readonly kernel?: string | undefined;
  readonly shape?: string | undefined;
  readonly pass?: string | undefined;
  readonly variant?: string | undefined;
}

function known(option: string, value: string | undefined, names: readonly string[]): void {
  if (value === undefined || names.includes(value)) return;
  throw new UserError(`--${option}`, `expected one of ${names.join(", ")}, got ${value}`, `pass one of these names`);
}

/**
 * The cases that a choice selects, shape by shape.
 * @throws {UserError} a name that is not known, or a combination that selects nothing
 */
export function choose(choice: Choice): Case[] {
  known("kernel", choice.kernel, KERNELS);
  known("shape", choice.shape, [...SHAPES.keys()]);
  known("pass", choice.pass, PASSES);
  known("variant", choice.variant, VARIANTS);
  const ofKernel = allCases().filter((c) => choice.kernel === undefined || c.kernel === choice.kernel);
  const chosen = ofKernel.filter(
    (c) =>
      (choice.shape === undefined || c.shape === choice.shape) &&
      (choice.pass === undefined || c.pass === choice.pass) &&
      (choice.variant === undefined ? c.variant === null || c.variant === "tile" : c.variant === choice.variant),
  );
  if (chosen.length > 0) return chosen;
  const has = (values: readonly (string | null)[]) => [...new Set(values)].filter((v) => v !== null).join(", ");
  const variants = has(ofKernel.map((c) => c.variant));
  throw new UserError(
    "pconv-bench",
    `expected a pass and variant of ${choice.kernel ?? "some kernel"}, got ${[choice.pass, choice.variant].filter(Boolean).join(" with ")}`,
    `its passes: ${has(ofKernel.map((c) => c.pass))}; ${variants ? `its variants: ${variants}` : "leave --variant out, it has only one"}`,
  );
}
