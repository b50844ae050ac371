/** Commands that wait for the host: recorded at once, run in order. */
import { describe, expect, it } from "vitest";
import { openGpu } from "../../src/gpu/node.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { weightedSum } from "../../src/kernels/weightedSum.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();

/** A promise, and how to settle it from outside. */
function later<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: Error) => void } {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

const turn = () => new Promise((resolve) => setTimeout(resolve, 20));

describe("waitFor", () => {
  it("keeps dispatches, writes, copies and readbacks in the order in which they were recorded", async () => {
    await withScratch(gpu(), async (t) => {
      const [a, b, c] = [t.floats([1, 2, 3, 4]), t.floats([0, 0, 0, 0]), t.floats([0, 0, 0, 0])];
      const add = (alpha: number, from: typeof a, to: typeof a) => weightedSum(gpu(), 1, { alpha }, { a: from, y: to });
      const host = later<undefined>();
      add(2, a, b);
      const before = gpu().read(b);
      gpu().waitFor(host.promise.then(() => gpu().put(a, new Float32Array([10, 20, 30, 40]))));
      add(3, a, b); // with what the host gives
      gpu().copy(b, c, 16);
      const written = new Float32Array([5, 5, 5, 5]);
      gpu().write(a, written);
      written.fill(7); // the caller may use it again
      add(1, a, b);
      const after = gpu().read(a, b, c);
      expect([...(await before)[0]]).toEqual([2, 4, 6, 8]);
      let ended = false;
      void after.then(() => (ended = true));
      await turn();
      expect(ended).toBe(false);
      host.resolve(undefined);
      expect((await after).map((v) => [...v])).toEqual([[5, 5, 5, 5], [5, 5, 5, 5], [30, 60, 90, 120]]); // prettier-ignore
    });
  });

  it("is waited for by sync, several times over, and costs nothing when it is over", async () => {
    await withScratch(gpu(), async (t) => {
      const a = t.floats([1, 0, 0, 0]);
      const b = t.floats([0, 0, 0, 0]);
      for (let i = 0; i < 3; i++) {
        const own = i;
        gpu().waitFor(turn().then(() => gpu().put(a, new Float32Array([own, 0, 0, 0]))));
        weightedSum(gpu(), 1, { alpha: 1 }, { a, y: b });
      }
      await gpu().sync();
      weightedSum(gpu(), 1, { alpha: 2 }, { a: b, y: a });
      let submits = 0;
      const { queue } = gpu().device;
      const submit = queue.submit.bind(queue);
      queue.submit = (commands) => {
        submits++;
        return submit(commands);
      };
      gpu().flush(); // at once: nothing waits any more
      queue.submit = submit;
      expect(submits).toBe(1);
      expect((await gpu().read(a))[0][0]).toBe(4);
    });
  });

  it("keeps the uniforms of more dispatches than fit into one submit", async () => {
    await withScratch(gpu(), async (t) => {
      const [a, b] = [t.floats([1, 1, 1, 1]), t.floats([0, 0, 0, 0])];
      const host = later<undefined>();
      gpu().waitFor(host.promise);
      // The last one has the first slot of the second submit, which the dispatch after the readback takes too.
      for (let i = 1; i <= 4097; i++) weightedSum(gpu(), 1, { alpha: i }, { a, y: b });
      const last = gpu().read(b);
      weightedSum(gpu(), 1, { alpha: -1 }, { a, y: b });
      host.resolve(undefined);
      expect((await last)[0][0]).toBe(4097);
    });
  });

  it("throws at the next use when what it waits for fails, and runs nothing behind it", async () => {
    const own: Gpu = await openGpu();
    const a = own.alloc(16, "a");
    own.write(a, new Float32Array([1, 2, 3, 4]));
    const { queue } = own.device;
    let writes = 0;
    const writeBuffer = queue.writeBuffer.bind(queue);
    queue.writeBuffer = (...args: Parameters<typeof writeBuffer>) => {
      writes++;
      return writeBuffer(...args);
    };
    own.waitFor(Promise.reject(new Error("rank 3 is gone")));
    own.write(a, new Float32Array([9, 9, 9, 9]));
    await expect(own.sync()).rejects.toThrow("rank 3 is gone");
    expect(() => own.alloc(16, "b")).toThrow("rank 3 is gone");
    expect(writes).toBe(0);
    own.close();
  });
});
