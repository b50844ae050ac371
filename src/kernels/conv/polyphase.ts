/**
 * Convolutions of stride 2 with windows of 5x5 and padding 2, or 4x4 and padding 1, as convolutions of 3x3 and stride 1, so that Winograd's
 * forms (`winograd.ts`) apply: every second pixel of every second row is a phase, and the four phases side by side are an activation of half
 * the size and four times the channels.
 *
 *   x'[n,Y,X,(a,b),c] = x[n,2Y+a,2X+b,c]        w'[i,j,(a,b),c,k] = w[2i+a-d,2j+b-d,c,k], 0 outside,  d = 2 - padding
 *
 * Why: of 25 multiplications per output and channel pair F(4x4) leaves 9 (36 of a tile of 16 outputs, in each of four phases), of 16 also
 * 9: the encoder's second and third layer, and the decoder's part that is read at half the resolution (`pconvUp.ts`). The activation's
 * rearrangements are exact copies; w' is never stored (`winogradWeights.ts`). By measurement on lavapipe, in shares of the direct form's time, forward, dx and dw: 5x5 128->256 at 64x64 .59, .69 and
 * .70, 64->128 .72 to .82, 32->64 .7 to 1.0; 4x4 128->256 at 128x128 .78, .90 and .77, 256->512 .81 to .94, 64->128 .8 to 1.0. F(2x2), which
 * leaves 16, takes longer than the direct form everywhere.
 *
 * Source: polyphase decomposition, a standard of signal processing (Vaidyanathan 1993, ch. 4); the combination is ours.
 * Layout: x [N,H,W,C], x' [N,ceil(H/2),ceil(W/2),2,2,C], w [k,k,C,K], w' [3,3,2,2,C,K]; channels padded to 4.
 */
import type { Gpu } from "../../gpu/gpu.js";
import { defineKernel } from "../../gpu/kernel.js";
import { linearGrid, linearMain } from "../../gpu/linear.js";
import type { Storage } from "../../gpu/pool.js";
import { range } from "./range.js";
import { convOutputSize, type ConvShape, squareWindow, vec4s } from "../shape.js";
import type { PixelMask } from "../slabs.js";
import type { WeightPassBuffers } from "./backend.js";
import type { Direction, GatherBuffers } from "./gather.js";
import { winogradPays } from "./winograd.js";
import type { PhasedWindow } from "./winogradWeights.js";

/** Paddings by the window's side. */
const PADDING: Readonly<Record<number, number>> = { 4: 1, 5: 2 };

/** What of a weight's window the phases' 3x3 are. */
export const phasedWindow = ({ kernel: [side] }: ConvShape): PhasedWindow => ({ side, shift: 2 - PADDING[side] });

/** C K / (C + K) of the convolution over phases from which on F(4x4) of it pays, by the window's side. */
const LEAST_INTENSITY: Readonly<Record<number, number>> = { 4: 128, 5: 80 };

/** Whether a convolution takes less time over phases, all of which fit in `bindable` bytes, than as it is. */
export function polyphasePays(s: ConvShape, phases: ConvShape, bindable: number): boolean {
  const bytes = phases.n * phases.h * phases.w * vec4s(phases.c) * 16; // of odd sizes more than the input's
  return bytes <= bindable && winogradPays(4, phases, LEAST_INTENSITY[s.kernel[0]], bindable);
}

/** The convolution over phases that a convolution of stride 2 is, if it is one. */
export function polyphaseShape(s: ConvShape): ConvShape | null {
  const square = ([a, b]: readonly [number, number], value: number | undefined) => a === value && b === value;
  const side = s.kernel[0];
  if (!square(s.kernel, side) || !square(s.padding, PADDING[side]) || !square(s.stride, 2) || !square(s.dilation, 1))
    return null;
  const [h, w] = [Math.ceil(s.h / 2), Math.ceil(s.w / 2)];
  const [p, q] = convOutputSize("polyphase", s);
  if (p !== h || q !== w) return null;
  return { n: s.n, h, w, c: 16 * vec4s(s.c), k: s.k, ...squareWindow(3, 1, 1) };
}

const PHASE_PARAMS = { n: "u32", h: "u32", w: "u32", c4: "u32" } as const;

/** WGSL of a `main` that runs `body` for each of the four phases, numbers 0 to 3, of every vec4 of a picture that is as small as one. */
const overPhases = (body: (phase: number) => string): string => /* wgsl */ `
${linearMain(
  "p.n * ((p.h + 1u) / 2u) * ((p.w + 1u) / 2u) * p.c4",
  `  let pixel = id / p.c4;
  let c = id - pixel * p.c4;
  let row = pixel / ((p.w + 1u) / 2u);
  let n = row / ((p.h + 1u) / 2u);
  let y = 2u * (row - n * ((p.h + 1u) / 2u));
  let x = 2u * (pixel - row * ((p.w + 1u) / 2u));
  let first = ((n * p.h + y) * p.w + x) * p.c4 + c;
  let to = pixel * 4u * p.c4 + c;
  // The last row and column of odd sizes have none behind them.
  let right = x + 1u < p.w;
  let below = y + 1u < p.h;
  ${range(4).map(body).join("\n  ")}`,
)}
`;

/** WGSL: whether a phase's pixel is in the picture, and how far it is from the first one's. */
const INSIDE = ["true", "right", "below", "below && right"] as const;
const AWAY = ["0u", "p.c4", "p.w * p.c4", "(p.w + 1u) * p.c4"] as const;

const phaseParams = (s: ConvShape) => ({ n: s.n, h: s.h, w: s.w, c4: vec4s(s.c) });
/** vec4s of one phase. */
const phaseValues = (s: ConvShape) => s.n * Math.ceil(s.h / 2) * Math.ceil(s.w / 2) * vec4s(s.c);

export const spaceToDepthKernel = defineKernel({
  name: "spaceToDepth",
  params: PHASE_PARAMS,
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> x_all: array<vec4f>;          // [N,H,W,C]
@group(0) @binding(2) var<storage, read_write> phases: array<vec4f>;   // [N,H/2,W/2,2,2,C]
${overPhases(
  (f) =>
    `phases[to + ${f}u * p.c4] = select(vec4f(), x_all[first + select(0u, ${AWAY[f]}, ${INSIDE[f]})], ${INSIDE[f]});`,
)}
`,
});

export const depthToSpaceKernel = defineKernel({
  name: "depthToSpace",
  params: PHASE_PARAMS,
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> phases: array<vec4f>;         // [N,H/2,W/2,2,2,C]
@group(0) @binding(2) var<storage, read_write> x_all: array<vec4f>;    // [N,H,W,C]
${overPhases((f) => `if (${INSIDE[f]}) { x_all[first + ${AWAY[f]}] = phases[to + ${f}u * p.c4]; }`)}
`,
});

export const phaseMaskKernel = defineKernel({
  name: "phaseMask",
  params: { n: "u32", h: "u32", w: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> mask: array<f32>;             // [N,H,W]
@group(0) @binding(2) var<storage, read_write> any: array<f32>;        // [N,H/2,W/2]: 1 where one of the four is not 0
${linearMain(
  "p.n * ((p.h + 1u) / 2u) * ((p.w + 1u) / 2u)",
  `  let row = id / ((p.w + 1u) / 2u);
  let n = row / ((p.h + 1u) / 2u);
  let y = 2u * (row - n * ((p.h + 1u) / 2u));
  let x = 2u * (id - row * ((p.w + 1u) / 2u));
  let first = (n * p.h + y) * p.w + x;
  // The last row and column of odd sizes stand for the ones behind them.
  let right = select(0u, 1u, x + 1u < p.w);
  let below = select(0u, p.w, y + 1u < p.h);
  let live = mask[first] != 0.0 || mask[first + right] != 0.0 || mask[first + below] != 0.0 || mask[first + below + right] != 0.0;
  any[id] = f32(live);`,
)}
`,
});

const phasesOf = (gpu: Gpu, s: ConvShape, x: Storage): Storage => {
  const phases = gpu.alloc(4 * phaseValues(s) * 16, "phases");
  gpu.dispatch(spaceToDepthKernel, undefined, phaseParams(s), [x, phases], linearGrid(phaseValues(s)));
  return phases;
};

/**
 * Records a gather pass over phases.
 * @param over the pass that does: a convolution like `polyphaseShape(s)`, whose weight is `phasedWindow(s)` of the whole one
 */
export function polyphaseGather(
  gpu: Gpu,
  s: ConvShape,
  direction: Direction,
  b: GatherBuffers,
  over: (b: GatherBuffers) => void,
): void {
  if (direction === "forward") {
    const src = phasesOf(gpu, s, b.src);
    over({ ...b, src });
    gpu.free(src);
    return;
  }
  const dst = gpu.alloc(4 * phaseValues(s) * 16, "phases");
  const live = b.live && phaseMask(gpu, s, b.live);
  over({ ...b, dst, live });
  gpu.dispatch(depthToSpaceKernel, undefined, phaseParams(s), [dst, b.dst], linearGrid(phaseValues(s)));
  for (const storage of [dst, ...(live ? [live.mask] : [])]) gpu.free(storage);
}

/** A mask of the input's pixels over phases; the caller frees it. */
function phaseMask(gpu: Gpu, { h, w }: ConvShape, { mask, n }: PixelMask): PixelMask {
  const count = n * Math.ceil(h / 2) * Math.ceil(w / 2);
  const any = gpu.alloc(count * 4, "mask over phases");
  gpu.dispatch(phaseMaskKernel, undefined, { n, h, w }, [mask, any], linearGrid(count));
  return { mask: any, n };
}

/** Records a weight pass over phases; `over` does that of `polyphaseShape(s)`, and writes the gradient as `phasedWindow(s)` of the whole one. */
export function polyphaseWeightPass(
  gpu: Gpu,
  s: ConvShape,
  b: WeightPassBuffers,
  over: (b: WeightPassBuffers) => void,
): void {
  const x = phasesOf(gpu, s, b.x);
  over({ ...b, x });
  gpu.free(x);
}
