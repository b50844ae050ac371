/** The kernels that keep, of activations, only what the gradient needs, over a layer's output. */
import { positiveBits, positiveBytes, positiveGate, positiveGateRef } from "../src/kernels/positiveBits.js";
import {
  reluPoolBackward,
  reluPoolBackwardRef,
  reluPoolForward,
  reluPoolForwardRef,
  winnerBytes,
} from "../src/kernels/reluPool.js";
import { type Op, storages } from "./op.js";

const SLOPE = 0.2;

export const FUSED_OPS: readonly Op[] = [
  {
    // Bits mean nothing but what the gate makes of them: they are timed and checked together.
    kernel: "positiveBits",
    pass: "dx",
    covers: ["positiveBits", "positiveGate"],
    plan: ({ gpu, memory, count, vec4s, input }) => {
      const [y, gradient, bits] = [input(), input(), memory.room(positiveBytes(vec4s) / 4)];
      return {
        flops: 2 * count,
        record: () => {
          positiveBits(gpu, vec4s, { y: y.storage, bits });
          positiveGate(gpu, { vec4s, slope: SLOPE }, { bits, gradient: gradient.storage });
        },
        want: () => [[gradient, positiveGateRef(SLOPE, y.values, gradient.values)]],
      };
    },
  },
  {
    kernel: "reluPool",
    pass: "forward",
    covers: ["reluPoolForward"],
    plan: ({ gpu, memory, s, pixels, count, input, result }) => {
      const [x, y, winners] = [input(), result(pixels / 4), memory.room(winnerBytes(s) / 4)];
      return {
        flops: count,
        record: () => reluPoolForward(gpu, s, { ...storages({ x, y }), winners }),
        want: () => [[y, reluPoolForwardRef(s, x.values)]],
      };
    },
  },
  {
    // Likewise the winners: forward and backward.
    kernel: "reluPool",
    pass: "dx",
    covers: ["reluPoolForward", "reluPoolBackward"],
    plan: ({ gpu, memory, s, pixels, count, input, result }) => {
      const [x, y, dy, dx] = [input(), result(pixels / 4), input(pixels / 4), result()];
      const winners = memory.room(winnerBytes(s) / 4);
      return {
        flops: 2 * count,
        record: () => {
          reluPoolForward(gpu, s, { ...storages({ x, y }), winners });
          reluPoolBackward(gpu, s, { ...storages({ dy, dx }), winners });
        },
        want: () => [[dx, reluPoolBackwardRef(s, x.values, dy.values)]],
      };
    },
  },
];
