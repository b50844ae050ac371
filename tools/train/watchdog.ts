/** Notices that the device has stopped: a kernel that never ends, a driver that has hung. */
import { GpuError } from "../../src/errors.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { duration } from "./reporter.js";

/** Seconds until a device that completes nothing counts as hung. A step may be one submit, and take minutes on a software adapter. */
const REAL_SECONDS = 600;
const SOFTWARE_SECONDS = 3600;
/** How often it is looked at, as a share of that time. */
const LOOKS = 20;

/** The default for an adapter. */
export const watchdogSeconds = (gpu: Gpu): number => (gpu.adapter.software ? SOFTWARE_SECONDS : REAL_SECONDS);

/** The device has completed nothing for so long that it will not: waiting for it, or closing it, never ends. */
export class HungError extends GpuError {}

/**
 * Asks the queue again and again whether what was submitted is done. Time counts only while one such question is unanswered, in
 * looks that were made: a computer that slept, a process that was stopped and a clock that jumped add none.
 */
export class Watchdog {
  /** Rejects with a {@link HungError} when the device has hung; never resolves. */
  readonly hung: Promise<never>;
  private readonly timer?: NodeJS.Timeout;

  /** @param seconds without anything completed; 0: for ever */
  constructor(gpu: Gpu, seconds: number) {
    let reject: (error: HungError) => void = () => undefined;
    this.hung = new Promise<never>((_, refuse) => (reject = refuse));
    this.hung.catch(() => undefined); // whoever does not wait for it is not told
    let waiting: object | null = null;
    let looks = 0;
    const look = () => {
      if (waiting !== null) {
        if (++looks > LOOKS) reject(hang(seconds));
        return;
      }
      const question = (waiting = {});
      looks = 0;
      const answered = () => {
        if (waiting === question) waiting = null;
      };
      // A lost device answers by an error; that is found elsewhere.
      gpu.workDone().then(answered, answered);
    };
    if (seconds > 0) this.timer = setInterval(look, (seconds / LOOKS) * 1000).unref();
  }

  stop(): void {
    clearInterval(this.timer);
  }
}

function hang(seconds: number): HungError {
  return new HungError(
    "GPU",
    `expected the device to complete something in ${duration(seconds)} (--watchdog), got nothing: it has hung`,
    "the last checkpoint is kept: start again with --resume; if it happens again, use a smaller image or batch size, update the " +
      "driver, or pass a longer --watchdog if a single step takes that long",
  );
}
