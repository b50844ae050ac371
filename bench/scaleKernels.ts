/** The kernels that let a step of half precision be scaled, and skipped. */
import { gradientCheck } from "../src/kernels/gradientCheck.js";
import { lossScale, lossScaleRef, SCALE_STATE, SCALE_STATE_BYTES } from "../src/kernels/lossScale.js";
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
