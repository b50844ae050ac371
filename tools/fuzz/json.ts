/** Spoiling JSON by its structure: what comes out is mostly still JSON, but of other types and sizes. */
import type { Rng } from "../../src/pconv/rng.js";
import { chance, pick } from "./bytes.js";

/** Text that goes into JSON as it is: numbers that JavaScript cannot write, and what is no JSON. */
class Verbatim {
  constructor(readonly text: string) {}
}

const NUMBERS = ["0", "-0", "-1", "1", "0.5", "1e308", "1e999", "-1e999", "1E400", "9007199254740991", "9007199254740993", "18446744073709551616", "00", "1.", "NaN", "Infinity", "0x10", "-"]; // prettier-ignore
const NAMES = ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "length", "", "\u0000", "\u001b[2J", "\u202e", "a".repeat(5000), "__metadata__", "valueOf", "then", "toJSON"]; // prettier-ignore

function odd(rng: Rng): unknown {
  const depth = pick([2, 64, 3000, 50_000], rng);
  return pick<() => unknown>(
    [
      () => new Verbatim(pick(NUMBERS, rng)),
      () => null,
      () => chance(0.5, rng),
      () => pick(NAMES, rng),
      () => "x".repeat(pick([1, 300, 70_000], rng)),
      () => [],
      () => ({}),
      () => ({ [pick(NAMES, rng)]: 1 }),
      () => Array.from({ length: pick([1, 2, 5, 70, 20_000], rng) }, () => rng.integer(0, 3)),
      () => new Verbatim("[".repeat(depth) + "]".repeat(depth)),
      () => new Verbatim('{"a":'.repeat(depth) + "1" + "}".repeat(depth)),
      () => "\\ud800",
      () => "../../etc/passwd",
      () => "/dev/null",
    ],
    rng,
  )();
}

type Holder = Record<string, unknown> | unknown[];
const isHolder = (value: unknown): value is Holder =>
  typeof value === "object" && value !== null && !(value instanceof Verbatim);

/** Every list and object in a value. */
function holders(value: unknown, found: Holder[] = []): Holder[] {
  if (!isHolder(value)) return found;
  found.push(value);
  for (const item of Object.values(value)) holders(item, found);
  return found;
}

/** JSON text of a spoilt copy of `value`, an object. */
export function mutateJson(value: object, rng: Rng): string {
  const copy = structuredClone(value) as Record<string, unknown>;
  for (let i = pick([0, 1, 1, 1, 2, 3], rng); i > 0; i--) {
    const holder = pick(holders(copy), rng) as Record<string, unknown>;
    const keys = Object.keys(holder);
    const key = keys.length > 0 ? pick(keys, rng) : "0";
    const kind = rng.integer(0, 6);
    // As `__proto__: x` would do in JSON.parse, and not as an assignment would.
    const put = (name: string, item: unknown) => Object.defineProperty(holder, name, { value: item, enumerable: true, configurable: true, writable: true }); // prettier-ignore
    if (kind === 0 && !Array.isArray(holder)) delete holder[key];
    else if (kind === 1) put(Array.isArray(holder) ? `${holder.length}` : pick(NAMES, rng), odd(rng));
    else if (kind === 2 && keys.length > 0) put(pick(keys, rng), holder[key]);
    else if (kind === 3 && typeof holder[key] === "number") put(key, holder[key] + pick([-1, 1, 0.5, 2 ** 31], rng));
    else put(key, odd(rng));
  }
  const text = write(copy);
  // A key twice, or a piece that is missing.
  if (chance(0.1, rng)) {
    const at = rng.integer(0, text.length);
    return text.slice(0, at) + pick(['"a":1,', ",", "}", "{", '"', "\\", " ", "\ufeff", "//"], rng) + text.slice(at);
  }
  return text;
}

function write(value: unknown): string {
  if (value instanceof Verbatim) return value.text;
  if (Array.isArray(value)) return `[${value.map(write).join(",")}]`;
  if (!isHolder(value)) return JSON.stringify(value) ?? "null";
  return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}:${write(item)}`).join(",")}}`; // prettier-ignore
}
