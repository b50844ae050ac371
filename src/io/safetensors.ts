/**
 * The safetensors file format, reader and writer, for Node and browsers.
 *
 * Layout: u64 little-endian header length; a JSON header `{name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__":
 * {string: string}}`, padded with spaces; then the tensors' bytes, which tile the rest of the file without gap or overlap.
 * Source: https://github.com/huggingface/safetensors ("Format" in its README; limits from safetensors/src/tensor.rs).
 */
import { FormatError, UserError } from "../errors.js";
import { ByteReader, quote } from "./byteReader.js";
import { encodeHalf } from "../half.js";
import {
  dtypeBytes,
  elementCount,
  isTensorDtype,
  LazyTensor,
  showShape,
  type TensorDtype,
  type TensorEntry,
} from "./tensorEntry.js";
import { damaged, parseHeader } from "./safetensorsHeader.js";

/** The reference implementation's limit; the largest real headers are a few MB. */
const MAX_HEADER = 100_000_000;

/** What {@link readSafetensors} returns. */
export interface SafetensorsFile {
  /** In the header's order. Bytes are views into the file. */
  readonly tensors: Map<string, TensorEntry>;
  /** The `__metadata__` strings; has no prototype, so that any key is an ordinary one. */
  readonly metadata: Record<string, string>;
}

/**
 * Reads a whole safetensors file. Memory beyond `bytes` is bounded by the header's length.
 *
 * @param where file name for the errors
 * @throws FormatError if anything in it breaks the format; nothing is repaired or skipped
 */
export function readSafetensors(bytes: Uint8Array, where: string): SafetensorsFile {
  const reader = new ByteReader(bytes, where);
  const headerLength = reader.u64();
  if (headerLength > MAX_HEADER || headerLength > bytes.length - 8) {
    const limit = Math.min(MAX_HEADER, bytes.length - 8);
    throw new FormatError(
      where,
      `expected a header of at most ${limit} bytes, got a length of ${headerLength}`,
      damaged,
    );
  }
  const header = parseHeader(reader.take(headerLength), where);
  const body = bytes.subarray(8 + headerLength);

  const tensors = new Map<string, TensorEntry>();
  for (const [name, { dtype, shape, begin, end }] of header.tensors) {
    const at = `${where}: tensor ${quote(name)}`;
    if (!isTensorDtype(dtype)) {
      throw new FormatError(
        at,
        `expected dtype ${Object.keys(dtypeBytes).join(", ")}, got ${quote(dtype)}`,
        "save this tensor in one of these types",
      );
    }
    const count = elementCount(shape);
    const size = count === undefined ? NaN : count * dtypeBytes[dtype];
    if (!(begin <= end && end <= body.length && end - begin === size)) {
      const wanted = count === undefined ? "a shape of fewer than 2^53 elements" : `${size} bytes`;
      throw new FormatError(
        at,
        `expected ${wanted} within ${body.length} bytes, got ${showShape(shape)} ${dtype} at [${begin}, ${end})`,
        damaged,
      );
    }
    tensors.set(name, new LazyTensor(dtype, shape, () => body.subarray(begin, end)));
  }

  // Sorted by position, each range must begin where the one before it ended. Ends break ties, so that an empty tensor may
  // share its place with the start of the next one.
  const ranges = [...header.tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let covered = 0;
  for (const [name, { begin, end }] of ranges) {
    if (begin !== covered) {
      const problem = `expected offset ${covered}, got ${begin}, which leaves a ${begin > covered ? "gap" : "shared byte"}`;
      throw new FormatError(`${where}: tensor ${quote(name)}`, problem, damaged);
    }
    covered = end;
  }
  if (covered !== body.length) {
    throw new FormatError(where, `expected ${covered} bytes after the header, got ${body.length}`, damaged);
  }
  return { tensors, metadata: header.metadata };
}

/** One tensor to write. */
export interface TensorToWrite {
  readonly dtype: TensorDtype;
  readonly shape: readonly number[];
  /**
   * The elements in C order, in the typed array of `dtype` (F16: a Float32Array, rounded to nearest even, or bit patterns in a
   * Uint16Array; BF16: bit patterns in a Uint16Array; BOOL: a Uint8Array of 0 and 1). A Uint8Array of the right length is
   * taken as the raw little-endian bytes of any dtype.
   */
  readonly values:
    Float64Array | Float32Array | Uint16Array | BigInt64Array | Int32Array | Int16Array | Int8Array | Uint8Array;
}

const arrayOf: Readonly<Record<TensorDtype, new (length: number) => TensorToWrite["values"]>> = {
  F64: Float64Array,
  F32: Float32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I64: BigInt64Array,
  I32: Int32Array,
  I16: Int16Array,
  I8: Int8Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
};

function rawBytes(where: string, { dtype, shape, values }: TensorToWrite): Uint8Array {
  const array = dtype === "F16" && values instanceof Float32Array ? encodeHalf(values) : values;
  const count = elementCount(shape);
  const wanted = arrayOf[dtype];
  if (
    count === undefined ||
    array.byteLength !== count * dtypeBytes[dtype] ||
    !(array instanceof wanted || array instanceof Uint8Array)
  ) {
    throw new UserError(
      where,
      `expected ${count ?? "a valid number of"} elements of ${dtype} ${showShape(shape)} as ${wanted.name}, ` +
        `got ${values.constructor.name} of ${values.length}`,
      "give the typed array of the dtype, as long as the product of the shape",
    );
  }
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/**
 * Writes tensors as a safetensors file. Wider element types come first (in the given order within one width), so that every
 * tensor is aligned to its element size; the header is padded with spaces to 8 bytes.
 *
 * @param metadata strings for `__metadata__`
 * @returns the whole file
 * @throws UserError if a name repeats, is `__metadata__`, or values do not fit dtype and shape
 */
export function writeSafetensors(
  tensors: Iterable<readonly [string, TensorToWrite]>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const sorted = [...tensors].sort(([, a], [, b]) => dtypeBytes[b.dtype] - dtypeBytes[a.dtype]);
  const fields: string[] = [];
  if (Object.keys(metadata).length > 0) fields.push(`"__metadata__":${JSON.stringify(metadata)}`);

  const names = new Set(["__metadata__"]);
  const parts: Uint8Array[] = [];
  let end = 0;
  for (const [name, tensor] of sorted) {
    const where = `writeSafetensors: tensor ${quote(name)}`;
    if (names.has(name))
      throw new UserError(where, "expected a name of its own, got a reserved or repeated one", "rename it");
    names.add(name);
    const raw = rawBytes(where, tensor);
    const begin = end;
    end += raw.length;
    parts.push(raw);
    const { dtype, shape } = tensor;
    fields.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`);
  }

  const header = new TextEncoder().encode(`{${fields.join(",")}}`);
  const padded = Math.ceil(header.length / 8) * 8;
  const file = new Uint8Array(8 + padded + end).fill(0x20, 8 + header.length, 8 + padded);
  new DataView(file.buffer).setBigUint64(0, BigInt(padded), true);
  file.set(header, 8);
  let offset = 8 + padded;
  for (const part of parts) {
    file.set(part, offset);
    offset += part.length;
  }
  return file;
}
