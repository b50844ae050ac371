/** Winograd's forms are convolutions, and the text of their transforms is their matrices. */
import { describe, expect, it } from "vitest";
import {
  linearMap,
  type Matrix,
  transposed,
  WINOGRAD_FORMS,
  winogradRef,
} from "../../src/kernels/conv/winogradForms.js";
import { Draw } from "../support/draw.js";

const square = (draw: Draw, side: number): number[][] =>
  Array.from({ length: side }, () => [...draw.doubles(side, -1, 1)]);

/** Runs WGSL's statements of scalars as JavaScript: `let` and operators mean the same in both. */
function evaluate(m: Matrix, values: readonly number[]): number[] {
  const text = linearMap(
    m,
    (i) => `result[${i}]`,
    (j) => `x_${j}`,
    "part_",
  );
  const inputs = values.map((_, j) => `x_${j}`);
  // eslint-disable-next-line @typescript-eslint/no-implied-eval -- the text is the library's own, and made here
  const run = new Function("result", ...inputs, text) as (result: number[], ...values: number[]) => void;
  const result = m.map(() => NaN);
  run(result, ...values);
  return result;
}

describe.each(Object.values(WINOGRAD_FORMS))(
  "Winograd's form of tiles of side $tile",
  ({ tile, side, Bt, G, At, saves }) => {
    it("is the convolution", () => {
      const draw = new Draw(0x666f726d, tile);
      for (let round = 0; round < 10; round++) {
        const [d, w] = [square(draw, side), square(draw, 3)];
        const u = winogradRef(G, w);
        const y = winogradRef(
          At,
          winogradRef(Bt, d).map((row, i) => row.map((v, j) => v * u[i][j])),
        );
        for (let i = 0; i < tile; i++)
          for (let j = 0; j < tile; j++) {
            let want = 0;
            for (let a = 0; a < 3; a++) for (let b = 0; b < 3; b++) want += d[i + a][j + b] * w[a][b];
            expect(Math.abs(y[i][j] - want), `${i}, ${j} (PCONV_SEED=${draw.seed})`).toBeLessThan(1e-12);
          }
      }
    });

    it("saves what its products leave out", () => {
      expect(saves).toBe((9 * tile * tile) / (side * side));
    });

    it.each(Object.entries({ Bt, G, At, A: transposed(At), Gt: transposed(G) }))(
      "the text of %s is its rows",
      (_, m) => {
        const draw = new Draw(0x74657874, tile);
        const x = [...draw.doubles(m[0].length, -1, 1)];
        const want = m.map((row) => row.reduce((sum, v, j) => sum + v * x[j], 0));
        const size = m.map((row) => row.reduce((sum, v, j) => sum + Math.abs(v * x[j]), 0));
        // Factors are rounded to float32.
        evaluate(m, x).forEach((v, i) => expect(Math.abs(v - want[i])).toBeLessThanOrEqual(size[i] * 2 ** -24));
      },
    );

    it("what pairs of rows or columns have in common is computed once", () => {
      const multiplications = (m: Matrix) =>
        linearMap(
          m,
          (i) => `y_${i}`,
          (j) => `x_${j}`,
          "part_",
        ).split(" * ").length - 1;
      const factors = (m: Matrix) => m.flat().filter((v) => v !== 0 && Math.abs(v) !== 1).length;
      for (const m of [Bt, G, At, transposed(At), transposed(G)]) {
        if (factors(m) > 0) expect(multiplications(m)).toBeLessThan(factors(m));
      }
    });
  },
);
