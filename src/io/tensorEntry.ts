import { decodeBfloat16, decodeHalf } from "../half.js";

/** Element types of weight files, by their safetensors names. */
export type TensorDtype = "F64" | "F32" | "F16" | "BF16" | "I64" | "I32" | "I16" | "I8" | "U8" | "BOOL";

/** Bytes of one element. */
export const dtypeBytes: Readonly<Record<TensorDtype, number>> = {
  F64: 8,
  I64: 8,
  F32: 4,
  I32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
};

/** True if `name` is one of {@link TensorDtype}, and not merely a property that every object has. */
export function isTensorDtype(name: string): name is TensorDtype {
  return Object.hasOwn(dtypeBytes, name);
}

/**
 * One tensor of a weight file, read but not converted. Numbers are little-endian, on disk as in memory: WebGPU and every
 * platform that runs it is little-endian.
 */
export interface TensorEntry {
  readonly dtype: TensorDtype;
  /** Sizes in the file's own order (for a convolution's weight that is OIHW); `[]` is a scalar. */
  readonly shape: readonly number[];
  /** The elements in C order. May be a view into the file's bytes: do not write to it. */
  readonly bytes: Uint8Array;
  /** A fresh copy as float32 (C order); F64, I64 and I32 are rounded, BOOL becomes 0 or 1. */
  toFloat32(): Float32Array;
  /** A fresh copy as float64 (C order); exact but for I64 beyond 2^53. */
  toFloat64(): Float64Array;
}

/**
 * Number of elements of `shape`, or undefined if it is no shape: a negative, fractional or huge size, or a product of the
 * non-zero sizes beyond 2^53 (so that the sizes of an empty tensor are bounded too).
 */
export function elementCount(shape: readonly unknown[]): number | undefined {
  let product = 1;
  let empty = false;
  for (const size of shape) {
    if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) return undefined;
    if (size === 0) empty = true;
    else product *= size;
    if (!Number.isSafeInteger(product)) return undefined;
  }
  return empty ? 0 : product;
}

/** A shape from an untrusted file for an error message; at most eight sizes. */
export function showShape(shape: readonly unknown[]): string {
  // Not `String` for all: of lists in lists that are shared it would write out every path, which has no end in practice.
  const sizes = shape.slice(0, 8).map((size) => (typeof size === "number" ? `${size}` : `a ${typeof size}`));
  return `[${sizes.join(", ")}${shape.length > 8 ? ", ..." : ""}]`;
}

/** A {@link TensorEntry} whose bytes are fetched when first asked for, and then kept. */
export class LazyTensor implements TensorEntry {
  private fetched: Uint8Array | undefined;

  constructor(
    readonly dtype: TensorDtype,
    readonly shape: readonly number[],
    private readonly fetch: () => Uint8Array,
  ) {}

  get bytes(): Uint8Array {
    return (this.fetched ??= this.fetch());
  }

  toFloat32(): Float32Array {
    const values = this.typed();
    return values instanceof BigInt64Array ? Float32Array.from(values, Number) : new Float32Array(values);
  }

  toFloat64(): Float64Array {
    const values = this.typed();
    return values instanceof BigInt64Array ? Float64Array.from(values, Number) : new Float64Array(values);
  }

  private typed(): ArrayLike<number> | BigInt64Array {
    // Copied, because a typed array needs an aligned start and a file promises none.
    const buffer = new Uint8Array(this.bytes).buffer;
    switch (this.dtype) {
      case "F64":
        return new Float64Array(buffer);
      case "F32":
        return new Float32Array(buffer);
      case "F16":
        return decodeHalf(new Uint16Array(buffer));
      case "BF16":
        return decodeBfloat16(new Uint16Array(buffer));
      case "I64":
        return new BigInt64Array(buffer);
      case "I32":
        return new Int32Array(buffer);
      case "I16":
        return new Int16Array(buffer);
      case "I8":
        return new Int8Array(buffer);
      case "U8":
        return new Uint8Array(buffer);
      case "BOOL":
        return new Uint8Array(buffer).map((v) => (v ? 1 : 0));
    }
  }
}
