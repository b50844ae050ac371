/**
 * What a torch.save pickle may name: storages, tensors, and a few containers; everything else is refused.
 *
 * Source: torch/_utils.py (`_rebuild_tensor`, `_rebuild_tensor_v2`, `_rebuild_parameter`) and the persistent ids of
 * torch/serialization.py: `("storage", type, key, location, elements[, view])`, where the legacy format's view is
 * `(key, offset, elements)` or None.
 */
import { FormatError } from "../../errors.js";
import { quote } from "../byteReader.js";
import { dtypeBytes, elementCount, LazyTensor, showShape, type TensorDtype } from "../tensorEntry.js";
import { describe, PickleGlobal, type PickleHost } from "./unpickle.js";

/** A flat buffer that tensors look into. Its bytes arrive after the pickle was read. */
export class Storage {
  bytes: Uint8Array | undefined;

  constructor(
    readonly key: string,
    readonly dtype: TensorDtype,
    /** Length in elements. */
    readonly length: number,
  ) {}
}

/** A stretch of a storage, in elements. */
interface StorageView {
  readonly storage: Storage;
  readonly offset: number;
  readonly length: number;
}

class StorageType extends PickleGlobal {
  constructor(
    name: string,
    readonly dtype: TensorDtype,
  ) {
    super(name);
  }
}

const storageTypes = new Map<string, TensorDtype>([
  ["DoubleStorage", "F64"],
  ["FloatStorage", "F32"],
  ["HalfStorage", "F16"],
  ["BFloat16Storage", "BF16"],
  ["LongStorage", "I64"],
  ["IntStorage", "I32"],
  ["ShortStorage", "I16"],
  ["CharStorage", "I8"],
  ["ByteStorage", "U8"],
  ["BoolStorage", "BOOL"],
]);

/** Elements that constructors may copy in all, since one long list can be remembered and copied by every later byte. */
const MAX_COPIED = 2 ** 22;

const damaged = "the file is damaged, or was not written by torch.save: save a state dict with torch.save again";

/** The host of one file's pickle; collects the storages that it refers to. */
export class TorchObjects implements PickleHost {
  /** By key; the reader of the container fills in their bytes. */
  readonly storages = new Map<string, Storage>();
  private readonly globals = new Map<string, PickleGlobal>();
  private copied = 0;

  /**
   * @param bytesLeft bound on the tensors that must be copied, together: strides of 0 let a few bytes claim any size
   */
  constructor(
    private readonly where: string,
    private bytesLeft: number,
  ) {
    const define = (name: string, call: (args: readonly unknown[]) => unknown) =>
      this.globals.set(name, new PickleGlobal(name, call));
    for (const name of ["collections.OrderedDict", "collections.Counter", "builtins.dict", "__builtin__.dict"]) {
      define(name, (args) => this.dict(args));
    }
    for (const module of ["builtins", "__builtin__"]) {
      define(`${module}.set`, (args) => new Set(this.items(args)));
      define(`${module}.frozenset`, (args) => new Set(this.items(args)));
      define(`${module}.list`, (args) => [...this.items(args)]);
    }
    define("torch.Size", (args) => Object.freeze([...this.items(args)]));
    define("torch._utils._rebuild_tensor", (args) => this.tensor(args));
    define("torch._utils._rebuild_tensor_v2", (args) => this.tensor(args));
    define("torch._utils._rebuild_parameter", ([tensor]) => {
      if (!(tensor instanceof LazyTensor)) this.fail("a tensor in a parameter", describe(tensor));
      return tensor;
    });
    for (const [name, dtype] of storageTypes) {
      for (const module of ["torch", "torch.cuda"]) {
        this.globals.set(`${module}.${name}`, new StorageType(`${module}.${name}`, dtype));
      }
    }
  }

  global(module: string, name: string): PickleGlobal | undefined {
    return this.globals.get(`${module}.${name}`);
  }

  persistent(id: unknown): StorageView {
    if (!Array.isArray(id) || id.length < 5 || id.length > 6 || id[0] !== "storage") {
      this.fail("a persistent id ('storage', type, key, location, length)", describe(id));
    }
    const [, type, key, , length, view] = id as readonly unknown[];
    if (!(type instanceof StorageType)) this.fail("a storage type", describe(type));
    if (typeof key !== "string") this.fail("a storage key", describe(key));
    const elements = this.index(length, "a storage length");
    let storage = this.storages.get(key);
    if (storage === undefined) {
      storage = new Storage(key, type.dtype, elements);
      this.storages.set(key, storage);
    }
    if (storage.dtype !== type.dtype || storage.length !== elements) {
      this.fail(`storage ${quote(key)} as ${storage.dtype} of ${storage.length}`, `${type.dtype} of ${elements}`);
    }
    if (view === null || view === undefined) return { storage, offset: 0, length: elements };

    if (!Array.isArray(view) || view.length !== 3) this.fail("a view (key, offset, length)", describe(view));
    const offset = this.index(view[1], "a view's offset");
    const viewLength = this.index(view[2], "a view's length");
    if (offset + viewLength > elements) this.fail(`a view within ${elements} elements`, `${viewLength} at ${offset}`);
    return { storage, offset, length: viewLength };
  }

  private fail(expected: string, got: string): never {
    throw new FormatError(this.where, `expected ${expected}, got ${got}`, damaged);
  }

  private index(value: unknown, what: string): number {
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) this.fail(what, describe(value));
    return value;
  }

  /** The optional one argument of a container's constructor. */
  private items(args: readonly unknown[]): readonly unknown[] {
    if (args.length === 0) return [];
    if (args.length > 1 || !Array.isArray(args[0])) this.fail("a container made from one list", describe(args[0]));
    this.countCopies(args[0].length);
    return args[0];
  }

  private countCopies(length: number): void {
    this.copied += length;
    if (this.copied > MAX_COPIED) this.fail(`at most ${MAX_COPIED} elements copied`, `${this.copied}`);
  }

  private dict(args: readonly unknown[]): Map<unknown, unknown> {
    if (args.length === 1 && args[0] instanceof Map) {
      this.countCopies(args[0].size);
      return new Map(args[0]);
    }
    const pairs = this.items(args).map((pair): [unknown, unknown] => {
      if (!Array.isArray(pair) || pair.length !== 2) this.fail("a pair of key and value", describe(pair));
      return [pair[0], pair[1]];
    });
    return new Map(pairs);
  }

  /** `(view, offset, shape, strides, ...)`; what follows concerns gradients. */
  private tensor([view, start, shape, strides]: readonly unknown[]): LazyTensor {
    if (!isStorageView(view)) this.fail("a tensor's storage", describe(view));
    const offset = this.index(start, "a tensor's offset");
    if (!Array.isArray(shape) || !Array.isArray(strides) || shape.length !== strides.length || shape.length > 64) {
      this.fail("a tensor's shape and as many strides", `${describe(shape)} and ${describe(strides)}`);
    }
    const { storage } = view;
    const count = elementCount(shape);
    const sizes = shape as readonly number[];
    const steps = strides.map((stride) => this.index(stride, "a stride"));
    const copied = count !== undefined && isDense(sizes, steps) ? 0 : (count ?? Infinity) * dtypeBytes[storage.dtype];
    if (count === undefined || copied > this.bytesLeft) {
      this.fail(`at most ${this.bytesLeft} more bytes of strided tensors`, `${storage.dtype} ${showShape(shape)}`);
    }
    this.bytesLeft -= copied;
    const last = sizes.reduce((sum, size, d) => sum + (size - 1) * steps[d], offset);
    if (count > 0 && !(last < view.length)) {
      this.fail(`elements below ${view.length} of storage ${quote(storage.key)}`, `element ${last}`);
    }
    return new LazyTensor(storage.dtype, [...sizes], () => gather(storage, view.offset + offset, sizes, steps, count));
  }
}

function isStorageView(value: unknown): value is StorageView {
  return typeof value === "object" && value !== null && "storage" in value && value.storage instanceof Storage;
}

/** Whether a view's elements already lie in C order. */
function isDense(shape: readonly number[], strides: readonly number[]): boolean {
  let dense = 1;
  return shape.every((_, i) => {
    const d = shape.length - 1 - i;
    const expected = dense;
    dense *= shape[d];
    return shape[d] === 1 || strides[d] === expected;
  });
}

/** The elements of a strided view in C order; without copying if they already lie so. */
function gather(
  storage: Storage,
  offset: number,
  shape: readonly number[],
  strides: readonly number[],
  count: number,
): Uint8Array {
  const width = dtypeBytes[storage.dtype];
  const source = storage.bytes ?? new Uint8Array(0);
  if (count === 0) return new Uint8Array(0);

  if (isDense(shape, strides)) return source.subarray(offset * width, (offset + count) * width);

  const result = new Uint8Array(count * width);
  const index = new Array<number>(shape.length).fill(0);
  let element = offset;
  for (let i = 0; i < count; i++) {
    for (let b = 0; b < width; b++) result[i * width + b] = source[element * width + b];
    // Odometer: step the last axis; one that is full goes back to 0 and carries.
    for (let d = shape.length - 1; d >= 0; d--) {
      element += strides[d];
      if (++index[d] < shape[d]) break;
      element -= shape[d] * strides[d];
      index[d] = 0;
    }
  }
  return result;
}
