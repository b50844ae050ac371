/**
 * The JSON header of a safetensors file.
 *
 * `JSON.parse` would keep the last of two equal keys, treat `__proto__` as a key like any other only by luck, and build
 * whatever nesting the file asks for. This parser knows the header's one grammar, so all of that is an error or cannot occur.
 */
import { FormatError } from "../errors.js";
import { quote } from "./byteReader.js";

/** Help for a file that is no safetensors. */
export const damaged = "the file is damaged or was not written as safetensors: copy or download it again";

/** One tensor's header entry: numbers are non-negative safe integers, not yet checked against each other. */
export interface HeaderEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** First byte and one past the last, counted from the end of the header. */
  readonly begin: number;
  readonly end: number;
}

/** A parsed header, entries in the file's order. */
export interface Header {
  readonly tensors: Map<string, HeaderEntry>;
  readonly metadata: Record<string, string>;
}

/**
 * Parses a safetensors header (without its length prefix, with its padding).
 *
 * @throws FormatError at the first character that breaks the grammar, on a repeated key, or on bytes that are no UTF-8
 */
export function parseHeader(bytes: Uint8Array, where: string): Header {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new FormatError(
      where,
      "expected a JSON header in UTF-8, got other bytes",
      "check that this is a safetensors file",
    );
  }
  const scanner = new Scanner(text, where);
  const tensors = new Map<string, HeaderEntry>();
  const metadata = Object.create(null) as Record<string, string>;
  scanner.object((name) => {
    if (name === "__metadata__") scanner.object((key) => (metadata[key] = scanner.string()));
    else tensors.set(name, readEntry(scanner));
  });
  scanner.end();
  return { tensors, metadata };
}

function readEntry(scanner: Scanner): HeaderEntry {
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  scanner.object((field) => {
    if (field === "dtype") dtype = scanner.string();
    else if (field === "shape") shape = scanner.integers();
    else if (field === "data_offsets") offsets = scanner.integers();
    else scanner.fail(`dtype, shape or data_offsets before it, got the field ${quote(field)}`);
  });
  if (dtype === undefined || shape === undefined || offsets?.length !== 2) {
    scanner.fail("dtype, shape and two data_offsets before it, got an entry without them");
  }
  return { dtype, shape, begin: offsets[0], end: offsets[1] };
}

/** Recursive descent over the header's text; its depth is that of the callers' code, never of the file. */
class Scanner {
  private position = 0;

  constructor(
    private readonly text: string,
    private readonly where: string,
  ) {}

  fail(expected: string): never {
    throw new FormatError(this.where, `expected ${expected} at character ${this.position} of the header`, damaged);
  }

  /** `{"key": value, ...}`; `member` reads the value. No key may come twice. */
  object(member: (key: string) => void): void {
    const keys = new Set<string>();
    this.list("{", "}", () => {
      const key = this.string();
      if (keys.has(key)) this.fail(`a new key, got ${quote(key)} again`);
      keys.add(key);
      if (!this.take(":")) this.fail('":"');
      member(key);
    });
  }

  /** `[1, 2, ...]` of non-negative safe integers. */
  integers(): number[] {
    const result: number[] = [];
    this.list("[", "]", () => {
      this.space();
      const start = this.position;
      while (this.isDigit()) this.position++;
      const digits = this.text.slice(start, this.position);
      const value = Number(digits);
      if (digits === "" || (digits.length > 1 && digits[0] === "0") || !Number.isSafeInteger(value)) {
        this.position = start;
        this.fail("an integer from 0 to 2^53 - 1");
      }
      result.push(value);
    });
    return result;
  }

  string(): string {
    if (!this.take('"')) this.fail("a string");
    const start = this.position - 1;
    for (;;) {
      const c = this.text[this.position++];
      if (c === '"') break;
      if (c === undefined) this.fail("the end of a string");
      if (c === "\\") this.position++;
    }
    try {
      // The token holds no unescaped quote, so this parses a string or throws.
      return JSON.parse(this.text.slice(start, this.position)) as string;
    } catch {
      this.position = start;
      return this.fail("a valid string");
    }
  }

  end(): void {
    this.space();
    if (this.position < this.text.length) this.fail("only spaces");
  }

  private list(open: string, close: string, item: () => void): void {
    if (!this.take(open)) this.fail(`"${open}"`);
    if (this.take(close)) return;
    do item();
    while (this.take(","));
    if (!this.take(close)) this.fail(`"," or "${close}"`);
  }

  private take(character: string): boolean {
    this.space();
    if (this.text[this.position] !== character) return false;
    this.position++;
    return true;
  }

  private space(): void {
    while (" \t\r\n".includes(this.text[this.position] ?? "x")) this.position++;
  }

  private isDigit(): boolean {
    const c = this.text[this.position];
    return c !== undefined && c >= "0" && c <= "9";
  }
}
