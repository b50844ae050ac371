/** Timing several implementations of the same work in turns, so that whatever else the machine does hits all of them alike. */
import { setTimeout as sleep } from "node:timers/promises";

/** Short passes are repeated until one sample takes this long: waiting for the device then costs about a percent. */
const SAMPLE_MS = 20;
const MAX_PASSES = 256;
/** Without a given number of samples: at least so many samples and milliseconds each, but none begins after MAX_BUDGET_MS. */
const BUDGET_MS = 300;
const MAX_BUDGET_MS = 3000;
const MIN_SAMPLES = 3;
const MAX_SAMPLES = 25;

/** Of one pass, in milliseconds. */
export interface Times {
  readonly medianMs: number;
  readonly minMs: number;
}

/** With every round's sample, in their order. */
export interface TimesInTurns extends Times {
  readonly rounds: readonly number[];
}

/** Something that can be timed. */
export interface Sampler {
  /** Does the work `passes` times, waits for the last result, and says how long one pass took, in milliseconds. */
  sample(passes: number): Promise<number>;
}

export function summarizeTimes(samples: readonly number[]): Times {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const medianMs = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { medianMs, minMs: sorted[0] };
}

/** Median over the rounds of one's time over the other's: what slows a whole round down cancels out. */
export function medianRatio(times: TimesInTurns, over: TimesInTurns): number {
  const both = times.rounds.slice(0, over.rounds.length);
  return summarizeTimes(both.map((ms, i) => ms / over.rounds[i])).medianMs;
}

class Series {
  readonly samples: number[] = [];
  readonly rounds: number[] = [];
  error: Error | null = null;
  private passes = 1;
  private spent = 0;

  constructor(private readonly sampler: Sampler) {}

  /** One run to compile, one to see how long it takes; the latter is the first sample, if it was long. */
  async prepare(): Promise<void> {
    await this.guarded(async () => {
      await this.sampler.sample(1);
      const first = await this.sampler.sample(1);
      this.passes = Math.max(1, Math.min(MAX_PASSES, Math.ceil(SAMPLE_MS / first)));
      if (this.passes === 1) this.samples.push(first);
      this.spent = first;
    });
  }

  done(repeat: number | undefined): boolean {
    if (this.error) return true;
    const { length } = this.samples;
    if (repeat !== undefined) return length >= repeat;
    if (length >= MAX_SAMPLES || (length > 0 && this.spent > MAX_BUDGET_MS)) return true;
    return length >= MIN_SAMPLES && this.spent > BUDGET_MS;
  }

  async sample(): Promise<void> {
    await this.guarded(async () => {
      const ms = await this.sampler.sample(this.passes);
      this.samples.push(ms);
      this.rounds.push(ms);
      this.spent += ms * this.passes;
    });
  }

  private async guarded(run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      this.error = error instanceof Error ? error : new Error(String(error));
    }
  }
}

/**
 * Times all samplers, a sample of each in every round. One that fails gives its error, and the others go on.
 * @param repeat samples of each; absent: as many as fit a few seconds
 * @param restMs milliseconds between one sample and the next
 */
export async function alternate(
  samplers: readonly Sampler[],
  repeat?: number,
  restMs = 0,
): Promise<(TimesInTurns | Error)[]> {
  const series = samplers.map((s) => new Series(s));
  for (const s of series) await s.prepare();
  for (;;) {
    const left = series.filter((s) => !s.done(repeat));
    if (left.length === 0) break;
    for (const s of left) {
      if (restMs > 0) await sleep(restMs);
      await s.sample();
    }
  }
  return series.map((s) => s.error ?? { ...summarizeTimes(s.samples), rounds: s.rounds });
}
