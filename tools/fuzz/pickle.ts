/** Spoiling pickles by their instructions, so that most of what comes out still runs for a while. */
import type { Rng } from "../../src/pconv/rng.js";
import { chance, concat, extremeField, latin1, mutateBytes, mutateList, pick, utf8 } from "./bytes.js";

/** Bytes of the operand of each opcode that has one; the others' are counted in the operand itself, or have none. */
const FIXED: Readonly<Record<string, number>> = {
  "\x80": 1,
  "\x95": 8,
  q: 1,
  r: 4,
  h: 1,
  j: 4,
  J: 4,
  K: 1,
  M: 2,
  G: 8,
};
const COUNTED: Readonly<Record<string, 1 | 4 | 8>> = { X: 4, T: 4, B: 4, "\x8c": 1, U: 1, C: 1, "\x8d": 8, "\x8e": 8, "\x96": 8, "\x8a": 1, "\x8b": 4 }; // prettier-ignore
const STOP = 0x2e;

/** The instructions of the pickle that begins at `start`, with its STOP. */
export function instructions(bytes: Uint8Array, start = 0): Uint8Array[] {
  const found: Uint8Array[] = [];
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = start; at < bytes.length;) {
    const opcode = String.fromCharCode(bytes[at]);
    let end = at + 1 + (FIXED[opcode] ?? 0);
    const counted = COUNTED[opcode];
    if (counted !== undefined) {
      const length = counted === 8 ? Number(view.readBigUInt64LE(at + 1)) : view.readUIntLE(at + 1, counted);
      end += counted + length;
    }
    if (opcode === "c" || opcode === "i") end = view.indexOf(10, view.indexOf(10, at) + 1) + 1;
    found.push(bytes.subarray(at, end));
    if (bytes[at] === STOP) break;
    at = end;
  }
  return found;
}

const GLOBALS = ["os\nsystem", "builtins\neval", "__builtin__\ngetattr", "torch\nFloatStorage", "torch\nBoolStorage", "torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_parameter", "collections\nOrderedDict", "torch\nSize", "builtins\nset", "builtins\nlist", "builtins\ndict", "numpy.core.multiarray\n_reconstruct", "\u001b[2J\nx", "__proto__\nconstructor"]; // prettier-ignore
const PLAIN = [..."()]}N\x88\x89120tlaesuRbQo\x85\x86\x87\x8f\x90\x91\x93\x94\x81d."].map(latin1);

function fresh(rng: Rng): Uint8Array {
  const number = (opcode: string, size: number) => concat(latin1(opcode), extremeField(rng).slice(0, size), new Uint8Array(size)).slice(0, 1 + size); // prettier-ignore
  return pick<() => Uint8Array>(
    [
      () => pick(PLAIN, rng),
      () => pick(PLAIN, rng),
      () => latin1(`c${pick(GLOBALS, rng)}\n`),
      () => number("J", 4),
      () => number("K", 1),
      () => number("G", 8),
      () => concat(latin1(pick(["h", "q"], rng)), Uint8Array.of(rng.integer(0, 40))),
      () => number(pick(["r", "j"], rng), 4),
      () => concat(latin1("\x8a\x09"), extremeField(rng), new Uint8Array(9)).slice(0, 11),
      () => {
        const text = utf8(pick(["storage", "0", "cpu", "", "__proto__", "é✓", "k".repeat(200), "a.b"], rng));
        return concat(latin1("\x8c"), Uint8Array.of(text.length), text);
      },
    ],
    rng,
  )();
}

/** A spoilt pickle. */
export function mutatePickle(pickle: Uint8Array, rng: Rng): Uint8Array {
  if (chance(0.15, rng)) return mutateBytes(pickle, rng);
  const program = instructions(pickle);
  const change = (instruction: Uint8Array): Uint8Array => {
    if (instruction.length === 1 || chance(0.3, rng)) return fresh(rng);
    const copy = instruction.slice();
    const at = 1 + rng.integer(0, Math.min(3, copy.length - 2));
    copy.set(extremeField(rng).subarray(0, copy.length - at), at);
    return copy;
  };
  let spoilt = mutateList(program, rng, change, () => fresh(rng));
  // Pieces of a program many times over: shared containers, deep nesting.
  if (chance(0.2, rng) && spoilt.length > 2) {
    const at = rng.integer(1, spoilt.length - 1);
    const piece = spoilt.slice(at, at + rng.integer(1, 6));
    const times = pick([2, 10, 200, 3000], rng);
    spoilt = [...spoilt.slice(0, at), ...Array.from({ length: times }, () => piece).flat(), ...spoilt.slice(at)];
  }
  return concat(...spoilt);
}
