/**
 * The norm of all gradients together, what clipping makes of it, and whether it is finite; all on the device.
 *
 *   norm = sqrt(sum over all parameters of g^2)          factor = min(1, max / (norm + 1e-6))
 *
 * A norm that is not finite sets the guard (see `lossGuard`) with state GRADIENT, so that `adam` changes nothing. With loss scaling
 * the gradients are those of the scaled loss: norm is taken of g times the state's `inverse`, which is then multiplied by the factor;
 * whether they are finite was looked at before (`gradientCheck`).
 *
 * Source: torch.nn.utils.clip_grad_norm_ (with its 1e-6). Layout: gradients in vec4s, padding lanes 0; partials [E] vec4s; norm one
 * vec4 (norm, factor, 0, 0); guard as in `lossGuard`, whose last word takes the factor; state as in `lossScale`.
 */
import { defineKernel } from "../gpu/kernel.js";
import type { Gpu } from "../gpu/gpu.js";
import { linearGrid, linearMain } from "../gpu/linear.js";
import type { Storage } from "../gpu/pool.js";
import { GUARD, GUARD_STATE } from "./lossGuard.js";
import { SCALE_STATE } from "./lossScale.js";
import { partialCount, sumMain } from "./reduceScalar.js";

export const gradientSquaresKernel = defineKernel({
  name: "gradientSquares",
  params: { vec4s: "u32", partials: "u32", first: "u32" },
  bindings: ["read", "read_write"],
  wgsl: () => /* wgsl */ `
@group(0) @binding(1) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> partials: array<vec4f>;   // [E]
${linearMain(
  "p.partials",
  `  var sum = vec4f();
  for (var i = id; i < p.vec4s; i += p.partials) { let g = gradient[i]; sum += g * g; }
  partials[p.first + id] = sum;`,
)}
`,
});

/** One workgroup; every adapter has this many invocations in one. */
const WORKGROUP = 256;

interface NormSpec {
  /** `control` is the state of loss scaling, else the guard. */
  readonly scaled: boolean;
}

export const gradientNormKernel = defineKernel({
  name: "gradientNorm",
  params: { entries: "u32", step: "u32", clipped: "u32", most: "f32" },
  bindings: ["read", "read_write", "read_write"],
  wgsl: ({ scaled }: NormSpec) => /* wgsl */ `
@group(0) @binding(1) var<storage, read> partials: array<vec4f>;         // [E]
@group(0) @binding(2) var<storage, read_write> control: array<u32>;      // see lossGuard, or lossScale
@group(0) @binding(3) var<storage, read_write> norm: array<vec4f>;       // [1]
${sumMain(
  WORKGROUP,
  `  let size = sqrt(total)${scaled ? ` * bitcast<f32>(control[${SCALE_STATE.inverse}])` : ""};
  // Looked at as bits: compilers may assume finite floats.
  let finite = (bitcast<u32>(size) & 0x7f800000u) != 0x7f800000u;
  var factor = 1.0;
  if (p.clipped != 0u && finite) { factor = min(1.0, p.most / (size + 1e-6)); }
  norm[0] = vec4f(size, factor, 0.0, 0.0);
  ${
    scaled
      ? `control[${SCALE_STATE.inverse}] = bitcast<u32>(bitcast<f32>(control[${SCALE_STATE.inverse}]) * factor);`
      : `if (!finite && control[${GUARD.state}] == ${GUARD_STATE.good}u) {
    control[${GUARD.state}] = ${GUARD_STATE.gradient}u;
    control[${GUARD.step}] = p.step;
    control[${GUARD.value}] = bitcast<u32>(size);
  }
  control[${GUARD.factor}] = bitcast<u32>(factor);`
  }`,
)}
`,
});

export interface GradientNormBuffers {
  readonly gradients: readonly { readonly storage: Storage; readonly vec4s: number }[];
  /** The guard, or with `scaled` the state of loss scaling. */
  readonly control: Storage;
  readonly norm: Storage;
}

/** Records the norm of some gradients; `most` clips it, null leaves them as they are. */
export function gradientNorm(
  gpu: Gpu,
  o: { readonly step: number; readonly most: number | null; readonly scaled: boolean },
  b: GradientNormBuffers,
): void {
  const counts = b.gradients.map((g) => partialCount(g.vec4s));
  const entries = counts.reduce((sum, count) => sum + count, 0);
  const partials = gpu.alloc(Math.max(1, entries) * 16, "squares of gradients");
  let first = 0;
  b.gradients.forEach(({ storage, vec4s }, i) => {
    const params = { vec4s, partials: counts[i], first };
    gpu.dispatch(gradientSquaresKernel, undefined, params, [storage, partials], linearGrid(counts[i]));
    first += counts[i];
  });
  const params = { entries, step: o.step, clipped: Number(o.most !== null), most: o.most ?? 0 };
  gpu.dispatch(gradientNormKernel, { scaled: o.scaled }, params, [partials, b.control, b.norm], [1]);
  gpu.free(partials);
}

/** Norm and factor in float64. */
export function gradientNormRef(gradients: readonly ArrayLike<number>[], most: number | null): [number, number] {
  let sum = 0;
  for (const g of gradients) for (let i = 0; i < g.length; i++) sum += g[i] * g[i];
  const norm = Math.sqrt(sum);
  return [norm, most === null || !Number.isFinite(norm) ? 1 : Math.min(1, most / (norm + 1e-6))];
}
