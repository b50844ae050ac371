/** Planned buffers: what lives at the same time never shares one, and little more is needed than lives at once. */
import { describe, expect, it } from "vitest";
import { type Lifetime, planBuffers } from "../../src/gpu/bufferPlan.js";
import { Draw } from "../support/draw.js";

describe("planBuffers", () => {
  it("shares buffers between lifetimes that do not overlap, the large ones first", () => {
    const lives: Lifetime[] = [
      { bytes: 1024, from: 0, to: 1 },
      { bytes: 16, from: 2, to: 7 },
      { bytes: 4096, from: 3, to: 4 },
      { bytes: 2048, from: 5, to: 6 },
    ];
    expect(planBuffers(lives)).toEqual({
      buffers: [4096, 256],
      handOuts: [
        { bytes: 1024, buffer: 0 },
        { bytes: 16, buffer: 1 },
        { bytes: 4096, buffer: 0 },
        { bytes: 2048, buffer: 0 },
      ],
    });
  });

  it("holds for random lifetimes", () => {
    for (let seed = 0; seed < 50; seed++) {
      const draw = new Draw(0x706c616e, seed);
      const lives: Lifetime[] = [];
      const open: { bytes: number; from: number; to: number }[] = [];
      for (let time = 0; time < 200; time++) {
        if (open.length > 0 && draw.integer(0, 1) === 0) open.splice(draw.integer(0, open.length - 1), 1)[0].to = time;
        else {
          const life = { bytes: 4 * draw.integer(1, 5000), from: time, to: Infinity };
          open.push(life);
          lives.push(life);
        }
      }
      const { buffers, handOuts } = planBuffers(lives);
      const most = (of: (at: number) => number) => Math.max(...Array.from({ length: 200 }, (_, at) => of(at)));
      const living = (at: number) =>
        lives.filter((l) => l.from <= at && at <= l.to).reduce((sum, l) => sum + l.bytes, 0);
      expect(buffers.reduce((a, b) => a + b)).toBeLessThan(2 * most(living) + 256 * buffers.length);
      handOuts.forEach((a, i) => {
        expect(buffers[a.buffer]).toBeGreaterThanOrEqual(lives[i].bytes);
        handOuts.forEach((b, j) => {
          if (i < j && a.buffer === b.buffer) {
            expect(lives[i].to < lives[j].from || lives[j].to < lives[i].from, draw.seed).toBe(true);
          }
        });
      });
    }
  });
});
