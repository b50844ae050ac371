/**
 * The end of a step with loss scaling, before the parameters change: decides whether they do, and on the next step's scale.
 *
 *   gradients not all finite:   hold the step; scale /= 2, good = 0, skipped += 1
 *   else:                       good += 1; at good = interval: scale *= 2, good = 0
 *
 * and leaves what `adam` needs, since nobody reads back how many steps were skipped: 1 / scale of this step's gradients, and the
 * bias corrections of its step t, which counts the steps that were not skipped:
 *
 *   1 / (1 - b1^t),   1 / sqrt(1 - b2^t)        1 - b^t = -expm1(t ln b), by its series where t |ln b| < 1/2
 *
 * A step that `lossGuard` holds counts in neither way.
 *
 * Source: torch.amp.GradScaler (growth 2, backoff 1/2, interval 2000); Kingma & Ba 2015 for the corrections.
 * Layout: guard as in `lossGuard`; state eight words, see SCALE_STATE; scale one vec4 (scale, 0, 0, 0), the gradient of the loss.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import type { Storage } from "../gpu/pool.js";

/** Words of the state: u32, or the bits of an f32 where it says so. */
export const SCALE_STATE = {
  /** Not 0: this step changes no parameter. */
  hold: 0,
  /** f32: what this step's gradients are to be multiplied with. */
  inverse: 1,
  /** f32: Adam's corrections. */
  stepCorrection: 2,
  rootCorrection: 3,
  /** Set by `gradientCheck`. */
  found: 4,
  good: 5,
  skipped: 6,
  /** f32: the scale of the next step. */
  scale: 7,
} as const;

/** Bytes of the state. */
export const SCALE_STATE_BYTES = 32;

/** What deciding on a step takes: counts, and Adam's decays for the correction of its start. */
export interface LossScaleStep {
  /** Steps so far, with this one and the skipped ones. */
  readonly steps: number;
  /** Good steps after which the scale is doubled. */
  readonly interval: number;
  readonly beta1: number;
  readonly beta2: number;
}

const S = SCALE_STATE;

export const lossScaleKernel = defineKernel({
  name: "lossScale",
  params: { steps: "u32", interval: "u32", log1: "f32", log2: "f32" },
  bindings: ["read", "read_write", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> guard: array<u32>;              // [4]
@group(0) @binding(2) var<storage, read_write> state: array<u32>;        // [8]
@group(0) @binding(3) var<storage, read_write> scale: array<vec4f>;      // [1]
/** 1 - exp(z), z below 0, with all digits: the difference itself would lose half of them. */
fn one_minus_exp(z: f32) -> f32 {
  if (z < -0.5) { return 1.0 - exp(z); }
  var sum = 1.0;
  for (var i = 10.0; i > 1.0; i -= 1.0) { sum = 1.0 + z / i * sum; }
  return -z * sum;
}
@compute @workgroup_size(1)
fn main() {
  let found = state[${S.found}] != 0u;
  state[${S.found}] = 0u;
  state[${S.hold}] = u32(found || guard[0] != 0u);
  if (guard[0] != 0u) { return; }
  let now = scale[0].x;
  var next = now;
  var good = 0u;
  if (found) {
    next = 0.5 * now;
    state[${S.skipped}] += 1u;
  } else {
    good = state[${S.good}] + 1u;
    if (good == p.interval) { next = 2.0 * now; good = 0u; }
    let t = f32(p.steps - state[${S.skipped}]);
    state[${S.inverse}] = bitcast<u32>(1.0 / now);
    state[${S.stepCorrection}] = bitcast<u32>(1.0 / one_minus_exp(t * p.log1));
    state[${S.rootCorrection}] = bitcast<u32>(1.0 / sqrt(one_minus_exp(t * p.log2)));
  }
  state[${S.good}] = good;
  state[${S.scale}] = bitcast<u32>(next);
  scale[0] = vec4f(next, 0.0, 0.0, 0.0);
}
`,
});

/** Records the decision; the gradients were checked before, and `adam` comes after. */
export function lossScale(
  gpu: Gpu,
  o: LossScaleStep,
  b: { readonly guard: Storage; readonly state: Storage; readonly scale: Storage },
): void {
  const params = { steps: o.steps, interval: o.interval, log1: Math.log(o.beta1), log2: Math.log(o.beta2) };
  gpu.dispatch(lossScaleKernel, undefined, params, [b.guard, b.state, b.scale], [1]);
}

/** What runs on from step to step. */
export interface ScaleProgress {
  readonly scale: number;
  /** Good steps since the scale last changed. */
  readonly good: number;
  /** Skipped steps in all. */
  readonly skipped: number;
}

/** The state's words for a progress. */
export function scaleWords({ scale, good, skipped }: ScaleProgress): Uint32Array {
  const words = new Uint32Array(SCALE_STATE_BYTES / 4);
  words[S.good] = good;
  words[S.skipped] = skipped;
  new Float32Array(words.buffer)[S.scale] = scale;
  return words;
}

/** The progress from the state's contents as they were read back. */
export function readScale(state: Float32Array): ScaleProgress {
  const words = new Uint32Array(state.buffer, state.byteOffset, state.length);
  return { scale: state[S.scale], good: words[S.good], skipped: words[S.skipped] };
}

/** The same on the CPU: the progress after a step, and the corrections where it is not held. */
export function lossScaleRef(
  o: LossScaleStep,
  before: ScaleProgress,
  found: boolean,
): { readonly after: ScaleProgress; readonly corrections: readonly [number, number] | null } {
  if (found) return { after: { scale: before.scale / 2, good: 0, skipped: before.skipped + 1 }, corrections: null };
  const grown = before.good + 1 === o.interval;
  const t = o.steps - before.skipped;
  return {
    after: { ...before, scale: before.scale * (grown ? 2 : 1), good: grown ? 0 : before.good + 1 },
    corrections: [1 / (1 - o.beta1 ** t), 1 / Math.sqrt(1 - o.beta2 ** t)],
  };
}
