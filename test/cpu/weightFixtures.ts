/** Builders for the weight-file tests. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { TensorEntry } from "../../src/io/tensorEntry.js";
import type { Rng } from "../../src/pconv/rng.js";

/** A file of test/fixtures/weights. */
export function fixture(name: string): Uint8Array {
  return new Uint8Array(readFileSync(fileURLToPath(new URL(`../fixtures/weights/${name}`, import.meta.url))));
}

/** Bytes from numbers, text (UTF-8) and bytes in a row. */
export function bytes(...parts: (number | string | Uint8Array)[]): Uint8Array {
  return new Uint8Array(
    Buffer.concat(parts.map((part) => (typeof part === "number" ? Buffer.of(part) : Buffer.from(part)))),
  );
}

export function u32(value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(value).buffer);
}

export function u64(value: bigint): Uint8Array {
  return new Uint8Array(BigUint64Array.of(value).buffer);
}

/** Pickle instructions (protocol 2) by name; a pickle is `op.proto`, some of these, `op.stop`. */
export const op = {
  proto: bytes(0x80, 2),
  stop: bytes("."),
  mark: bytes("("),
  none: bytes("N"),
  list: bytes("]"),
  dict: bytes("}"),
  emptyTuple: bytes(")"),
  tuple: bytes("t"),
  append: bytes("a"),
  setItem: bytes("s"),
  setItems: bytes("u"),
  reduce: bytes("R"),
  build: bytes("b"),
  persistent: bytes("Q"),
  stackGlobal: bytes(0x93),
  put: (index: number) => bytes("q", index),
  get: (index: number) => bytes("h", index),
  int: (value: number) => bytes("J", new Uint8Array(Int32Array.of(value).buffer)),
  long: (littleEndian: Uint8Array) => bytes(0x8b, u32(littleEndian.length), littleEndian),
  text: (value: string) => bytes("X", u32(Buffer.byteLength(value)), value),
  global: (module: string, name: string) => bytes("c", module, "\n", name, "\n"),
  tupleOf: (...items: Uint8Array[]) => bytes("(", ...items, "t"),
};

export interface TensorPickle {
  type?: string;
  key?: string;
  /** Elements in the storage. */
  length: number;
  offset?: number;
  shape: number[];
  strides: number[];
}

/** Instructions that push one tensor. */
export function tensorPickle({ type = "FloatStorage", key = "0", length, offset = 0, shape, strides }: TensorPickle) {
  const id = op.tupleOf(
    op.text("storage"),
    op.global("torch", type),
    op.text(key),
    op.text("cpu"),
    op.int(length),
    op.none,
  );
  return bytes(
    op.global("torch._utils", "_rebuild_tensor_v2"),
    op.tupleOf(
      bytes(id, op.persistent),
      op.int(offset),
      op.tupleOf(...shape.map(op.int)),
      op.tupleOf(...strides.map(op.int)),
      op.none,
      op.none,
    ),
    op.reduce,
  );
}

/** A legacy checkpoint around `object` (instructions that push it) and its storages (key, elements, bytes). */
export function legacyFile(object: Uint8Array, storages: [string, number, Uint8Array][] = []): Uint8Array {
  const magic = bytes(op.proto, 0x8a, 10, Buffer.from("6cfc9c46f9206aa85019", "hex"), op.stop);
  const version = bytes(op.proto, op.int(1001), op.stop);
  const system = bytes(op.proto, op.dict, op.text("little_endian"), bytes(0x88), op.setItem, op.stop);
  const keys = bytes(op.proto, op.list, ...storages.map(([key]) => bytes(op.text(key), op.append)), op.stop);
  const raw = storages.map(([, length, content]) => bytes(u64(BigInt(length)), content));
  return bytes(magic, version, system, op.proto, object, op.stop, keys, ...raw);
}

/** A safetensors file around a header given as text. */
export function safetensorsFile(header: string, body = new Uint8Array(0)): Uint8Array {
  return bytes(u64(BigInt(Buffer.byteLength(header))), header, body);
}

/** Name, dtype, shape and bytes of every tensor, for exact comparison. */
export function contents(tensors: Map<string, TensorEntry>) {
  return [...tensors].map(([name, { dtype, shape, bytes }]) => ({ name, dtype, shape: [...shape], bytes: [...bytes] }));
}

/** Damages a copy: bit flips, a cut, bytes put in or taken out, a field overwritten with an extreme number, a piece repeated. */
export function damage(original: Uint8Array, rng: Rng): Uint8Array {
  const at = rng.integer(0, original.length - 1);
  switch (rng.integer(0, 5)) {
    case 0:
      return original.slice(0, at);
    case 1:
      return bytes(original.slice(0, at), rng.integer(0, 255), original.slice(at));
    case 2:
      return bytes(original.slice(0, at), original.slice(at + rng.integer(1, 16)));
    case 3: {
      const extremes = [0n, 1n, 0x7fffffffn, 0xffffffffn, 0x7fffffffffffffffn, 0xffffffffffffffffn];
      // Half of them near the beginning, where the lengths are.
      const start = rng.uniform() < 0.5 ? rng.integer(0, Math.min(64, original.length - 1)) : at;
      const field = u64(extremes[rng.integer(0, 5)]).slice(0, rng.uniform() < 0.5 ? 4 : 8);
      return bytes(original.slice(0, start), field, original.slice(start + field.length));
    }
    case 4: {
      const piece = original.slice(at, at + rng.integer(1, 64));
      return bytes(original.slice(0, at), piece, original.slice(at));
    }
    default: {
      const copy = original.slice();
      for (let i = rng.integer(1, 8); i > 0; i--) copy[rng.integer(0, copy.length - 1)] ^= 1 << rng.integer(0, 7);
      return copy;
    }
  }
}
