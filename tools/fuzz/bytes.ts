/** Spoiling bytes whose meaning is not known. */
import type { Rng } from "../../src/pconv/rng.js";

export const pick = <T>(items: readonly T[], rng: Rng): T => items[rng.integer(0, items.length - 1)];
export const chance = (share: number, rng: Rng): boolean => rng.uniform() < share;
export const concat = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));
export const latin1 = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "latin1"));
export const utf8 = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "utf8"));

/** No case grows beyond this by copying pieces of itself. */
const MAX_BYTES = 2 ** 20;

/** Numbers at the edges of what fields hold. */
const EXTREMES = [
  0n, 1n, 2n, 0x7fn, 0x80n, 0xffn, 0x7fffn, 0x8000n, 0xffffn, 0x7fffffffn, 0x80000000n, 0xfffffffen, 0xffffffffn,
  0x100000000n, 0x1fffffffffffffn, 0x20000000000000n, 0x7fffffffffffffffn, 0x8000000000000000n, 0xffffffffffffffffn,
]; // prettier-ignore

/** An extreme number, or one near `near`, as a field of 1, 2, 4 or 8 bytes. */
export function extremeField(rng: Rng, near = 0): Uint8Array {
  const size = pick([1, 2, 4, 4, 8, 8], rng);
  const value = chance(0.7, rng) ? pick(EXTREMES, rng) : BigInt(Math.max(0, near + rng.integer(-2, 2)));
  const field = Buffer.alloc(8);
  field.writeBigUInt64LE(value);
  const bytes = new Uint8Array(field.subarray(0, size));
  return chance(0.5, rng) ? bytes : bytes.reverse();
}

export function randomBytes(count: number, rng: Rng): Uint8Array {
  return Uint8Array.from({ length: count }, () => rng.integer(0, 255));
}

const overwrite = (bytes: Uint8Array, at: number, field: Uint8Array): Uint8Array => {
  const copy = bytes.slice();
  copy.set(field.subarray(0, copy.length - at), at);
  return copy;
};
const insert = (bytes: Uint8Array, at: number, field: Uint8Array): Uint8Array =>
  concat(bytes.subarray(0, at), field, bytes.subarray(at));

type Mutation = (bytes: Uint8Array, at: number, rng: Rng) => Uint8Array;

/** A place in the bytes; half of them near the beginning, where formats keep their lengths. */
const place = (bytes: Uint8Array, rng: Rng): number =>
  rng.integer(0, Math.max(0, (chance(0.5, rng) ? Math.min(96, bytes.length) : bytes.length) - 1));

/**
 * Spoils a copy in one to four ways: bits flipped, cut, bytes put in or taken out, fields overwritten with extreme numbers or with
 * the format's own words, pieces repeated, and pieces of another input put in.
 *
 * @param words of the format: magic numbers, names
 * @param others inputs to take pieces from
 */
export function mutateBytes(
  original: Uint8Array,
  rng: Rng,
  words: readonly Uint8Array[] = [],
  others: readonly Uint8Array[] = [],
): Uint8Array {
  const mutations: Mutation[] = [
    (b, at) => b.subarray(0, at),
    (b, at) => insert(b, at, randomBytes(rng.integer(1, 16), rng)),
    (b, at) => concat(b.subarray(0, at), b.subarray(at + rng.integer(1, 64))),
    (b, at) => overwrite(b, at, extremeField(rng, b.length)),
    (b, at) => overwrite(b, at, extremeField(rng, b.length - at)),
    (b, at) => overwrite(b, at - (at % 4), extremeField(rng, at)),
    (b, at) => overwrite(b, at, new Uint8Array(rng.integer(1, 64)).fill(pick([0, 0xff], rng))),
    (b, at) => insert(b, at, b.subarray(at, at + rng.integer(1, 256))),
    (b, at) => {
      const piece = b.subarray(at, at + rng.integer(1, 64));
      const times = rng.integer(2, Math.max(2, Math.min(4096, Math.floor(MAX_BYTES / (b.length + piece.length)))));
      return insert(b, at, concat(...Array<Uint8Array>(times).fill(piece)));
    },
    (b) => {
      const copy = b.slice();
      for (let i = rng.integer(1, 8); i > 0 && copy.length > 0; i--) copy[place(copy, rng)] ^= 1 << rng.integer(0, 7);
      return copy;
    },
    (b) => {
      const copy = b.slice();
      for (let i = rng.integer(1, 4); i > 0 && copy.length > 0; i--) copy[place(copy, rng)] = rng.integer(0, 255);
      return copy;
    },
  ];
  if (words.length > 0) {
    mutations.push((b, at) => overwrite(b, at, pick(words, rng)));
    mutations.push((b, at) => insert(b, at, pick(words, rng)));
  }
  if (others.length > 0) {
    mutations.push((b, at) => {
      const other = pick(others, rng);
      const from = place(other, rng);
      return concat(b.subarray(0, at), other.subarray(from), chance(0.5, rng) ? b.subarray(at) : new Uint8Array());
    });
  }
  let bytes: Uint8Array = new Uint8Array(original); // a Buffer's slice() would be no copy
  for (let i = pick([1, 1, 1, 2, 3, 4], rng); i > 0; i--) bytes = pick(mutations, rng)(bytes, place(bytes, rng), rng);
  return bytes.slice(0, MAX_BYTES);
}

/** Spoils a list: its items dropped, repeated, exchanged, or spoilt by `change`, in one to three ways. */
export function mutateList<T>(
  items: readonly T[],
  rng: Rng,
  change: (item: T) => T,
  fresh: () => T = () => change(pick(items, rng)),
): T[] {
  const list = [...items];
  for (let i = pick([1, 1, 2, 3], rng); i > 0; i--) {
    const at = rng.integer(0, Math.max(0, list.length - 1));
    const kind = list.length === 0 ? 3 : rng.integer(0, 9);
    if (kind === 0) list.splice(at, rng.integer(1, 2));
    else if (kind === 1) list.splice(at, 0, list[rng.integer(0, list.length - 1)]);
    else if (kind === 2) {
      const other = rng.integer(0, list.length - 1);
      [list[at], list[other]] = [list[other], list[at]];
    } else if (kind === 3) list.splice(at, 0, fresh());
    else list[at] = change(list[at]);
  }
  return list;
}
