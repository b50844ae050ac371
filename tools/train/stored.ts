/** What a run's files say when it is resumed: read with suspicion, since people edit them and disks fail. */
import { resolve } from "node:path";
import { FormatError, UserError } from "../../src/errors.js";
import { quote } from "../../src/io/byteReader.js";
import { readJsonObject } from "../../src/io/runFolder.js";
import { LR_SCHEDULES } from "../../src/pconv/learningRate.js";
import { areLossWeights, type LossWeights, lossWeightsText } from "./lossWeights.js";
import type { Invocation, TrainOptions } from "./options.js";

/** What a checkpoint knows beside weights and moments. */
export interface RunState {
  step: number;
  /** Images that the run has used, on all ranks together; null: those of `step` steps of the run's size. */
  samples: number | null;
  /** Best measure so far, and what it measured: PSNR on a validation folder, or minus the mean training loss. */
  best: { readonly step: number; readonly score: number; readonly of: string } | null;
  /** Training losses since the last milestone. */
  interval: { sum: number; count: number };
  /** A signal came before this step's validation was done: it is due when the run is resumed. */
  due: boolean;
}

/** Of a run that has made no step. */
export const newState = (): RunState => ({
  step: 0,
  samples: 0,
  best: null,
  interval: { sum: 0, count: 0 },
  due: false,
});

type Check = readonly [expected: string, holds: (value: unknown) => boolean];

const number = (expected: string, holds: (v: number) => boolean): Check => [
  expected,
  (v) => typeof v === "number" && Number.isFinite(v) && holds(v),
];
const integer = (min: number, max = Number.MAX_SAFE_INTEGER): Check => [
  max === Number.MAX_SAFE_INTEGER ? `an integer of at least ${min}` : `an integer from ${min} to ${max}`,
  (v) => Number.isSafeInteger(v) && (v as number) >= min && (v as number) <= max,
];
const orNull = (expected: string, holds: (v: number) => boolean): Check => {
  const [, given] = number(expected, holds);
  return [`${expected}, or null`, (v) => v === null || given(v)];
};
const text: Check = ["a text or null", (v) => v === null || typeof v === "string"];
const oneOf = (...choices: string[]): Check => [`one of ${choices.join(", ")}`, (v) => choices.includes(v as string)];
const boolean: Check = ["true or false", (v) => typeof v === "boolean"];

const OPTIONS: Readonly<Record<keyof TrainOptions, Check>> = {
  name: text,
  train: text,
  validation: text,
  test: text,
  masks: text,
  holes: oneOf("white", "black"),
  maskDilation: [
    "two numbers, the smaller one first",
    (v) => Array.isArray(v) && v.length === 2 && v.every(Number.isFinite) && v[0] >= 0 && v[0] <= v[1],
  ],
  minCrop: number("a share from 0.1 to 1", (v) => v >= 0.1 && v <= 1),
  drawnImages: number("a share from 0 to 1", (v) => v >= 0 && v <= 1),
  drawnMasks: number("a share from 0 to 1", (v) => v >= 0 && v <= 1),
  augment: boolean,
  stage: oneOf("train", "finetune", "both"),
  checkpoint: text,
  checkpointOptimizer: text,
  vggPath: text,
  loss: oneOf("paper", "pytorch", "keras", "nvidia"),
  lossWeights: ["factors of 0 or above by the names of loss terms", areLossWeights],
  imageSize: integer(8, 16384),
  width: number("a number above 0 and up to 8", (v) => v > 0 && v <= 8),
  depth: integer(1, 12),
  bnStatistics: oneOf("valid", "all"),
  base: oneOf("none", "harmonic"),
  ratio: boolean,
  batchSize: integer(1),
  ranks: integer(1),
  syncBatchNorm: boolean,
  steps: integer(1),
  finetuneSteps: integer(0),
  stepsPerEpoch: integer(1),
  saveEvery: integer(1),
  logEvery: integer(1),
  lr: number("a number above 0", (v) => v > 0),
  finetuneLr: number("a number above 0", (v) => v > 0),
  lrSchedule: oneOf(...LR_SCHEDULES),
  lrWarmup: integer(0),
  freeze: oneOf("encoder", "all"),
  freezeStatistics: oneOf("reestimated", "running"),
  reestimateBatches: integer(2),
  clipGradNorm: orNull("a number above 0", (v) => v > 0),
  ema: orNull("a number above 0 and below 1", (v) => v > 0 && v < 1),
  seed: integer(0),
  precision: oneOf("f32", "f16"),
  gradientCheckpointing: boolean,
};

const STATE: Readonly<Record<keyof RunState, Check>> = {
  step: integer(0),
  samples: orNull("an integer of at least 0", (v) => Number.isSafeInteger(v) && v >= 0),
  best: [
    "null, or step, score and of",
    (v) =>
      v === null ||
      (isRecord(v) && Number.isSafeInteger(v["step"]) && Number.isFinite(v["score"]) && typeof v["of"] === "string"),
  ],
  interval: ["sum and count", (v) => isRecord(v) && Number.isFinite(v["sum"]) && Number.isSafeInteger(v["count"])],
  due: boolean,
};

/** What runs of version 0.1 did before they could be told otherwise. */
const FORMERLY = {
  checkpointOptimizer: null,
  lossWeights: {},
  minCrop: 1,
  base: "none",
  ratio: true,
  drawnImages: 0,
  drawnMasks: 0,
  logEvery: 1,
  gradientCheckpointing: false,
  finetuneSteps: 0,
  finetuneLr: 5e-5,
  lrSchedule: "constant",
  lrWarmup: 0,
  freeze: "encoder",
  freezeStatistics: "running",
  reestimateBatches: 64,
  clipGradNorm: null,
  ema: null,
  ranks: 1,
  syncBatchNorm: false,
} satisfies Partial<TrainOptions>;

/** What may differ when a run is resumed; everything else would make it another run. */
const CHANGEABLE: ReadonlySet<keyof TrainOptions> = new Set<keyof TrainOptions>([
  "validation",
  "test",
  "vggPath",
  "steps",
  "finetuneSteps",
  "saveEvery",
  "logEvery",
  "lr",
  "finetuneLr",
  "clipGradNorm",
  "gradientCheckpointing",
]);
const PATHS: ReadonlySet<keyof TrainOptions> = new Set<keyof TrainOptions>([
  "train",
  "masks",
  "checkpoint",
  "checkpointOptimizer",
]);

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A value for a message. Not JSON of lists and objects: they may be nested deeper than the stack. */
function shown(value: unknown): string {
  if (typeof value === "string") return quote(value);
  if (Array.isArray(value)) return `a list of ${value.length}`;
  return isRecord(value) ? "an object" : String(value);
}

/** @throws {FormatError} when a key is missing, unknown, or of another type. */
function checkKeys(
  found: Readonly<Record<string, unknown>>,
  checks: Readonly<Record<string, Check>>,
  where: string,
  help: string,
): void {
  const unknown = Object.keys(found).find((key) => !Object.hasOwn(checks, key));
  if (unknown !== undefined) throw new FormatError(where, `expected only known keys, got ${quote(unknown)}`, help);
  for (const [key, [expected, holds]] of Object.entries(checks)) {
    if (Object.hasOwn(found, key) && holds(found[key])) continue;
    const got = Object.hasOwn(found, key) ? shown(found[key]) : "nothing";
    throw new FormatError(where, `expected "${key}" to be ${expected}, got ${got}`, help);
  }
}

/**
 * The options of a resumed run: the stored ones, with what may change taken from the command line.
 * @throws {FormatError} when the stored ones are not what this command writes.
 * @throws {UserError} when an option was given that would make it another run.
 */
export function resumedOptions(
  stored: Readonly<Record<string, unknown>>,
  call: Invocation,
  where: string,
): TrainOptions {
  const complete = { ...FORMERLY, ...stored };
  checkKeys(complete, OPTIONS, where, "undo the changes to the file, or start a new run");
  const run = complete as unknown as TrainOptions;
  const { options, given } = call;
  const merged: Record<string, unknown> = { ...run, ranks: options.ranks };
  for (const key of Object.keys(OPTIONS) as (keyof TrainOptions)[]) {
    if (!given.has(key) || (key === "name" && call.out === null)) continue; // the name has found the folder
    const same =
      JSON.stringify(run[key]) === JSON.stringify(options[key]) || (PATHS.has(key) && samePath(run[key], options[key]));
    const otherLoss = key === "vggPath" && (run.vggPath === null) !== (options.vggPath === null);
    if (run.stage !== "both" && (key === "finetuneSteps" || key === "finetuneLr")) {
      const problem = `expected it with a run of --stages both, got one of --stage ${run.stage}`;
      throw new UserError(flag(key, options[key]), problem, "leave the option out, or start a new run");
    }
    // The first of two stages ends where it was said to: batch norm is frozen there.
    // The steps stay what they were when fewer ranks take more images each.
    const sameStep = key === "batchSize" && options.batchSize * options.ranks === run.batchSize * run.ranks;
    const otherStage = key === "steps" && run.stage === "both";
    if (sameStep || (CHANGEABLE.has(key) && !otherLoss && !otherStage)) merged[key] = options[key];
    else if (!same)
      throw new UserError(
        flag(key, options[key]),
        `expected ${flag(key, run[key])} as the run was started, got ${flag(key, options[key])}`,
        "leave the option out, or start a new run",
      );
  }
  if (given.has("epochs") && run.stage !== "both") merged["steps"] = call.epochs * run.stepsPerEpoch;
  else if (given.has("epochs") && run.steps !== call.epochs * run.stepsPerEpoch) {
    const problem = `expected the ${run.steps} steps of the first stage as the run was started, got ${call.epochs} epochs`;
    throw new UserError("--epochs", problem, "leave the option out; --finetune-steps makes the second stage longer");
  }
  return merged as unknown as TrainOptions;
}

const samePath = (a: unknown, b: unknown): boolean =>
  typeof a === "string" && typeof b === "string" && resolve(a) === resolve(b);

/** An option as it is written on the command line. */
function flag(key: keyof TrainOptions, value: unknown): string {
  if (key === "augment" || key === "ratio") return value === true ? `no --no-${key}` : `--no-${key}`;
  if (key === "stage" && value === "both") return "--stages both";
  if (key === "vggPath" && value === null) return "--no-vgg";
  if (key === "lossWeights") {
    const factors = lossWeightsText(value as LossWeights);
    return factors === "" ? "no --loss-weights" : `--loss-weights ${factors}`;
  }
  const name = `--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;
  return value === null
    ? `no ${name}`
    : `${name} ${Array.isArray(value) ? value.join() : JSON.stringify(value).replaceAll('"', "")}`;
}

/**
 * The state file of the checkpoint of `step`.
 * @throws {FormatError} when it is not what this command writes.
 */
export async function readState(path: string, step: number): Promise<RunState> {
  const help = "use another checkpoint";
  // Version 0.1 did not count images.
  const found: Record<string, unknown> = { samples: null, ...(await readJsonObject(path, help)) };
  checkKeys(found, STATE, path, help);
  if (found["step"] !== step)
    throw new FormatError(path, `expected step ${step} as its folder is named, got ${shown(found["step"])}`, help);
  // In the order in which a new run writes them: a resumed run ends with the same bytes.
  return Object.fromEntries(Object.keys(STATE).map((key) => [key, found[key]])) as unknown as RunState;
}
