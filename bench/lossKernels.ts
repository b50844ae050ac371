/** The kernels of the loss and its network, and the base of a fill, over a layer's output. */
import {
  compositeBackward,
  compositeBackwardRef,
  compositeForward,
  compositeForwardRef,
} from "../src/kernels/composite.js";
import { dilateHole, dilateHoleRef } from "../src/kernels/dilateHole.js";
import { gramBackward, gramBackwardRef, gramForward, gramForwardRef } from "../src/kernels/gram.js";
import { harmonic, harmonicRef } from "../src/kernels/harmonic.js";
import { l1Backward, l1BackwardRef, l1Forward, l1ForwardRef } from "../src/kernels/l1.js";
import { lossGuard } from "../src/kernels/lossGuard.js";
import { maxPoolBackward, maxPoolBackwardRef, maxPoolForward, maxPoolForwardRef } from "../src/kernels/maxPool.js";
import { receptiveField, receptiveFieldRef } from "../src/kernels/receptiveField.js";
import {
  totalVariationBackward,
  totalVariationBackwardRef,
  totalVariationForward,
  totalVariationForwardRef,
} from "../src/kernels/totalVariation.js";
import { ENGINE_KERNELS } from "./engine.js";
import { type Op, storages, zeros } from "./op.js";

export const LOSS_OPS: readonly Op[] = [
  {
    kernel: "composite",
    pass: "forward",
    covers: ["compositeForward"],
    plan: ({ gpu, s, count, input, result, mask }) => {
      const [gt, out, m, comp] = [input(), input(), mask(), result()];
      return {
        flops: 3 * count,
        record: () => compositeForward(gpu, s, s.n, storages({ gt, out, mask: m, comp })),
        want: () => [[comp, compositeForwardRef(s, s.n, gt.values, out.values, m.values)]],
      };
    },
  },
  {
    kernel: "composite",
    pass: "dx",
    covers: ["compositeBackward"],
    plan: ({ gpu, s, count, input, result, mask }) => {
      const [dcomp, m, dout] = [input(), mask(), result()];
      return {
        flops: 2 * count,
        record: () => compositeBackward(gpu, s, s.n, storages({ dcomp, mask: m, dout })),
        want: () => [[dout, compositeBackwardRef(s, s.n, dcomp.values, m.values)]],
      };
    },
  },
  {
    kernel: "dilateHole",
    pass: "forward",
    covers: ["dilateHole"],
    plan: ({ gpu, s, pixels, result, mask: make }) => {
      const [mask, region] = [make(), result(pixels, 0)];
      return {
        flops: 9 * pixels,
        record: () => dilateHole(gpu, s, storages({ mask, region })),
        want: () => [[region, dilateHoleRef(s, mask.values)]],
      };
    },
  },
  {
    kernel: "harmonic",
    pass: "forward",
    covers: ["harmonicStart", "harmonicHalve", "harmonicRefine", "harmonicSweep", "harmonicEnd"],
    plan: ({ gpu, s, pixels, input, result, mask: make }) => {
      const [x, mask, u] = [input(pixels, 3), make(), result(pixels, 3)];
      const shape = { n: s.n, h: s.h, w: s.w, masks: s.n };
      return {
        // Six sums in each of six half sweeps over a quarter of holes, on all levels together four thirds of the finest.
        flops: (4 / 3) * 0.25 * 3 * 18 * pixels,
        record: () => harmonic(gpu, shape, storages({ x, mask, u })),
        want: () => [[u, harmonicRef(shape, x.values, mask.values)]],
      };
    },
  },
  {
    kernel: "gram",
    pass: "forward",
    covers: ["gramForward", "sumPartials", ...ENGINE_KERNELS],
    plan: ({ gpu, s, count, input, result }) => {
      const [f, g] = [input(), result(s.n * s.c)];
      return {
        flops: 2 * count * s.c,
        record: () => gramForward(gpu, s, storages({ f, g })),
        want: () => [[g, gramForwardRef(s, f.values)]],
      };
    },
  },
  {
    kernel: "gram",
    pass: "dx",
    covers: ["gramBackward", ...ENGINE_KERNELS],
    plan: ({ gpu, s, count, input, result }) => {
      const [f, dg, df] = [input(), input(s.n * s.c), result()];
      return {
        flops: 2 * count * s.c,
        record: () => gramBackward(gpu, s, storages({ f, dg, df })),
        want: () => [[df, gramBackwardRef(s, f.values, dg.values)]],
      };
    },
  },
  {
    kernel: "l1",
    pass: "forward",
    covers: ["l1Forward", "reduceScalar"],
    plan: ({ gpu, s, count, input, result, mask: make }) => {
      const [a, b, mask, value] = [input(), input(), make(), result(1, 1)];
      const options = { region: "hole", factor: 1 / count, maskN: s.n } as const;
      return {
        flops: 4 * count,
        record: () => l1Forward(gpu, s, options, storages({ a, b, mask, value })),
        want: () => [[value, [l1ForwardRef(s, options, a.values, b.values, mask.values)]]],
      };
    },
  },
  {
    kernel: "l1",
    pass: "dx",
    covers: ["l1Backward"],
    plan: ({ gpu, s, count, input, result, mask: make }) => {
      const [a, b, mask, dvalue, da] = [input(), input(), make(), input(1, 1), result()];
      const options = { region: "hole", factor: 1 / count, maskN: s.n } as const;
      return {
        flops: 4 * count,
        record: () => l1Backward(gpu, s, options, storages({ a, b, mask, dvalue, da })),
        want: () => [[da, l1BackwardRef(s, options, a.values, b.values, dvalue.values[0], mask.values)]],
      };
    },
  },
  {
    kernel: "lossGuard",
    pass: "forward",
    covers: ["lossGuard"],
    plan: ({ gpu, input }) => {
      const [loss, guard] = [input(1, 4), input(4, 0, zeros)];
      return {
        flops: 0,
        record: () => lossGuard(gpu, 1, storages({ loss, guard })),
        want: () => [[guard, new Float32Array(4)]], // the loss is finite
      };
    },
  },
  {
    kernel: "receptiveField",
    pass: "forward",
    covers: ["receptiveField"],
    plan: ({ gpu, s, pixels, result, mask }) => {
      const [source, live] = [mask(), result(pixels, 0)];
      const window = { n: s.n, h: s.h, w: s.w, kernel: 3, stride: 1, padding: 1, clear: 1 } as const;
      return {
        flops: 9 * pixels,
        record: () => receptiveField(gpu, window, storages({ source, live })),
        want: () => [[live, receptiveFieldRef(window, source.values)]],
      };
    },
  },
  {
    kernel: "maxPool",
    pass: "forward",
    covers: ["maxPoolForward"],
    plan: ({ gpu, s, pixels, count, input, result }) => {
      const [x, y] = [input(), result(pixels / 4)];
      return {
        flops: count,
        record: () => maxPoolForward(gpu, s, storages({ x, y })),
        want: () => [[y, maxPoolForwardRef(s, x.values)]],
      };
    },
  },
  {
    kernel: "maxPool",
    pass: "dx",
    covers: ["maxPoolBackward"],
    plan: ({ gpu, s, pixels, count, input, result }) => {
      const [x, dy, dx] = [input(), input(pixels / 4), result()];
      return {
        flops: count,
        record: () => maxPoolBackward(gpu, s, storages({ x, dy, dx })),
        want: () => [[dx, maxPoolBackwardRef(s, x.values, dy.values)]],
      };
    },
  },
  {
    kernel: "totalVariation",
    pass: "forward",
    covers: ["totalVariationForward", "reduceScalar"],
    plan: ({ gpu, s, count, input, result, mask }) => {
      const [x, region, value] = [input(), mask(), result(1, 1)];
      const options = { region: "inside", factorX: 1 / count, factorY: 1 / count, regionN: s.n } as const;
      return {
        flops: 6 * count,
        record: () => totalVariationForward(gpu, s, options, storages({ x, region, value })),
        want: () => [[value, [totalVariationForwardRef(s, options, x.values, region.values)]]],
      };
    },
  },
  {
    kernel: "totalVariation",
    pass: "dx",
    covers: ["totalVariationBackward"],
    plan: ({ gpu, s, count, input, result, mask }) => {
      const [x, region, dvalue, dx] = [input(), mask(), input(1, 1), result()];
      const options = { region: "inside", factorX: 1 / count, factorY: 1 / count, regionN: s.n } as const;
      return {
        flops: 12 * count,
        record: () => totalVariationBackward(gpu, s, options, storages({ x, region, dvalue, dx })),
        want: () => [[dx, totalVariationBackwardRef(s, options, x.values, dvalue.values[0], region.values)]],
      };
    },
  },
];
