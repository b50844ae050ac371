/**
 * Waiting for Dawn on Node without spinning.
 *
 * While a promise of Dawn's is pending, its binding looks for finished work in a callback that it hands to the global `setImmediate`, and that
 * hands itself on until there is nothing left to wait for. That keeps one core busy for as long as the device works, and the garbage collector
 * with it: on a software adapter the kernels lose that core. Here the callback is caught on its way and called after pauses.
 */
import { setImmediate as soon, setTimeout as later } from "node:timers";

/** A callback in which Dawn looks for finished work. */
type Look = () => void;

/** The next pause as a share of the wait so far: a result is late by no more than that. */
const SHARE = 1 / 32;
/** Longer pauses leave the thread to the event loop, whose timers know whole milliseconds; shorter ones stop it. */
const TIMER_MS = 1;

/** Milliseconds until the next look when Dawn has been waited for so many. */
export const pauseMs = (waited: number): number => Math.min(TIMER_MS, Math.max(0, waited) * SHARE);

/** Never changes: waiting for it to is sleeping. */
const still = new Int32Array(new SharedArrayBuffer(4));
/** When the last wait began. */
let began = 0;

/** Calls into Dawn, and takes the callbacks that it means to be called soon. Other code's go their way. */
function catching<T>(call: () => T): T {
  const own = globalThis.setImmediate;
  const caught = (callback: (...args: unknown[]) => void, ...args: unknown[]) =>
    isDawns(callback, args) ? schedule(callback) : own(callback, ...args);
  globalThis.setImmediate = caught as unknown as typeof setImmediate;
  try {
    return call();
  } finally {
    globalThis.setImmediate = own;
  }
}

/** A handler of device errors is JavaScript that Dawn calls: what that hands over is not Dawn's. */
function isDawns(callback: (...args: unknown[]) => void, args: readonly unknown[]): callback is Look {
  const native = callback.name === "" && Function.prototype.toString.call(callback).endsWith("{ [native code] }");
  return native && args.length === 0;
}

function schedule(look: Look): unknown {
  const pause = pauseMs(performance.now() - began);
  if (pause >= TIMER_MS) return later(() => catching(look), pause);
  return soon(() => {
    Atomics.wait(still, 0, 0, pause);
    catching(look);
  });
}

/**
 * Starts something that Dawn promises, and has Dawn look for its end after pauses of a 32nd of the time waited so far, at most a millisecond.
 * @param ask calls Dawn, and returns its promise
 */
export function withoutSpinning<T>(ask: () => Promise<T>): Promise<T> {
  began = performance.now();
  return catching(ask);
}
