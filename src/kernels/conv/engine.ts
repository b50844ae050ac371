/**
 * The convolution engine: which algorithm computes a pass. Winograd's form where it pays, else the direct one; both multiply in
 * the backends of `backend.ts`.
 */
import type { Gpu } from "../../gpu/gpu.js";
import { ShapeError } from "../../errors.js";
import type { ConvShape } from "../shape.js";
import { type ConvBackend, gather, weightPass, type WeightPassBuffers } from "./backend.js";
import type { Direction, GatherBuffers, GatherOptions } from "./gather.js";
import { winogradApplies, winogradGather, winogradPays, winogradWeightPass } from "./winograd.js";

/** A way to compute a pass; the backends' names mean the direct form in that backend. */
export type ConvAlgorithm = ConvBackend | "direct" | "winograd";

/** @throws {ShapeError} when Winograd's form is asked for where there is none. */
function choose(s: ConvShape, algorithm: ConvAlgorithm | undefined): ConvAlgorithm {
  if (algorithm === "winograd" && !winogradApplies(s)) {
    throw new ShapeError(
      "winograd",
      `expected a 3x3 convolution of stride and dilation 1 and padding up to 2, got ${s.kernel.join("x")}, stride ${s.stride.join("x")}`,
      "use the direct form",
    );
  }
  return algorithm ?? (winogradPays(s) ? "winograd" : "direct");
}

/** Records a forward pass or input gradient with its epilogue. */
export function convolve(
  gpu: Gpu,
  s: ConvShape,
  direction: Direction,
  b: GatherBuffers,
  options: GatherOptions = {},
  algorithm?: ConvAlgorithm,
): void {
  const chosen = choose(s, algorithm);
  if (chosen !== "winograd") {
    gather(gpu, s, direction, b, options, chosen === "direct" ? undefined : chosen);
    return;
  }
  const products = (shape: ConvShape, buffers: GatherBuffers, o: GatherOptions) => {
    gather(gpu, shape, "forward", buffers, o);
  };
  winogradGather(gpu, products, s, direction, b, options);
}

/** Records a weight gradient. */
export function convolveWeight(gpu: Gpu, s: ConvShape, b: WeightPassBuffers, algorithm?: ConvAlgorithm): void {
  const chosen = choose(s, algorithm);
  if (chosen !== "winograd") {
    weightPass(gpu, s, b, {}, chosen === "direct" ? undefined : chosen);
    return;
  }
  winogradWeightPass(gpu, (shape, buffers) => weightPass(gpu, shape, buffers, { imagePerTap: true }), s, b);
}
