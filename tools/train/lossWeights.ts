/** `--loss-weights`: factors of the loss terms, as `term=factor`. */
import { InvalidArgumentError } from "commander";
import { LOSS_TERMS, type LossTerm } from "../../src/pconv/loss.js";

/** Factors by term; terms that are left out keep those of the paper. */
export type LossWeights = Partial<Record<LossTerm, number>>;

const isTerm = (name: string): name is LossTerm => (LOSS_TERMS as readonly string[]).includes(name);

/**
 * One more `term=factor`, or several with commas between them, for commander's variadic options.
 * @throws {InvalidArgumentError} naming what is no term, or no factor.
 */
export function lossWeight(argument: string, before: LossWeights = {}): LossWeights {
  const all = { ...before };
  for (const entry of argument.split(",")) {
    const [, name, factor] = /^([A-Za-z]+)=(.+)$/.exec(entry) ?? [];
    if (name === undefined || !isTerm(name))
      throw new InvalidArgumentError(`expected term=factor with a term of ${LOSS_TERMS.join(", ")}, got ${entry}`);
    const value = Number(factor);
    if (!(value >= 0 && value < Infinity))
      throw new InvalidArgumentError(`expected a factor of 0 or above for ${name}, got ${factor}`);
    if (all[name] !== undefined) throw new InvalidArgumentError(`expected ${name} once, got it twice`);
    all[name] = value;
  }
  // In the terms' own order: equal factors are equal as text, which is how a resumed run compares them.
  return Object.fromEntries(LOSS_TERMS.flatMap((t) => (all[t] === undefined ? [] : [[t, all[t]]])));
}

/** Whether a stored value is what {@link lossWeight} makes. */
export const areLossWeights = (value: unknown): boolean =>
  typeof value === "object" &&
  value !== null &&
  !Array.isArray(value) &&
  Object.entries(value).every(([name, factor]) => isTerm(name) && Number.isFinite(factor) && (factor as number) >= 0);

/** As it is written on the command line. */
export const lossWeightsText = (weights: LossWeights): string =>
  Object.entries(weights)
    .map(([name, factor]) => `${name}=${factor}`)
    .join();
