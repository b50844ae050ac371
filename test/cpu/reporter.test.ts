import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, it, vi } from "vitest";
import type { RunFolder } from "../../src/io/runFolder.js";
import { Reporter } from "../../tools/train/reporter.js";

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

it("tells the speed of late, without pauses, and a time left that has its share of them", async () => {
  const dir = await mkdtemp(join(tmpdir(), "pconv-reporter-"));
  vi.useFakeTimers({ toFake: ["performance"] });
  const lines: string[] = [];
  vi.spyOn(console, "error").mockImplementation((line: string) => void lines.push(line));
  const folder = { eventsPath: () => Promise.resolve(join(dir, "events")), flushLog: () => undefined };
  const reporter = await Reporter.open(folder as unknown as RunFolder, {
    ...{ json: false, first: 0, total: 10_000, gradNorm: false, batchSize: 4, stepsPerEpoch: 1000 },
  });
  let step = 0;
  const train = (steps: number, ms: number) => {
    for (let i = 0; i < steps; i++) {
      vi.advanceTimersByTime(ms);
      reporter.step(++step, null);
    }
  };
  train(1, 20_000); // kernels compile
  train(999, 1000); // a line every ten seconds
  expect(lines.at(-1)).toMatch(/\| 4\.00 images\/s \| ETA 2 h 30 min$/);
  await reporter.pause(async () => void vi.advanceTimersByTime(500_000));
  train(500, 2000); // slower for longer than the speed looks back
  // Of 1,500 steps each had a third of a second of the pause: 8,500 times 2.33 s.
  expect(lines.at(-1)).toMatch(/^step 1\d+\/10000 .*\| 2\.00 images\/s \| ETA 5 h 30 min$/);
  vi.useRealTimers();
  await rm(dir, { recursive: true });
});
