/** The kernels between the gradients and the optimizer: checks, norms and scales; and the average after it. */
import { gradientCheck } from "../src/kernels/gradientCheck.js";
import { lossScale, lossScaleRef, SCALE_STATE, SCALE_STATE_BYTES } from "../src/kernels/lossScale.js";
import { gradientNorm, gradientNormRef } from "../src/kernels/gradientNorm.js";
import { movingAverage, movingAverageRef } from "../src/kernels/movingAverage.js";
import { type Draw, type Op, positive, storages, uniform, zeros } from "./op.js";

const STEP = { steps: 1, interval: 2000, beta1: 0.9, beta2: 0.999 };
const WORDS = SCALE_STATE_BYTES / 4;

/** Gradients of which the last one is not finite. */
const oneInfinite: Draw = (rng, count) => uniform(rng, count).fill(Infinity, count - 1);

/** The state's words, some of them set: numbers where the layout says so, else counts. */
function stateOf(counts: Partial<Record<keyof typeof SCALE_STATE, number>>, numbers: typeof counts): Float32Array {
  const words = new Uint32Array(WORDS);
  const floats = new Float32Array(words.buffer);
  for (const [name, value] of Object.entries(counts)) words[SCALE_STATE[name as keyof typeof SCALE_STATE]] = value;
  for (const [name, value] of Object.entries(numbers)) floats[SCALE_STATE[name as keyof typeof SCALE_STATE]] = value;
  return floats;
}

export const SCALE_OPS: readonly Op[] = [
  {
    kernel: "gradientCheck",
    pass: "dw",
    covers: ["gradientCheck"],
    plan: ({ gpu, pixels, s, vec4s, input }) => {
      const [gradient, state] = [input(pixels, s.c, oneInfinite), input(WORDS, 0, zeros)];
      return {
        flops: 0,
        record: () => gradientCheck(gpu, vec4s, storages({ gradient, state })),
        want: () => [[state, stateOf({ found: 1 }, {})]],
      };
    },
  },
  {
    kernel: "gradientNorm",
    pass: "dw",
    covers: ["gradientSquares", "gradientNorm"],
    plan: ({ gpu, vec4s, count, input, result }) => {
      const [gradient, control, norm] = [input(), input(4, 0, zeros), result(1, 4)];
      const gradients = [{ storage: gradient.storage, vec4s }];
      const b = { gradients, ...storages({ control, norm }) };
      return {
        flops: 2 * count,
        record: () => gradientNorm(gpu, { step: 1, most: 1, scaled: false }, b),
        want: () => [[norm, [...gradientNormRef([gradient.values], 1), 0, 0]]],
      };
    },
  },
  {
    kernel: "movingAverage",
    pass: "dw",
    covers: ["movingAverage"],
    plan: ({ gpu, vec4s, count, input }) => {
      const [parameter, average, guard] = [input(), input(), input(4, 0, zeros)];
      return {
        flops: 3 * count,
        record: () => movingAverage(gpu, vec4s, 0.9, storages({ parameter, average, guard })),
        want: () => {
          const after = Float64Array.from(average.values);
          movingAverageRef(0.9, parameter.values, after);
          return [[average, after]];
        },
      };
    },
  },
  {
    kernel: "lossScale",
    pass: "dw",
    covers: ["lossScale"],
    plan: ({ gpu, input }) => {
      const [guard, state, scale] = [input(4, 0, zeros), input(WORDS, 0, zeros), input(1, 4, positive)];
      return {
        flops: 0,
        record: () => lossScale(gpu, STEP, storages({ guard, state, scale })),
        want: () => {
          const [now] = scale.values;
          const { after, corrections } = lossScaleRef(STEP, { scale: now, good: 0, skipped: 0 }, false);
          const [stepCorrection, rootCorrection] = corrections!;
          const numbers = { inverse: 1 / now, stepCorrection, rootCorrection, scale: after.scale };
          return [
            [state, stateOf({ good: after.good }, numbers)],
            [scale, [after.scale, 0, 0, 0]],
          ];
        },
      };
    },
  },
];
