import { ShapeError } from "../../errors.js";
import { weightedSum as kernel } from "../../kernels/weightedSum.js";
import type { Tape } from "../tape.js";
import { shapeText, type Tensor } from "../tensor.js";

/**
 * sum of weights[i] * terms[i], all of one shape; each gradient is weights[i] dy.
 * @throws {ShapeError} unless there are as many weights as terms, all of one shape.
 */
export function weightedSum(tape: Tape, terms: readonly Tensor[], weights: readonly number[]): Tensor {
  const [first, ...rest] = terms;
  const shapes = terms.map((t) => shapeText(t.shape));
  if (terms.length === 0 || weights.length !== terms.length || shapes.some((s) => s !== shapes[0])) {
    const got = `${shapes.join(", ") || "no terms"} and ${weights.length} weights`;
    throw new ShapeError(
      "weightedSum",
      `expected terms of one shape and a weight for each, got ${got}`,
      "pass one weight per term",
    );
  }
  const scaled = (t: Tensor, weight: number): Tensor => {
    const y = tape.like(t, "scale");
    kernel(tape.gpu, t.vec4s, { alpha: weight }, { a: t.storage, y: y.storage });
    return y;
  };
  let sum = scaled(first, weights[0]);
  rest.forEach((term, i) => {
    const next = tape.like(first, "weightedSum");
    kernel(
      tape.gpu,
      first.vec4s,
      { alpha: 1, beta: weights[i + 1] },
      { a: sum.storage, b: term.storage, y: next.storage },
    );
    tape.release(sum.storage);
    sum = next;
  });
  return tape.record("weightedSum", terms, sum, [], (dy) =>
    terms.map((t, i) => (t.requiresGrad ? scaled(dy, weights[i]) : null)),
  );
}
