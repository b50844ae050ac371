/** Learning rates over the steps of a run. */

/** How the rate goes on after the warm-up: it stays, or falls to nothing along half a cosine or a line. */
export const LR_SCHEDULES = ["constant", "cosine", "linear"] as const;
/** One of {@link LR_SCHEDULES}. */
export type LrSchedule = (typeof LR_SCHEDULES)[number];

/** How the learning rate goes over a run; see {@link learningRate}. */
export interface LearningRate {
  readonly schedule: LrSchedule;
  /** Highest rate. */
  readonly lr: number;
  /** Steps over which it rises from lr / warmup. */
  readonly warmup: number;
  /** Steps of the stage, the last of which ends the schedule. */
  readonly steps: number;
}

/**
 * The rate of a step, counted from 1 within its stage.
 *
 *   warm-up:  lr t / warmup                        t <= warmup
 *   cosine:   lr (1 + cos(pi x)) / 2               x = (t - warmup - 1) / (steps - warmup)
 *   linear:   lr (1 - x)
 *
 * Source: Loshchilov & Hutter 2017 (cosine), as torch's CosineAnnealingLR has it; steps beyond the stage keep its last rate.
 */
export function learningRate({ schedule, lr, warmup, steps }: LearningRate, step: number): number {
  if (step <= warmup) return (lr * step) / warmup;
  const last = Math.max(1, steps - warmup);
  const x = Math.min(step - warmup - 1, last - 1) / last;
  if (schedule === "cosine") return (lr * (1 + Math.cos(Math.PI * x))) / 2;
  return schedule === "linear" ? lr * (1 - x) : lr;
}
