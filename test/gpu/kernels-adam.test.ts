/** Adam against its reference over several steps. */
import { expect, it } from "vitest";
import { adam, adamRef } from "../../src/kernels/adam.js";
import { abs, expectClose, rounding } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";
import type { Output } from "../support/tensors.js";

const gpu = useGpu();

it.each([
  { lr: 2e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8 },
  { lr: 1e-2, beta1: 0.5, beta2: 0.9, eps: 1e-3 },
])("follows the reference over 20 steps: %j", async (o) => {
  const draw = new Draw(400);
  const c = 7;
  const rows = 31;
  const parameter = draw.floats(rows * c);
  const p = Float64Array.from(parameter);
  const m = new Float64Array(p.length);
  const v = new Float64Array(p.length);
  await withScratch(gpu(), async (t) => {
    // Read back through the padding check: padding lanes have no gradient and must stay 0.
    const outputs = ["p", "m", "v"].map((name) => t.outActivation(name, rows, c));
    const [pOut, mOut, vOut] = outputs as [Output, Output, Output];
    const vec4s = rows * 2;
    const padded = Float32Array.from({ length: vec4s * 4 }, (_, i) =>
      i % 8 < c ? parameter[(i >> 3) * c + (i % 8)] : 0,
    );
    gpu().write(pOut.storage, padded);
    for (const out of [mOut, vOut]) gpu().write(out.storage, new Float32Array(vec4s * 4));
    for (let step = 1; step <= 20; step++) {
      // Gradients over six decades, and some exact zeros.
      const g = draw.floats(rows * c).map((x, i) => (i % 11 === 0 ? 0 : x * 10 ** -(i % 6)));
      adamRef({ ...o, t: step }, p, g, m, v);
      const buffers = { parameter: pOut.storage, m: mOut.storage, v: vOut.storage };
      adam(gpu(), vec4s, { ...o, t: step }, { ...buffers, gradient: t.activation(g, c) });
      const [pGot, mGot, vGot] = await t.read(pOut, mOut, vOut);
      // Each step rounds the moments a few times; p moves by at most lr / (1 - beta1) per step.
      expectClose(
        "m",
        mGot,
        m,
        rounding(
          abs(m).map((x, i) => x + 10 ** -(i % 6)),
          8,
        ),
        `${draw.seed}, step ${step}`,
      );
      expectClose(
        "v",
        vGot,
        v,
        rounding(
          v.map((x, i) => x + 10 ** (-2 * (i % 6))),
          8 + 2 * step,
        ),
        `${draw.seed}, step ${step}`,
      );
      const pLimit = rounding(
        abs(p).map((x) => x * step + 400 * o.lr * step),
        2,
      );
      expectClose("p", pGot, p, pLimit, `${draw.seed}, step ${step}`);
    }
  });
  // The test would be empty if nothing had moved.
  expect(p.some((x, i) => Math.abs(x - parameter[i]) > 5 * o.lr)).toBe(true);
});
