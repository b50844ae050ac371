import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { Prefetcher } from "../../src/pconv/prefetch.js";

describe("Prefetcher", () => {
  it("hands out in order whatever finishes first, and works `depth` ahead", async () => {
    let [underWay, most] = [0, 0];
    const asked: number[] = [];
    const ahead = new Prefetcher(
      async (index) => {
        asked.push(index);
        most = Math.max(most, ++underWay);
        await sleep((index % 3) * 5);
        underWay--;
        return index;
      },
      10,
      3,
    );
    const got: number[] = [];
    for (let i = 0; i < 7; i++) got.push(await ahead.next());
    await ahead.close();
    expect(got).toEqual([10, 11, 12, 13, 14, 15, 16]);
    expect(most).toBe(4); // the one that is waited for, and three more
    expect(asked).toEqual([10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    expect(underWay).toBe(0);
    await expect(ahead.next()).rejects.toThrow(/closed/);
  });

  it("reports a failure at its own turn and goes on", async () => {
    const ahead = new Prefetcher(
      (index) => {
        if (index === 1) throw new Error("broken one");
        return Promise.resolve(index);
      },
      0,
      4,
    );
    await sleep(5); // the failure must not end the program before it is asked for
    expect(await ahead.next()).toBe(0);
    await expect(ahead.next()).rejects.toThrow("broken one");
    expect(await ahead.next()).toBe(2);
    await ahead.close();
  });

  it("refuses a depth below 1", () => {
    for (const depth of [0, -1, 1.5, NaN]) {
      expect(() => new Prefetcher((i) => Promise.resolve(i), 0, depth)).toThrow(/depth of 1 or more/);
    }
  });
});
