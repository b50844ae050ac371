/** Tuning: what is measured, what is remembered, and that the same memory gives the same choice. */
import { describe, expect, it, vi } from "vitest";
import { UserError } from "../../src/errors.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import type { TuningStore } from "../../src/gpu/tuningStore.js";
import { gatherCandidates, weightCandidates } from "../../src/kernels/conv/choice.js";
import { callClass, type ConvCall, tunedOf } from "../../src/kernels/conv/tuned.js";
import { collectConvolutions, tuneConvolutions } from "../../src/kernels/conv/tuning.js";
import { pconvBackwardWeight } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForward } from "../../src/kernels/pconvForward.js";
import type { ConvShape } from "../../src/kernels/shape.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();

const s: ConvShape = {
  ...{ n: 1, h: 4, w: 4, c: 4, k: 4 },
  ...{ kernel: [1, 1], stride: [1, 1], padding: [0, 0], dilation: [1, 1] },
};
const forward = { s, direction: "forward", weightPerImage: false, half: false } as const;
const weight = { s, imagePerTap: false, half: false } as const;
const CALLS: readonly ConvCall[] = [
  { pass: "gather", ...forward },
  { pass: "weight", ...weight },
];

/** The GPU as another object, with nothing measured on it yet, and as a real one if wanted. */
function fresh(software = false): Gpu {
  return Object.create(gpu(), { adapter: { value: { ...gpu().adapter, software } } }) as Gpu;
}

/** A store in memory. */
function memory(text: string | null = null): TuningStore & { text: string | null } {
  const store = {
    name: "memory",
    text,
    read: () => Promise.resolve(store.text),
    write: (written: string) => {
      store.text = written;
      return Promise.resolve();
    },
  };
  return store;
}

/** What was stored, with its choices changed. */
function edited(
  store: { text: string | null },
  change: Record<string, unknown>,
): TuningStore & { text: string | null } {
  const contents = JSON.parse(store.text!) as { choices: Record<string, unknown> };
  return memory(JSON.stringify({ ...contents, choices: { ...contents.choices, ...change } }));
}

describe("collectConvolutions", () => {
  it("lists each class of passes once, and records none of them", async () => {
    await withScratch(gpu(), async (t) => {
      const x = t.activation(new Float32Array(64).fill(1), 4);
      const w = t.weight(new Float32Array(16).fill(1), 1, 4, 4);
      const y = t.outActivation("y", 16, 4);
      const calls = await collectConvolutions(gpu(), () => {
        for (let i = 0; i < 2; i++) pconvForward(gpu(), s, { x, weight: w, y: y.storage });
        pconvBackwardWeight(gpu(), s, { x, dy: x, dw: y.storage });
      });
      expect(calls).toEqual(CALLS);
      const [untouched] = await t.read(y);
      expect(untouched.every(Number.isNaN)).toBe(true);
      pconvForward(gpu(), s, { x, weight: w, y: y.storage });
      expect((await t.read(y))[0].every((v) => v === 4)).toBe(true);
    });
  });
});

describe("tuneConvolutions", () => {
  it("measures when forced, chooses among the candidates, and keeps what it measured", async () => {
    const store = memory();
    const progress: string[] = [];
    const onProgress = (done: number, total: number) => progress.push(`${done}/${total}`);
    const device = fresh(true);
    expect(await tuneConvolutions(device, CALLS, { mode: "force", store, onProgress })).toEqual({
      measured: 2,
      known: 0,
    });
    expect(progress).toEqual(["0/2", "1/2", "2/2"]);
    expect(gatherCandidates(device, forward)).toContainEqual(tunedOf(device).gather(forward));
    expect(weightCandidates(device, weight)).toContainEqual(tunedOf(device).weight(weight));

    // Half precision is a class of its own, also where there are no matrix units.
    const halves = { ...weight, half: true };
    await tuneConvolutions(device, [{ pass: "weight", ...halves }], { mode: "force" });
    expect(weightCandidates(device, halves)).toContainEqual(tunedOf(device).weight(halves));
    expect(tunedOf(device).choices.size).toBe(3);
    tunedOf(device).choices.delete(callClass({ pass: "weight", ...halves }));

    // Another process on the same adapter: the same choices, nothing measured.
    const later = fresh();
    expect(await tuneConvolutions(later, CALLS, { store })).toEqual({ measured: 0, known: 2 });
    expect(tunedOf(later).choices).toEqual(tunedOf(device).choices);

    // Whatever the store says, if it is a candidate.
    const name = callClass(CALLS[0]);
    for (const choice of gatherCandidates(device, forward)) {
      const reader = fresh();
      await tuneConvolutions(reader, CALLS, { store: edited(store, { [name]: choice }) });
      expect(tunedOf(reader).gather(forward)).toEqual(choice);
    }
    const foreign = { backend: "workgroup", spec: { pixels: 7 }, splits: 1 };
    const doubter = fresh();
    const report = await tuneConvolutions(doubter, CALLS, { store: edited(store, { [name]: foreign }) });
    expect(report).toEqual({ measured: 1, known: 1 });
    expect(gatherCandidates(device, forward)).toContainEqual(tunedOf(doubter).gather(forward));
  });

  it.each([
    ["cut short", '{"format":"pconv-tuning/1","choi', 1],
    ["of another format", '{"format":"tune/7","choices":{}}', 1],
    ["null", "null", 1],
    ["of another adapter", '{"format":"pconv-tuning/1","adapter":"other","kernels":"00","choices":{}}', 0],
  ])("measures anew when the store is %s", async (_, text, warnings) => {
    const store = memory(text);
    const onWarning = vi.fn();
    const calls = CALLS.slice(0, 1);
    expect(await tuneConvolutions(fresh(), calls, { store, onWarning })).toEqual({ measured: 1, known: 0 });
    expect(onWarning).toHaveBeenCalledTimes(warnings);
    expect(await tuneConvolutions(fresh(), calls, { store })).toEqual({ measured: 0, known: 1 });
  });

  it("goes on without a store that cannot be written", async () => {
    const store = { ...memory(), write: () => Promise.reject(new Error("disk full")) };
    const onWarning = vi.fn();
    const device = fresh();
    await tuneConvolutions(device, CALLS.slice(0, 1), { store, onWarning });
    expect(onWarning).toHaveBeenCalledExactlyOnceWith("memory: not kept for the next run (disk full)");
    expect(tunedOf(device).choices.size).toBe(1);
  });

  it("never measures on software adapters, nor when PCONV_TUNE is off, and refuses other words", async () => {
    const nothing = { measured: 0, known: 0 };
    expect(await tuneConvolutions(fresh(true), CALLS)).toEqual(nothing);
    vi.stubEnv("PCONV_TUNE", "off");
    expect(await tuneConvolutions(fresh(), CALLS)).toEqual(nothing);
    vi.stubEnv("PCONV_TUNE", "of");
    await expect(tuneConvolutions(fresh(), CALLS)).rejects.toThrow(UserError);
    vi.unstubAllEnvs();
  });
});
