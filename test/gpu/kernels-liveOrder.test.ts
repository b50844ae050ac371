/** The order of pixels against its reference: a permutation of every group, live pixels first. */
import { describe, expect, it } from "vitest";
import { type Direction, gatherParams, type GatherBuffers } from "../../src/kernels/conv/gather.js";
import { liveOrder, liveOrderRef } from "../../src/kernels/conv/liveOrder.js";
import type { ConvShape } from "../../src/kernels/shape.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();
const TILE = { pixels: 16, channels4: 1, grid: (tiles: number): [number, number] => [tiles, 1] };

const shape = (n: number, h: number, w: number, stride: number): ConvShape => ({
  ...{ n, h, w, c: 4, k: 4, kernel: [3, 3], padding: [1, 1], dilation: [1, 1] },
  stride: [stride, stride],
});

/** Whether pixel m of a group is live, by the numbering's definition. */
function isLive(p: ReturnType<typeof gatherParams>, mask: Float32Array, group: number, m: number): boolean {
  const [first, cls] = [Math.floor(group / p.classes) * p.images, group % p.classes];
  const perImage = p.classH * p.classW;
  const [yy, xx] = [Math.floor((m % perImage) / p.classW), m % p.classW];
  const y = yy * p.divH + Math.floor(cls / p.clsW);
  const x = xx * p.divW + (cls % p.clsW);
  if (y >= p.outH || x >= p.outW) return false;
  const n = first + Math.floor(m / perImage);
  return mask[((n * p.outH + y) * p.outW + x) % p.livePixels] !== 0;
}

/** `orders`: how many groups have an order of their own. */
interface Kind {
  readonly maskN: number;
  readonly weightPerImage: boolean;
  readonly holes: number;
  readonly orders: number;
}

const cases: [string, ConvShape, Direction, Kind][] = [
  ["one image", shape(1, 9, 14, 1), "forward", { maskN: 1, weightPerImage: false, holes: 0.5, orders: 1 }],
  [
    "more words than a workgroup has",
    shape(1, 130, 71, 1),
    "forward",
    { maskN: 1, weightPerImage: false, holes: 0.4, orders: 1 },
  ],
  [
    "a mask that the batch shares",
    shape(3, 10, 7, 1),
    "forward",
    { maskN: 1, weightPerImage: false, holes: 0.5, orders: 1 },
  ],
  ["masks of a batch", shape(3, 10, 7, 1), "forward", { maskN: 3, weightPerImage: false, holes: 0.7, orders: 1 }],
  [
    "classes of stride 2, odd sizes",
    shape(2, 11, 13, 2),
    "backwardInput",
    { maskN: 2, weightPerImage: false, holes: 0.5, orders: 4 },
  ],
  ["groups of their own", shape(4, 6, 7, 1), "forward", { maskN: 4, weightPerImage: true, holes: 0.5, orders: 4 }],
  [
    "groups that share a mask",
    shape(4, 6, 7, 2),
    "backwardInput",
    { maskN: 1, weightPerImage: true, holes: 0.5, orders: 4 },
  ],
  ["nothing live", shape(1, 40, 40, 1), "forward", { maskN: 1, weightPerImage: false, holes: 1, orders: 1 }],
  ["all live", shape(1, 40, 40, 1), "forward", { maskN: 1, weightPerImage: false, holes: 0, orders: 1 }],
];

describe("live pixels first", () => {
  it.each(cases)("%s", async (_, s, direction, { maskN, weightPerImage, holes, orders }) => {
    const draw = new Draw(3100);
    await withScratch(gpu(), async (t) => {
      const live = (n: number) => ({ live: { n } }) as unknown as GatherBuffers;
      const params = gatherParams(s, direction, TILE, live(maskN), { weightPerImage });
      expect(params.orderGroups).toBe(orders);
      const mask = draw.mask(maskN * params.outH * params.outW, holes);
      const order = liveOrder(gpu(), params, t.floats(mask));
      const [raw] = await gpu().read(order);
      gpu().free(order);
      const got = Array.from(new Uint32Array(raw.buffer, raw.byteOffset, params.orderGroups * params.pixels));
      for (let group = 0; group < params.orderGroups; group++) {
        const alive = Array.from({ length: params.pixels }, (_, m) => isLive(params, mask, group, m));
        const own = got.slice(group * params.pixels, (group + 1) * params.pixels);
        expect(own, `${draw.seed}, group ${group}`).toEqual(liveOrderRef(alive));
      }
    });
  });
});
