/**
 * PyTorch checkpoints (`torch.save`: .pth, .pt, .ckpt), without PyTorch and without running what they contain.
 *
 * Two containers: since torch 1.6 a zip archive `NAME/data.pkl`, `NAME/data/KEY` (one raw storage each); before, and with
 * `_use_new_zipfile_serialization=False`, five pickles (magic number, protocol version, system info, the object, storage keys)
 * followed by the storages, each an i64 length in elements and its raw bytes.
 * Source: torch/serialization.py (`_save`, `_load`, `_legacy_save`, `_legacy_load`).
 */
import { FormatError } from "../errors.js";
import { ByteReader, quote } from "./byteReader.js";
import { dtypeBytes, elementCount, LazyTensor, type TensorEntry } from "./tensorEntry.js";
import { TorchObjects, type Storage } from "./pth/torchObjects.js";
import { describe, unpickle } from "./pth/unpickle.js";
import { ZipArchive } from "./pth/zip.js";

/** What {@link readPth} returns. */
export interface PthFile {
  readonly container: "zip" | "legacy";
  /**
   * The saved object: None, bool, float, str and bytes as their JavaScript kin, int as number (bigint beyond 2^53), list and
   * tuple as array, dict and OrderedDict as Map, set as Set, tensor and Parameter as {@link TensorEntry}. It may be cyclic.
   */
  readonly root: unknown;
  /**
   * Every tensor in `root` under its path, joined by dots: `model.enc_1.conv.weight`, `optimizer.state.0.exp_avg`. A file that
   * is a single tensor has it as `tensor`.
   */
  readonly tensors: Map<string, TensorEntry>;
}

const MAGIC_NUMBER = 0x1950a86a20f9469cfc6cn;
const PROTOCOL_VERSION = 1001;
const damaged = "the file is cut off or damaged: copy or download it again";
const saveStateDict = "save the weights with torch.save(model.state_dict(), 'weights.pth')";

/**
 * Reads a checkpoint of either container.
 *
 * @param where file name for the errors
 * @throws FormatError if it is damaged, or names any Python object but tensors and plain containers
 */
export function readPth(bytes: Uint8Array, where: string): PthFile {
  // A view may claim more elements than its storage has (stride 0), and many views the same ones.
  const objects = new TorchObjects(where, 4 * bytes.length);
  const isZip = bytes[0] === 0x50 && bytes[1] === 0x4b;
  const root = isZip ? readZip(bytes, where, objects) : readLegacy(bytes, where, objects);
  return { container: isZip ? "zip" : "legacy", root, tensors: flatten(root, where, 4 * bytes.length) };
}

function readZip(bytes: Uint8Array, where: string, objects: TorchObjects): unknown {
  const archive = new ZipArchive(bytes, where);
  const names = archive.names();
  const pickles = names.filter((name) => name.endsWith("/data.pkl") || name === "data.pkl");
  if (pickles.length !== 1) {
    throw new FormatError(where, `expected one record data.pkl, got ${pickles.length}`, saveStateDict);
  }
  const folder = pickles[0].slice(0, -"data.pkl".length);
  if (names.includes(`${folder}constants.pkl`)) {
    throw new FormatError(where, "expected weights, got a TorchScript program", saveStateDict);
  }
  const order = new TextDecoder().decode(archive.read(`${folder}byteorder`) ?? new Uint8Array(0));
  if (order !== "" && order !== "little") {
    throw new FormatError(
      where,
      `expected little-endian storages, got ${quote(order)}`,
      "save it again on another machine",
    );
  }

  const pickle = archive.read(pickles[0]) ?? new Uint8Array(0);
  const root = unpickle(new ByteReader(pickle, `${where}: record ${quote(pickles[0])}`), objects);
  for (const storage of objects.storages.values()) {
    const content = archive.read(`${folder}data/${storage.key}`);
    if (content === undefined) {
      throw new FormatError(where, `expected a record for storage ${quote(storage.key)}, got none`, damaged);
    }
    setBytes(storage, content, where);
  }
  return root;
}

function readLegacy(bytes: Uint8Array, where: string, objects: TorchObjects): unknown {
  const reader = new ByteReader(bytes, where);
  const magic = unpickle(reader, objects);
  if (magic !== MAGIC_NUMBER) {
    throw new FormatError(where, `expected PyTorch's magic number, got a pickle of ${describe(magic)}`, saveStateDict);
  }
  const version = unpickle(reader, objects);
  if (version !== PROTOCOL_VERSION) {
    throw new FormatError(
      where,
      `expected protocol version ${PROTOCOL_VERSION}, got ${describe(version)}`,
      saveStateDict,
    );
  }
  const system = unpickle(reader, objects);
  if (!(system instanceof Map) || system.get("little_endian") !== true) {
    throw new FormatError(where, "expected little-endian storages, got others", "save it again on another machine");
  }

  const root = unpickle(reader, objects);
  const keys = unpickle(reader, objects);
  if (!Array.isArray(keys))
    throw new FormatError(where, `expected a list of storage keys, got ${describe(keys)}`, damaged);
  for (const key of keys as readonly unknown[]) {
    if (typeof key !== "string") throw new FormatError(where, `expected a storage key, got ${describe(key)}`, damaged);
    const storage = objects.storages.get(key);
    if (storage === undefined || storage.bytes !== undefined) {
      throw new FormatError(where, `expected each storage once, got the key ${quote(key)}`, damaged);
    }
    const length = reader.u64();
    if (length !== storage.length) {
      throw new FormatError(where, `expected ${storage.length} elements in a storage, got ${length}`, damaged);
    }
    setBytes(storage, reader.take(length * dtypeBytes[storage.dtype]), where);
  }
  for (const storage of objects.storages.values()) {
    if (storage.bytes === undefined) {
      throw new FormatError(where, `expected storage ${quote(storage.key)}, got a file without it`, damaged);
    }
  }
  return root;
}

function setBytes(storage: Storage, content: Uint8Array, where: string): void {
  const wanted = storage.length * dtypeBytes[storage.dtype];
  if (content.length !== wanted) {
    throw new FormatError(
      where,
      `expected ${wanted} bytes (${storage.length} ${storage.dtype}) in storage ${quote(storage.key)}, got ${content.length}`,
      damaged,
    );
  }
  storage.bytes = content;
}

/** A pickle may refer to one list many times over, so that the number of paths through a small file has no bound of its own. */
const MAX_VISITS = 2 ** 23;
const MAX_NAME_CHARACTERS = 2 ** 25;
const MAX_DEPTH = 128;

/** @param maxBytes bound on the tensors together: one storage may have many views and names, each to be converted by itself */
function flatten(root: unknown, where: string, maxBytes: number): Map<string, TensorEntry> {
  const tensors = new Map<string, TensorEntry>();
  const path: string[] = root instanceof LazyTensor ? ["tensor"] : [];
  /** Containers known to hold no tensor, however many paths lead to them. */
  const barren = new Set<unknown>();
  let visits = 0;
  let characters = 0;
  let tensorBytes = 0;
  const fail = (problem: string): never => {
    throw new FormatError(where, problem, saveStateDict);
  };

  /** @returns whether there was a tensor */
  const visit = (value: unknown): boolean => {
    if (++visits > MAX_VISITS) fail(`expected at most ${MAX_VISITS} values, got more`);
    if (value instanceof LazyTensor) {
      // Counted before they are joined: a long key may come many times in one path.
      characters += path.reduce((sum, part) => sum + part.length + 1, 0);
      if (characters > MAX_NAME_CHARACTERS)
        fail(`expected names of ${MAX_NAME_CHARACTERS} characters in all, got more`);
      tensorBytes += (elementCount(value.shape) ?? Infinity) * dtypeBytes[value.dtype];
      if (tensorBytes > maxBytes) fail(`expected at most ${maxBytes} bytes of tensors, got more`);
      const name = path.join(".");
      if (tensors.has(name)) fail(`expected one tensor at ${quote(name)}, got two`);
      tensors.set(name, value);
      return true;
    }
    if (!(Array.isArray(value) || value instanceof Map || value instanceof Set) || barren.has(value)) return false;
    if (path.length === MAX_DEPTH) fail(`expected nesting of at most ${MAX_DEPTH}, got more (or a cycle)`);
    let found = false;
    // The entries of an array, a Map and a Set alike are pairs of key and value; a Set's value is its own key.
    for (const [key, item] of value.entries()) {
      path.push(keyName(key));
      if (visit(item)) found = true;
      path.pop();
    }
    if (!found) barren.add(value);
    return found;
  };
  visit(root);
  return tensors;
}

function keyName(key: unknown): string {
  return typeof key === "string" || typeof key === "number" ? `${key}` : describe(key);
}
