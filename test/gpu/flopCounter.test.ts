/** Operations that the library counts, against counts by hand. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { availableBackends } from "../../src/kernels/conv/backend.js";
import { smallSubgroup } from "../../src/kernels/conv/choice.js";
import { columnSpec, launchColumns } from "../../src/kernels/conv/column.js";
import { type Flops, FlopCounter } from "../../src/kernels/conv/flopCounter.js";
import { gatherParams, type TileSize } from "../../src/kernels/conv/gather.js";
import { gramBackward, gramForward } from "../../src/kernels/gram.js";
import { pconvBackwardInput } from "../../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeight } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForward } from "../../src/kernels/pconvForward.js";
import { pconvUpBackward, pconvUpForward } from "../../src/kernels/pconvUp.js";
import type { ConvShape } from "../../src/kernels/shape.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";
import { padded, type Scratch } from "../support/tensors.js";

const gpu = useGpu();
let counter: FlopCounter;
beforeEach(() => {
  counter = new FlopCounter(gpu());
});
afterEach(() => counter.detach());

const S: ConvShape = {
  n: 2,
  h: 9,
  w: 11,
  c: 3,
  k: 6,
  kernel: [5, 3],
  stride: [2, 2],
  padding: [2, 1],
  dilation: [1, 1],
};
const [P, Q] = [5, 6];
const PLAIN = 2 * 2 * P * Q * 3 * 6 * 15;

const zeros = (t: Scratch, pixels: number, c: number) => t.floats(new Float32Array(pixels * padded(c)));
const only = async (kernel: string): Promise<Flops> => {
  const totals = await counter.totals();
  expect([...totals.keys()]).toEqual([kernel]);
  return totals.get(kernel)!;
};
const same = (flops: number): Flops => ({ textbook: flops, needed: flops, executed: flops });

/** Live pixels in tiles of `size` pixels, counted whole, in a row of `mask` repeated to `count` pixels. */
function inLiveTiles(mask: ArrayLike<number>, count: number, size: number): number {
  let sum = 0;
  for (let first = 0; first < count; first += size) {
    const tile = Array.from({ length: Math.min(size, count - first) }, (_, i) => mask[(first + i) % mask.length]);
    if (tile.some((v) => v !== 0)) sum += tile.length;
  }
  return sum;
}

describe("without a mask", () => {
  it("forward and weight gradient are the textbook's", async () => {
    await withScratch(gpu(), async (t) => {
      const [x, weight, y] = [zeros(t, 2 * 99, 3), zeros(t, 15 * 4, 6), zeros(t, 2 * P * Q, 6)];
      pconvForward(gpu(), S, { x, weight, y });
      expect(await only("pconvForward")).toEqual(same(PLAIN));
      pconvBackwardWeight(gpu(), S, { x, dy: y, dw: weight });
      expect((await counter.totals()).get("pconvBackwardWeight")).toEqual(same(PLAIN));
    });
  });

  it("the input gradient has the taps of each pixel that the stride meets", async () => {
    await withScratch(gpu(), async (t) => {
      const [dy, weightT, dx] = [zeros(t, 2 * P * Q, 6), zeros(t, 15 * 8, 3), zeros(t, 2 * 99, 3)];
      pconvBackwardInput(gpu(), S, { dy, weightT, dx });
      let pairs = 0;
      for (let y = 0; y < 9; y++)
        for (let x = 0; x < 11; x++)
          for (let i = 0; i < 5; i++)
            for (let j = 0; j < 3; j++) pairs += Number((y + 2 - i) % 2 === 0 && (x + 1 - j) % 2 === 0);
      const needed = 2 * 2 * pairs * 3 * 6;
      expect(await only("pconvBackwardInput")).toEqual({ textbook: PLAIN, needed, executed: needed });
    });
  });

  it("Gram matrices are products of all channels with all", async () => {
    await withScratch(gpu(), async (t) => {
      const s = { n: 2, h: 3, w: 5, c: 20 };
      const [f, g] = [zeros(t, 30, 20), zeros(t, 40, 20)];
      gramForward(gpu(), s, { f, g });
      expect(await only("gramForward")).toEqual(same(2 * 30 * 400));
      gramBackward(gpu(), s, { f, dg: g, df: zeros(t, 30, 20) });
      expect((await counter.totals()).get("gramBackward")).toEqual(same(2 * 30 * 400));
    });
  });

  it.each([
    ["winograd2x2", 36 / 16],
    ["winograd4x4", 144 / 36],
  ] as const)("%s executes one product for %f", async (algorithm, saves) => {
    const s: ConvShape = { ...S, h: 16, w: 12, c: 16, k: 20, kernel: [3, 3], stride: [1, 1], padding: [1, 1] };
    await withScratch(gpu(), async (t) => {
      const [x, weight, y] = [zeros(t, 2 * 192, 16), zeros(t, 9 * 16, 20), zeros(t, 2 * 192, 20)];
      const textbook = 2 * 2 * 192 * 16 * 20 * 9;
      pconvForward(gpu(), s, { x, weight, y }, algorithm);
      expect(await only("pconvForward")).toEqual({ textbook, needed: textbook, executed: textbook / saves });
      pconvBackwardWeight(gpu(), s, { x, dy: y, dw: weight }, algorithm);
      const got = (await counter.totals()).get("pconvBackwardWeight");
      expect(got).toEqual({ textbook, needed: textbook, executed: textbook / saves });
    });
  });

  it("a decoder level multiplies four summed taps where the textbook has nine upsampled ones", async () => {
    const s = { n: 2, h: 8, w: 6, low: 5, skip: 3, k: 7, lowFirst: true };
    await withScratch(gpu(), async (t) => {
      const ones = t.floats(new Float32Array(96).fill(1));
      const ratio = { scale: ones, biasScale: ones, n: 2 };
      const [low, skip, weight, y] = [zeros(t, 24, 5), zeros(t, 96, 3), zeros(t, 9 * 8, 7), zeros(t, 96, 7)];
      const textbook = 2 * 96 * 9 * 8 * 7;
      const needed = 2 * 96 * (4 * 5 + 9 * 3) * 7;
      pconvUpForward(gpu(), s, { low, skip, weight, ratio, y });
      expect(await only("pconvUpForward")).toEqual({ textbook, needed, executed: needed });
      const gradients = { dLow: zeros(t, 24, 5), dSkip: zeros(t, 96, 3), dw: zeros(t, 9 * 8, 7) };
      pconvUpBackward(gpu(), s, { g: y, low, skip, weight, ...gradients });
      const totals = await counter.totals();
      expect([...totals.keys()]).toEqual(["pconvUpForward", "pconvUpBackwardInput", "pconvUpBackwardWeight"]);
      // Each way back is a pass over the 4x4 taps of stride 2 or their transpose, of as many products.
      for (const kernel of ["pconvUpBackwardInput", "pconvUpBackwardWeight"])
        expect(totals.get(kernel), kernel).toEqual({ textbook, needed, executed: needed });
    });
  });
});

describe("with a mask", () => {
  const s: ConvShape = {
    n: 2,
    h: 13,
    w: 10,
    c: 4,
    k: 12,
    kernel: [3, 3],
    stride: [1, 1],
    padding: [1, 1],
    dilation: [1, 1],
  };
  const pixels = 2 * 130;

  it.each([1, 2])("only tiles with a live pixel count, mask of batch %i", async (maskN) => {
    for (const [i, share] of [0, 0.5, 0.97, 1].entries()) {
      const draw = new Draw(2700 + maskN, i);
      const mask = draw.mask(maskN * 130, share, true);
      await withScratch(gpu(), async (t) => {
        const [x, weight, y] = [zeros(t, pixels, 4), zeros(t, 36, 12), zeros(t, pixels, 12)];
        const live = { mask: t.floats(mask), n: maskN };
        const before = await counter.totals();
        const flopsSince = async (kernel: string) => {
          const after = (await counter.totals()).get(kernel)!;
          const { needed = 0, textbook = 0 } = before.get(kernel) ?? {};
          return { needed: after.needed - needed, textbook: after.textbook - textbook };
        };
        const each = 2 * 4 * 12 * 9;
        pconvForward(gpu(), s, { x, weight, y, live }, "simple");
        expect(await flopsSince("pconvForward"), draw.seed).toEqual({
          textbook: each * pixels,
          needed: each * inLiveTiles(mask, pixels, 1),
        });
        pconvBackwardWeight(gpu(), s, { x, dy: y, dw: weight, live }, "simple");
        expect(await flopsSince("pconvBackwardWeight"), draw.seed).toEqual({
          textbook: each * pixels,
          needed: each * inLiveTiles(mask, pixels, 1),
        });
      });
    }
  });

  it.each(["subgroup", "none"])(
    "columns of pixels are counted as they are computed, lanes of a %s together",
    async (kind) => {
      const lanes = kind === "none" ? 0 : smallSubgroup(gpu());
      const narrow = { ...s, k: 3 };
      const columns = columnSpec(narrow, "forward", lanes)!;
      const draw = new Draw(2720 + lanes);
      const mask = draw.mask(pixels, 0.97);
      // Columns in the order of their numbers: along a row of runs, then down, then the next image.
      const runs = Math.ceil(13 / columns.rows);
      const columnPixels = Array.from({ length: 2 * runs * 10 }, (_, i) => {
        const [x, run, n] = [i % 10, Math.floor(i / 10) % runs, Math.floor(i / 10 / runs)];
        const rows = Array.from(
          { length: Math.min(columns.rows, 13 - run * columns.rows) },
          (_, t) => run * columns.rows + t,
        );
        return rows.map((y) => mask[n * 130 + y * 10 + x]);
      });
      let computed = 0;
      for (let first = 0; first < columnPixels.length; first += lanes || 1) {
        const together = columnPixels.slice(first, first + (lanes || 1)).flat();
        if (together.some((v) => v !== 0)) computed += together.length;
      }
      expect(computed).toBeGreaterThan(0);
      expect(computed).toBeLessThan(pixels);
      await withScratch(gpu(), async (t) => {
        const [src, weight, dst] = [zeros(t, pixels, 4), zeros(t, 36, 3), zeros(t, pixels, 3)];
        const buffers = { src, weight, dst, live: { mask: t.floats(mask), n: 2 } };
        launchColumns(gpu(), { s: narrow, direction: "forward", buffers, options: {} }, columns);
        expect((await only("pconvForward")).needed, draw.seed).toBe(2 * 4 * 3 * 9 * computed);
      });
    },
  );

  it("tiles of the subgroup backend are counted as it makes them", async ({ skip }) => {
    if (!availableBackends(gpu()).includes("subgroup")) skip();
    const draw = new Draw(2710);
    const lanes = gpu().adapter.subgroupSize!;
    const mask = draw.mask(130, 0.95);
    await withScratch(gpu(), async (t) => {
      const [x, weight, y] = [zeros(t, pixels, 4), zeros(t, 36, 12), zeros(t, pixels, 12)];
      const live = { mask: t.floats(mask), n: 1 };
      const each = 2 * 4 * 12 * 9;
      pconvForward(gpu(), s, { x, weight, y, live }, "subgroup");
      pconvBackwardWeight(gpu(), s, { x, dy: y, dw: weight, live }, "subgroup");
      const totals = await counter.totals();
      // Three vec4s of channels: four lanes share their 16 pixels. Live pixels come first, so that the last tile alone is mixed.
      const tile = (16 * lanes) / 4;
      const alive = 2 * mask.reduce((sum, v) => sum + Number(v !== 0), 0);
      expect(alive % tile, "a mixed tile").not.toBe(0);
      expect(totals.get("pconvForward")!.needed).toBe(each * Math.min(pixels, Math.ceil(alive / tile) * tile));
      // Four pixels of a row at a time.
      let live4 = 0;
      for (let row = 0; row < 13; row++) live4 += inLiveTiles(mask.subarray(row * 10, row * 10 + 10), 10, 4);
      expect(totals.get("pconvBackwardWeight")!.needed).toBe(each * 2 * live4);
      expect(totals.get("pconvForward")!.needed).toBeLessThan(each * pixels);
    });
  });

  it("so they are where a workgroup computes several", async ({ skip }) => {
    if (!availableBackends(gpu()).includes("subgroup")) skip();
    const large: ConvShape = { ...s, n: 1, h: 96, w: 96, c: 4, k: 64 };
    const count = 96 * 96;
    const tile: TileSize = { pixels: 16, channels4: gpu().adapter.subgroupSize!, inTurn: true, grid: () => [1] };
    const draw = new Draw(2712);
    const mask = draw.mask(count, 0.4);
    await withScratch(gpu(), async (t) => {
      const [x, weight, y] = [zeros(t, count, 4), zeros(t, 36, 64), zeros(t, count, 64)];
      const live = { mask: t.floats(mask), n: 1 };
      const launched = gatherParams(large, "forward", tile, { src: x, weight, dst: y, live });
      expect(launched.inTurn).toBeGreaterThan(1);
      pconvForward(gpu(), large, { x, weight, y, live }, "subgroup");
      const alive = mask.reduce((sum, v) => sum + Number(v !== 0), 0);
      const needed = 2 * 4 * 64 * 9 * Math.ceil(alive / 16) * 16;
      expect((await only("pconvForward")).needed, draw.seed).toBe(needed);
    });
  });

  it("counting changes no result", async () => {
    const draw = new Draw(2711);
    await withScratch(gpu(), async (t) => {
      const x = t.activation(draw.floats(pixels * 4), 4);
      const weight = t.weight(draw.floats(9 * 48), 9, 4, 12);
      const live = { mask: t.floats(draw.mask(130, 0.5)), n: 1 };
      const run = async () => {
        const y = t.outActivation("y", pixels, 12);
        pconvForward(gpu(), s, { x, weight, y: y.storage, live });
        return (await t.read(y))[0];
      };
      const counted = await run();
      counter.detach();
      expect(await run()).toEqual(counted);
      counter = new FlopCounter(gpu());
    });
  });
});

describe("the counter", () => {
  it("refuses a second one, gives its memory back, and keeps counting after totals", async () => {
    expect(() => new FlopCounter(gpu())).toThrow("has a counter already");
    counter.detach();
    const before = gpu().memory().inUse;
    counter = new FlopCounter(gpu());
    await withScratch(gpu(), async (t) => {
      const [x, weight, y] = [zeros(t, 2 * 99, 3), zeros(t, 15 * 4, 6), zeros(t, 2 * P * Q, 6)];
      const live = { mask: t.floats(new Float32Array(P * Q).fill(1)), n: 1 };
      for (let i = 1; i <= 3; i++) {
        pconvForward(gpu(), S, { x, weight, y, live });
        expect(await only("pconvForward"), `${i} passes`).toEqual(same(i * PLAIN));
      }
      // More passes than one buffer of counts holds.
      for (let i = 0; i < 4100; i++) pconvForward(gpu(), S, { x, weight, y, live });
      expect(await only("pconvForward")).toEqual(same(4103 * PLAIN));
    });
    counter.detach();
    expect(gpu().memory().inUse).toBe(before);
    counter = new FlopCounter(gpu());
  });
});
