/** When a device counts as hung: only while a question to its queue stays unanswered. */
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { Gpu } from "../../src/gpu/gpu.js";
import { HungError, Watchdog, watchdogSeconds } from "../../tools/train/watchdog.js";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** A device whose answers the test gives. */
function watched(seconds: number) {
  const questions: (() => void)[] = [];
  const workDone = () => new Promise<void>((resolve) => questions.push(resolve));
  const dog = new Watchdog({ workDone } as unknown as Gpu, seconds);
  let error: unknown = null;
  dog.hung.catch((e: unknown) => (error = e));
  return { dog, questions, hung: () => error };
}

it("barks when nothing has been answered for the time, and no sooner", async () => {
  const { hung } = watched(100);
  await vi.advanceTimersByTimeAsync(100_000);
  expect(hung()).toBe(null);
  await vi.advanceTimersByTimeAsync(11_000);
  expect(hung()).toBeInstanceOf(HungError);
  expect(String(hung())).toContain("complete something in 1 min 40 s (--watchdog), got nothing");
});

it("begins anew with each answer", async () => {
  const { questions, hung } = watched(100);
  for (let i = 0; i < 10; i++) {
    await vi.advanceTimersByTimeAsync(90_000);
    questions.at(-1)!();
  }
  expect(questions.length).toBeGreaterThanOrEqual(10);
  expect(hung()).toBe(null);
});

it("counts looks, not the clock: a computer that slept for a day has lost one look", async () => {
  const { hung } = watched(100);
  await vi.advanceTimersByTimeAsync(20_000);
  vi.setSystemTime(Date.now() + 864e5);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(hung()).toBe(null);
});

it("never barks when it is told not to, or has stopped", async () => {
  const off = watched(0);
  const stopped = watched(10);
  stopped.dog.stop();
  await vi.advanceTimersByTimeAsync(1e6);
  expect([off.hung(), stopped.hung(), off.questions.length]).toEqual([null, null, 0]);
});

it("gives software adapters more time", () => {
  const seconds = (software: boolean) => watchdogSeconds({ adapter: { software } } as unknown as Gpu);
  expect(seconds(true)).toBeGreaterThan(seconds(false));
});
