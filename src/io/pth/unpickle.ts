/**
 * A Python unpickler that cannot run anything: a stack machine over plain values, in which the only callables are those that
 * its {@link PickleHost} hands out by name.
 *
 * Source: the opcodes and their meaning are CPython's Lib/pickletools.py; the subset is that of protocols 2 to 5 without
 * instances of classes. Protocol 0 and 1 text opcodes, which torch.save never writes, are refused.
 *
 * Python None, bool, float, str, bytes become null, boolean, number, string, Uint8Array. int becomes a number, or a bigint
 * beyond 2^53. list becomes an array, tuple a frozen array, dict a Map in its order, set and frozenset a Set.
 */
import { FormatError } from "../../errors.js";
import { type ByteReader, quote } from "../byteReader.js";

/** What a pickle may name: a constant of the host, or a function if `call` is there. */
export class PickleGlobal {
  constructor(
    readonly name: string,
    /** Called by the pickle with its own, unchecked arguments. */
    readonly call?: (args: readonly unknown[]) => unknown,
  ) {}
}

/** Where names and persistent ids of a pickle lead. */
export interface PickleHost {
  /** @returns undefined if the pickle may not have it */
  global(module: string, name: string): PickleGlobal | undefined;
  /** @throws FormatError if the id is not understood */
  persistent(id: unknown): unknown;
}

/** Bounds on what a small hostile file can make this machine do. */
const MAX_STEPS = 2 ** 23;
const MAX_CONTAINERS = 2 ** 20;
/** A tensor takes five containers and a hundred bytes or more: a pickle of containers alone is no checkpoint's. */
const CONTAINERS_PER_BYTE = 1 / 8;
const FREE_CONTAINERS = 4096;
const MAX_INTEGER_BYTES = 1024;

const damaged = "the file is damaged, or was not written by torch.save: save a state dict with torch.save again";

/**
 * Reads one pickle.
 *
 * @param reader positioned at the pickle; afterwards just behind its STOP
 * @throws FormatError on anything but a well-formed pickle of allowed values; it names the global that was refused
 */
export function unpickle(reader: ByteReader, host: PickleHost): unknown {
  return new Machine(reader, host).run();
}

class Machine {
  private stack: unknown[] = [];
  private readonly marks: unknown[][] = [];
  private readonly memo = new Map<number, unknown>();
  private containers = 0;
  private readonly maxContainers: number;

  constructor(
    private readonly reader: ByteReader,
    private readonly host: PickleHost,
  ) {
    const own = FREE_CONTAINERS + Math.floor(CONTAINERS_PER_BYTE * reader.bytes.length);
    this.maxContainers = Math.min(MAX_CONTAINERS, own);
  }

  run(): unknown {
    for (let step = 0; step < MAX_STEPS; step++) {
      const opcode = this.reader.u8();
      if (opcode === 0x2e) return this.pop(); // STOP
      this.execute(opcode);
    }
    this.fail(`at most ${MAX_STEPS} instructions`, "more");
  }

  private execute(opcode: number): void {
    const r = this.reader;
    switch (opcode) {
      case 0x80: {
        const protocol = r.u8();
        if (protocol < 2 || protocol > 5) this.fail("pickle protocol 2 to 5", `${protocol}`);
        return;
      }
      case 0x95: // FRAME: its length helps streaming only
        r.take(8);
        return;

      // Stack and memo
      case 0x28: // MARK
        this.marks.push(this.stack);
        this.stack = this.container([]);
        return;
      case 0x30: // POP, which also drops a mark when nothing lies on it
        if (this.stack.length === 0) this.popMark();
        else this.stack.pop();
        return;
      case 0x31: // POP_MARK
        this.popMark();
        return;
      case 0x32: // DUP
        return this.push(this.top());
      case 0x71: // BINPUT
        return void this.memo.set(r.u8(), this.top());
      case 0x72: // LONG_BINPUT
        return void this.memo.set(r.u32(), this.top());
      case 0x94: // MEMOIZE
        return void this.memo.set(this.memo.size, this.top());
      case 0x68: // BINGET
        return this.recall(r.u8());
      case 0x6a: // LONG_BINGET
        return this.recall(r.u32());

      // Numbers
      case 0x4e:
        return this.push(null);
      case 0x88:
        return this.push(true);
      case 0x89:
        return this.push(false);
      case 0x4a: // BININT
        return this.push(r.i32());
      case 0x4b: // BININT1
        return this.push(r.u8());
      case 0x4d: // BININT2
        return this.push(r.u16());
      case 0x8a: // LONG1
        return this.push(this.long(r.u8()));
      case 0x8b: // LONG4
        return this.push(this.long(r.u32()));
      case 0x47: // BINFLOAT
        return this.push(r.f64BigEndian());

      // Strings; Python 2's str (BINSTRING, SHORT_BINSTRING) as text
      case 0x58: // BINUNICODE
      case 0x54: // BINSTRING
        return this.push(this.text(r.take(r.u32())));
      case 0x8c: // SHORT_BINUNICODE
      case 0x55: // SHORT_BINSTRING
        return this.push(this.text(r.take(r.u8())));
      case 0x8d: // BINUNICODE8
        return this.push(this.text(r.take(r.u64())));
      case 0x42: // BINBYTES
        return this.push(r.take(r.u32()));
      case 0x43: // SHORT_BINBYTES
        return this.push(r.take(r.u8()));
      case 0x8e: // BINBYTES8
      case 0x96: // BYTEARRAY8
        return this.push(r.take(r.u64()));

      // Containers
      case 0x29: // EMPTY_TUPLE
        return this.push(Object.freeze(this.container([])));
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        return this.push(Object.freeze(this.container(this.popMany(opcode - 0x84))));
      case 0x74: // TUPLE
        return this.push(Object.freeze(this.popMark()));
      case 0x5d: // EMPTY_LIST
        return this.push(this.container([]));
      case 0x6c: // LIST
        return this.push(this.popMark());
      case 0x61: // APPEND
        return this.append([this.pop()]);
      case 0x65: // APPENDS
        return this.append(this.popMark());
      case 0x7d: // EMPTY_DICT
        return this.push(this.container(new Map()));
      case 0x64: {
        const items = this.popMark(); // DICT
        this.push(this.container(new Map()));
        return this.setItems(items);
      }
      case 0x73: // SETITEM
        return this.setItems(this.popMany(2));
      case 0x75: // SETITEMS
        return this.setItems(this.popMark());
      case 0x8f: // EMPTY_SET
        return this.push(this.container(new Set()));
      case 0x91: // FROZENSET
        return this.push(this.container(new Set(this.popMark().map((key) => this.hashable(key)))));
      case 0x90: {
        const items = this.popMark(); // ADDITEMS
        const set = this.top();
        if (!(set instanceof Set)) this.fail("a set to add to", describe(set));
        for (const item of items) set.add(this.hashable(item));
        return;
      }

      // Names and calls: nothing but what the host hands out
      case 0x63: // GLOBAL
        return this.global(this.text(r.line()), this.text(r.line()));
      case 0x93: {
        const [module, name] = this.popMany(2); // STACK_GLOBAL
        if (typeof module !== "string" || typeof name !== "string") this.fail("two names", describe(module));
        return this.global(module, name);
      }
      case 0x69: {
        this.global(this.text(r.line()), this.text(r.line())); // INST
        const callee = this.pop();
        return this.call(callee, this.popMark());
      }
      case 0x6f: {
        const [callee, ...args] = this.popMark(); // OBJ
        return this.call(callee, args);
      }
      case 0x52: // REDUCE
      case 0x81: {
        const [callee, args] = this.popMany(2); // NEWOBJ
        if (!Array.isArray(args)) this.fail("a tuple of arguments", describe(args));
        return this.call(callee, args);
      }
      case 0x62: {
        // BUILD sets attributes; the one torch.save writes is an OrderedDict's _metadata, which holds no weights.
        this.pop();
        const target = this.top();
        if (!(target instanceof Map)) this.fail("attributes on an OrderedDict only", describe(target));
        return;
      }
      case 0x51: // BINPERSID
        return this.push(this.host.persistent(this.pop()));
      default:
        this.fail("an opcode of a tensor file", `0x${opcode.toString(16).padStart(2, "0")}`);
    }
  }

  private fail(expected: string, got: string): never {
    throw new FormatError(
      this.reader.where,
      `expected ${expected} before offset ${this.reader.position}, got ${got}`,
      damaged,
    );
  }

  private push(value: unknown): void {
    this.stack.push(value);
  }

  /** Counts what costs a hundred bytes or more of memory for one byte of pickle. */
  private container<T>(value: T): T {
    if (++this.containers > this.maxContainers) this.fail(`at most ${this.maxContainers} containers`, "more");
    return value;
  }

  private pop(): unknown {
    return this.popMany(1)[0];
  }

  private popMany(count: number): unknown[] {
    if (this.stack.length < count) this.fail(`${count} values on the stack`, `${this.stack.length}`);
    return this.stack.splice(-count);
  }

  private popMark(): unknown[] {
    const outer = this.marks.pop();
    if (outer === undefined) this.fail("a mark", "none");
    const items = this.stack;
    this.stack = outer;
    return items;
  }

  private top(): unknown {
    if (this.stack.length === 0) this.fail("a value on the stack", "none");
    return this.stack[this.stack.length - 1];
  }

  private recall(index: number): void {
    if (!this.memo.has(index)) this.fail("a remembered value", `index ${index}, never stored`);
    this.push(this.memo.get(index));
  }

  private append(items: unknown[]): void {
    const list = this.top();
    if (!Array.isArray(list) || Object.isFrozen(list)) this.fail("a list to append to", describe(list));
    for (const item of items) list.push(item);
  }

  private setItems(items: unknown[]): void {
    const dict = this.top();
    if (!(dict instanceof Map)) this.fail("a dict to fill", describe(dict));
    if (items.length % 2 !== 0) this.fail("pairs of key and value", `${items.length} values`);
    for (let i = 0; i < items.length; i += 2) dict.set(this.hashable(items[i]), items[i + 1]);
  }

  private hashable(key: unknown): unknown {
    const plain = key === null || ["string", "number", "bigint", "boolean"].includes(typeof key);
    if (!plain && !Object.isFrozen(key)) this.fail("a hashable key", describe(key));
    return key;
  }

  private global(module: string, name: string): void {
    const found = this.host.global(module, name);
    if (found === undefined) {
      throw new FormatError(
        this.reader.where,
        `expected tensors and plain values, got the Python object ${quote(`${module}.${name}`)}, which was not run`,
        "if you trust where it came from, load it in PyTorch and save only the weights: " +
          "torch.save(model.state_dict(), 'weights.pth'); if not, delete it",
      );
    }
    this.push(found);
  }

  private call(callee: unknown, args: readonly unknown[]): void {
    if (!(callee instanceof PickleGlobal) || callee.call === undefined) {
      this.fail("a function to call", callee instanceof PickleGlobal ? callee.name : describe(callee));
    }
    this.push(callee.call(args));
  }

  /** Two's complement, little-endian. */
  private long(length: number): number | bigint {
    if (length > MAX_INTEGER_BYTES) this.fail(`an integer of at most ${MAX_INTEGER_BYTES} bytes`, `${length}`);
    if (length === 0) return 0;
    const hex = Array.from(this.reader.take(length), (byte) => byte.toString(16).padStart(2, "0")).reverse();
    const value = BigInt.asIntN(8 * length, BigInt(`0x${hex.join("")}`));
    const near = Number(value);
    return Number.isSafeInteger(near) ? near : value;
  }

  private text(bytes: Uint8Array): string {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      return this.fail("text in UTF-8", "other bytes");
    }
  }
}

/** The Python name of a value's type, for error messages. */
export function describe(value: unknown): string {
  if (value === null || value === undefined) return "None";
  if (Array.isArray(value)) return Object.isFrozen(value) ? "a tuple" : "a list";
  if (value instanceof Map) return "a dict";
  if (value instanceof Set) return "a set";
  if (value instanceof Uint8Array) return "bytes";
  if (value instanceof PickleGlobal) return value.name;
  if (typeof value === "string") return `the string ${quote(value)}`;
  if (typeof value === "object") return "a tensor or storage";
  return `the ${typeof value} ${(value as number | bigint | boolean).toString().slice(0, 40)}`;
}
