/** Waiting for Dawn: nothing of it spins in the event loop, other code's callbacks are left alone, and results come all the same. */
import { afterEach, describe, expect, it, vi } from "vitest";
import { pauseMs, withoutSpinning } from "../../src/gpu/dawnEvents.js";
import { profile } from "../../src/gpu/timing.js";
import { Rng } from "../../src/pconv/rng.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { Tape } from "../../src/autograd/tape.js";
import { useGpu } from "../support/gpu.js";

const gpu = useGpu();
afterEach(() => void vi.restoreAllMocks());

/** Records work that takes a few milliseconds at least. */
function record(model: PConvUNet): { values: () => Promise<Float32Array> } {
  const tape = new Tape(gpu(), { grad: false });
  const [h, w] = [64, 64];
  const pixels = Float32Array.from({ length: h * w * 3 }, () => Rng.of(3).uniform());
  const mask = tape.uploadMask({ n: 1, h, w }, new Float32Array(h * w).fill(1));
  const { output } = model.forward(tape, tape.upload({ n: 1, h, w, c: 3 }, pixels, "picture"), mask);
  return { values: () => output.values().finally(() => tape.dispose()) };
}

describe("waiting for Dawn on Node", () => {
  it.each([
    ["a read", async (model: PConvUNet) => void (await record(model).values())],
    [
      "a sync",
      async (model: PConvUNet) => {
        const { values } = record(model);
        await gpu().sync();
        await values();
      },
    ],
    [
      "a question to the queue",
      async (model: PConvUNet) => {
        const { values } = record(model);
        gpu().flush();
        await gpu().workDone();
        await values();
      },
    ],
    [
      "a profile",
      async (model: PConvUNet) => void (await profile(gpu(), async () => void (await record(model).values()))),
    ],
  ])("leaves the event loop alone: %s", async (_, run) => {
    const model = new PConvUNet(gpu(), { width: 0.125, depth: 5 });
    model.eval();
    await run(model); // compiles
    const immediate = vi.spyOn(globalThis, "setImmediate");
    await run(model);
    expect(immediate).not.toHaveBeenCalled();
    expect(globalThis.setImmediate).toBe(immediate);
    model.free();
  });

  it("would spin without it", async () => {
    const model = new PConvUNet(gpu(), { width: 0.125, depth: 5 });
    model.eval();
    await record(model).values();
    const immediate = vi.spyOn(globalThis, "setImmediate");
    const { values } = record(model);
    gpu().flush();
    await gpu().device.queue.onSubmittedWorkDone();
    expect(immediate).toHaveBeenCalled();
    await values();
    model.free();
  });

  it("catches every turn of a long wait", async () => {
    const immediate = vi.spyOn(globalThis, "setImmediate");
    const began = performance.now();
    let looks = 0;
    await withoutSpinning(
      () =>
        new Promise<void>((resolve) => {
          // A proxy looks like a native function without a name, as Dawn's callback does.
          const look: () => void = new Proxy(
            (() => () => {
              looks++;
              if (performance.now() - began > 50) resolve();
              else setImmediate(look);
            })(),
            {},
          );
          setImmediate(look);
        }),
    );
    expect(looks).toBeGreaterThan(1);
    expect(immediate).not.toHaveBeenCalled();
  });

  it("passes on what others schedule while Dawn is called, as it is", async () => {
    const immediate = vi.spyOn(globalThis, "setImmediate");
    const seen = await withoutSpinning(
      () => new Promise<unknown[]>((resolve) => setImmediate((...args: unknown[]) => resolve(args), 1, "two")),
    );
    expect(seen).toEqual([1, "two"]);
    expect(immediate).toHaveBeenCalledOnce();
  });

  it("gives setImmediate back when Dawn throws", () => {
    const own = globalThis.setImmediate;
    const ask = () => {
      throw new TypeError("no buffer");
    };
    expect(() => withoutSpinning(ask)).toThrow("no buffer");
    expect(globalThis.setImmediate).toBe(own);
  });

  it("pauses for a 32nd of the wait, and never longer than a millisecond", () => {
    expect([-1, 0, 3.2, 16, 32, 1e6].map(pauseMs)).toEqual([0, 0, 0.1, 0.5, 1, 1]);
  });
});
