/** The live pixels of rows against their reference. */
import { describe, expect, it } from "vitest";
import { LIVE_STEP, livePitch, liveRows, liveRowsRef } from "../../src/kernels/conv/liveRows.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();

describe("live pixels of rows", () => {
  const cases: [string, number, number, number][] = [
    ["half of them", 7, 29, 0.5],
    ["whole rows, a multiple of a step wide", 3, 16, 0],
    ["whole rows that end within a step", 3, 17, 0],
    ["none", 4, 9, 1],
    ["rows narrower than a step", 40, 2, 0.5],
    ["nearly whole rows", 64, 8, 0.1],
  ];
  it.each(cases)("%s", async (_, rows, q, holes) => {
    const draw = new Draw(3200);
    const mask = draw.mask(rows * q, holes);
    await withScratch(gpu(), async (t) => {
      const columns = liveRows(gpu(), t.floats(mask), rows, q);
      const [raw] = await gpu().read(columns);
      gpu().free(columns);
      const pitch = livePitch(q);
      const got = new Uint32Array(raw.buffer, raw.byteOffset, rows * pitch);
      for (let row = 0; row < rows; row++) {
        const want = liveRowsRef(Array.from(mask.subarray(row * q, row * q + q), (v) => v !== 0));
        expect(want.length % LIVE_STEP, "whole steps").toBe(1);
        expect([...got.subarray(row * pitch, row * pitch + want.length)], `${draw.seed}, row ${row}`).toEqual(want);
      }
    });
  });
});
