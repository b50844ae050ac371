/** Some hundred spoilt inputs of every format, and whether the fuzzer would notice what it looks for. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { FormatError } from "../../src/errors.js";
import { type CampaignOptions, runCampaign } from "../../tools/fuzz/campaign.js";
import type { FuzzFormat, Outcome } from "../../tools/fuzz/case.js";
import { FORMATS } from "../../tools/fuzz/formats.js";
import { Judge, loadCase, makeCase, writeCase } from "../../tools/fuzz/judge.js";

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "pconv-fuzz-test-"));
  vi.stubEnv("PCONV_MAX_PIXELS", ""); // the judge sets it
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(root, { recursive: true });
});

/** Another seed than that of the kept campaigns. */
const SEED = 2018;
/** The slow ones read fewer. */
const RUNS: Readonly<Record<string, number>> = { h5: 60, jpeg: 120, masks: 120, config: 60, url: 120 };

describe("readers", () => {
  it.each(FORMATS.map((format) => [format.name, format] as const))("take or refuse spoilt %s", async (name, format) => {
    const judge = await Judge.open(format);
    const counts: Partial<Record<Outcome, number>> = {};
    try {
      for (let index = 0; index < (RUNS[name] ?? 250); index++) {
        const { outcome, detail } = await judge.judge(index, makeCase(format, SEED, index));
        expect(outcome, `npm run fuzz -- --format ${name} --seed ${SEED}: case ${index}: ${detail}`).not.toBe("crash");
        counts[outcome] = (counts[outcome] ?? 0) + 1;
      }
    } finally {
      await judge.close();
    }
    // Cases that are all refused, at once perhaps, or all taken would test nothing.
    expect(counts.accepted).toBeGreaterThan(0);
    expect(counts.refused).toBeGreaterThan(0);
  });
});

describe("cases", () => {
  it.each(FORMATS.map((format) => [format.name, format] as const))(
    "of %s follow from seed and number",
    async (_, format) => {
      await format.prepare();
      try {
        const made = Array.from({ length: 20 }, (_, i) => makeCase(format, 5, i));
        expect(makeCase(format, 5, 13)).toEqual(made[13]);
        expect(makeCase(format, 6, 13)).not.toEqual(made[13]);
      } finally {
        await format.close?.();
      }
    },
  );

  it("are kept as files from which they can be had back", async () => {
    const input = {
      files: { "a.png": Uint8Array.of(1, 2), "b/c": new Uint8Array(0) },
      links: { l: "a.png", "b/m": ".." },
    };
    await writeCase(join(root, "kept"), input);
    expect(await loadCase(join(root, "kept"))).toEqual(input);
  });
});

describe("the judge", () => {
  const judged = async (read: () => Promise<void>) => {
    const format: FuzzFormat = { name: "x", prepare: async () => undefined, make: () => ({ files: {} }), read };
    const judge = await Judge.open(format);
    const { outcome, detail } = await judge.judge(0, { files: {} });
    await judge.close();
    return { outcome, detail };
  };
  const throwing = (error: Error) => judged(() => Promise.reject(error));

  it("tells refusals from faults", async () => {
    expect(await judged(async () => undefined)).toEqual({ outcome: "accepted", detail: "" });
    const refused = await throwing(new FormatError("f", 'expected 3 of "a b", got 4', "copy it"));
    expect(refused).toEqual({ outcome: "refused", detail: 'expected N of "..."' });
    expect((await throwing(new RangeError("x"))).outcome).toBe("crash");
    expect((await throwing(new FormatError("f", "x", ""))).detail).toContain("not two lines");
    expect((await throwing(new FormatError("f", "x".repeat(5000), "y"))).outcome).toBe("crash");
  });
});

describe("a campaign", () => {
  /** A process that does `work` for each case `i`, and reports as the true one does. */
  const campaign = (work: string, o: Partial<CampaignOptions> = {}, end = "") => {
    const child = join(root, `child-${Math.random()}.mjs`);
    const text = `
      const held = (cases) => ({ held: { cases, rssBytes: process.memoryUsage().rss, heldBytes: 0, files: 3, handles: 0 ${end} } });
      const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
      process.once("message", async ({ first, end, warmUp }) => {
        for (let i = first; i < end; i++) {
          if (i - first === warmUp) process.send(held(i - first));
          process.send({ begun: i });
          await sleep(5);
          ${work}
          process.send({ verdict: { index: i, outcome: "refused", ms: 1, detail: "kind" } });
        }
        process.send(held(end - first));
        process.send({ done: true }, () => process.disconnect());
      });`;
    writeFileSync(child, text);
    const limits = { timeoutMs: 1500, memoryBytes: 2 ** 40 };
    return runCampaign({ format: "x", seed: 1, runs: 10, ...limits, child: pathToFileURL(child), ...o });
  };

  it("counts every case once, and tells of none that is well", async () => {
    const seen: number[] = [];
    const result = await campaign("", { onVerdict: ({ index }) => seen.push(index) });
    expect(result.counts).toEqual({ accepted: 0, refused: 10, crash: 0, hang: 0, memory: 0 });
    expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(result).toMatchObject({ faults: [], leaks: [], refusals: [["kind", 10]] });
    expect(result.held).toMatchObject({ first: { cases: 2 }, last: { cases: 10 } });
  });

  it("goes on behind a case that ends the process, or never ends", async () => {
    const result = await campaign(
      'if (i === 2) process.kill(process.pid, "SIGSEGV"); if (i === 3) throw new Error("x"); if (i === 6) for (;;); if (i === 8) await new Promise(() => 0);',
    );
    expect(result.counts).toEqual({ accepted: 0, refused: 6, crash: 3, hang: 1, memory: 0 });
    expect(result.faults.map(({ index, outcome }) => `${index} ${outcome}`)).toEqual([
      "2 crash",
      "3 crash",
      "6 hang", // with nothing to wait for, Node ends the process of the last one
      "8 crash",
    ]);
    expect(result.faults[0].detail).toContain("SIGSEGV");
  });

  it("takes a process that was stopped, with its watcher, for none that hangs", async () => {
    // The watcher's clock goes on meanwhile, as it does while a computer sleeps.
    const clock = performance.now.bind(performance);
    let jump = 0;
    const spy = vi.spyOn(performance, "now").mockImplementation(() => clock() + jump);
    const sleep = () => setTimeout(() => (jump = 600_000), 100);
    const result = await campaign("if (i === 5) await sleep(400);", {
      onVerdict: ({ index }) => void (index === 4 && sleep()),
    });
    spy.mockRestore();
    expect(result.counts).toMatchObject({ refused: 10, hang: 0 });
    expect(result.seconds).toBeGreaterThan(600);
  });

  it.runIf(process.platform === "linux")("ends a process that takes too much memory", async () => {
    const grow = "if (i === 4) { globalThis.kept = Buffer.alloc(400e6, 1); await sleep(1000); }";
    const result = await campaign(grow, { memoryBytes: 300e6 });
    expect(result.counts).toMatchObject({ refused: 9, memory: 1, crash: 0 });
    expect(result.peakBytes).toBeGreaterThan(300e6);
  });

  it("finds what grows from case to case", async () => {
    const leak = await campaign("(globalThis.kept ??= []).push(Buffer.alloc(20e6, 1));");
    expect(leak.leaks).toHaveLength(1);
    expect(leak.leaks[0]).toMatch(/^RSS \d+ MiB to \d+ MiB in 8 cases$/);
    const files = await campaign("", {}, ", files: 3 + cases, handles: cases");
    expect(files.leaks).toEqual(["open files 5 to 13 in 8 cases", "handles 2 to 10 in 8 cases"]);
  });
});
