/**
 * The convolution engine: which algorithm computes a pass, and over which windows of its tensors. Winograd's forms where they pay,
 * else the direct one; both multiply in the backends of `backend.ts`.
 */
import type { Gpu } from "../../gpu/gpu.js";
import type { Storage } from "../../gpu/pool.js";
import { ShapeError } from "../../errors.js";
import { type ConvShape, vec4s } from "../shape.js";
import { slabMask, slabPart } from "../slabs.js";
import { sumOfParts } from "../weightedSum.js";
import { type ConvBackend, gather, skipsEachPixel, weightPass, type WeightPassBuffers } from "./backend.js";
import { type Direction, type GatherBuffers, gatherFlags, type GatherOptions } from "./gather.js";
import { counted, plainFlops } from "./flopCounter.js";
import { winogradApplies, winogradGather, winogradTile, winogradWeightPass } from "./winograd.js";
import { WINOGRAD_FORMS, type WinogradTile } from "./winogradForms.js";
import { phasedWindow, polyphaseGather, polyphasePays, polyphaseShape, polyphaseWeightPass } from "./polyphase.js";
import { convTensors, convWindows, type ConvWindow } from "./windows.js";

/** A way to compute a pass; the backends' names mean the direct form in that backend. */
export type ConvAlgorithm = ConvBackend | "direct" | "winograd2x2" | "winograd4x4";

/**
 * What the caller or the shape decides: the tile of Winograd's form, and the convolution in that form (over phases where the stride is 2),
 * or the direct form, in a backend of the caller's if that was named.
 */
type Chosen =
  | { readonly tile: WinogradTile; readonly phases: ConvShape | null }
  | { readonly tile: null; readonly backend: ConvBackend | undefined };

/**
 * @param phased whether the pass could go over phases: whole images, and no epilogue on the side that has them
 * @throws {ShapeError} when Winograd's form is asked for where there is none.
 */
function choose(gpu: Gpu, s: ConvShape, half: boolean, phased: boolean, algorithm: ConvAlgorithm | undefined): Chosen {
  const phases = phased ? polyphaseShape(s) : null;
  if (algorithm === undefined) {
    const bindable = gpu.limits.maxStorageBufferBindingSize;
    // Factors of half precision have no F(4x4).
    if (phases && !half && polyphasePays(s, phases, bindable)) return { tile: 4, phases };
    const tile = winogradTile(s, half, bindable);
    return tile === null ? { tile, backend: undefined } : { tile, phases: null };
  }
  if (algorithm === "direct") return { tile: null, backend: undefined };
  if (algorithm !== "winograd2x2" && algorithm !== "winograd4x4") return { tile: null, backend: algorithm };
  if (!winogradApplies(s) && !phases) {
    throw new ShapeError(
      algorithm,
      `expected a convolution of 3x3 and stride 1, or 5x5 or 4x4 and stride 2, got ${s.kernel.join("x")}, stride ${s.stride.join("x")}`,
      "use the direct form",
    );
  }
  return { tile: algorithm === "winograd2x2" ? 2 : 4, phases };
}

/** What the direct form would take for each operation that the chosen one executes. */
function directShare(s: ConvShape, chosen: Chosen): number {
  if (!chosen.tile) return 1;
  const taps = chosen.phases ? (s.kernel[0] * s.kernel[1]) / 36 : 1;
  return taps * WINOGRAD_FORMS[chosen.tile].saves;
}

/** Tensors of half precision ask for products of it: rounding the factors loses little more. */
const halfProducts = (...tensors: readonly Storage[]): boolean => tensors.some((t) => t.half);

const wholeImages = (windows: readonly ConvWindow[]): boolean => windows.every(({ s }) => s.output === undefined);

/** Records a forward pass or input gradient with its epilogue. */
export function convolve(
  gpu: Gpu,
  s: ConvShape,
  direction: Direction,
  b: GatherBuffers,
  options: GatherOptions = {},
  algorithm?: ConvAlgorithm,
): void {
  const o = { ...options, half: options.half ?? halfProducts(b.src, b.dst) };
  const bare = gatherFlags({ ...b, live: undefined }, options) === 0;
  const windows = convWindows(gpu, s, direction);
  const chosen = choose(gpu, s, o.half, wholeImages(windows) && (direction === "forward" || bare), algorithm);
  const { input, output } = convTensors(s);
  const [read, made] = direction === "forward" ? [input, output] : [output, input];
  const inWindow = (window: ConvWindow) => {
    const [from, to] = direction === "forward" ? [window.input, window.output] : [window.output, window.input];
    const ofMask = (mask: Storage, n: number) => slabMask(gpu, { mask, n }, made, to);
    const buffers = {
      ...b,
      src: slabPart(gpu, b.src, read, from, read.pixelBytes),
      dst: slabPart(gpu, b.dst, made, to, made.pixelBytes),
      base: b.base && slabPart(gpu, b.base, made, to, made.pixelBytes),
      live: b.live && ofMask(b.live.mask, b.live.n),
      scale: b.scale && {
        scale: ofMask(b.scale.scale, b.scale.n).mask,
        biasScale: ofMask(b.scale.biasScale, b.scale.n).mask,
        n: ofMask(b.scale.scale, b.scale.n).n,
      },
    };
    const { tile } = chosen;
    if (tile) {
      const products = (shape: ConvShape, v: GatherBuffers, own: GatherOptions) =>
        gather(gpu, shape, "forward", v, own);
      const phases = chosen.phases && { ...chosen.phases, n: window.s.n };
      const form = { tile, phased: phases ? phasedWindow(s) : undefined };
      const run = (shape: ConvShape, v: GatherBuffers) => winogradGather(gpu, form, products, shape, direction, v, o);
      if (phases) polyphaseGather(gpu, window.s, direction, buffers, (v) => run(phases, v));
      else run(window.s, buffers);
    } else {
      gather(gpu, window.s, direction, buffers, o, chosen.backend);
    }
  };
  const run = () => windows.forEach(inWindow);
  counted(
    gpu,
    direction === "forward" ? "pconvForward" : "pconvBackwardInput",
    plainFlops(s),
    run,
    directShare(s, chosen),
  );
}

/** Records a weight gradient. */
export function convolveWeight(gpu: Gpu, s: ConvShape, b: WeightPassBuffers, algorithm?: ConvAlgorithm): void {
  const half = halfProducts(b.x, b.dy);
  const windows = convWindows(gpu, s, "forward");
  const chosen = choose(gpu, s, half, wholeImages(windows), algorithm);
  const { input, output } = convTensors(s);
  const inWindow = (window: ConvWindow, dw: Storage) => {
    const buffers = {
      x: slabPart(gpu, b.x, input, window.input, input.pixelBytes),
      dy: slabPart(gpu, b.dy, output, window.output, output.pixelBytes),
      live: b.live && slabMask(gpu, b.live, output, window.output),
      dw,
    };
    const { tile } = chosen;
    if (tile) {
      const own = { imagePerTap: true, half };
      const products = {
        record: (shape: ConvShape, v: WeightPassBuffers) => weightPass(gpu, shape, v, own),
        skipsEachPixel: (shape: ConvShape) => skipsEachPixel(gpu, shape, own),
      };
      const phases = chosen.phases && { ...chosen.phases, n: window.s.n };
      const form = { tile, phased: phases ? phasedWindow(s) : undefined };
      const run = (shape: ConvShape, v: WeightPassBuffers) => winogradWeightPass(gpu, form, products, shape, v);
      if (phases) polyphaseWeightPass(gpu, window.s, buffers, (v) => run(phases, v));
      else run(window.s, buffers);
    } else {
      weightPass(gpu, window.s, buffers, { half }, chosen.backend);
    }
  };
  const entries = s.kernel[0] * s.kernel[1] * vec4s(s.c) * 4 * vec4s(s.k);
  const run = () => sumOfParts(gpu, entries, windows.length, (i, dw) => inWindow(windows[i], dw), b.dw);
  counted(gpu, "pconvBackwardWeight", plainFlops(s), run, directShare(s, chosen));
}
