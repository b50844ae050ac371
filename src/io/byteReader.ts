import { FormatError, printable } from "../errors.js";

/**
 * A bounds-checked little-endian cursor over untrusted bytes. Reading past the end is a {@link FormatError} that names the
 * offset; nothing is allocated, slices are views.
 */
export class ByteReader {
  private readonly view: DataView;

  constructor(
    readonly bytes: Uint8Array,
    /** File (and record) that the errors name. */
    readonly where: string,
    /** Offset in bytes of the next read. */
    public position = 0,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** The next `count` bytes as a view, without copying. */
  take(count: number): Uint8Array {
    const start = this.advance(count);
    return this.bytes.subarray(start, start + count);
  }

  u8(): number {
    return this.view.getUint8(this.advance(1));
  }

  u16(): number {
    return this.view.getUint16(this.advance(2), true);
  }

  u32(): number {
    return this.view.getUint32(this.advance(4), true);
  }

  i32(): number {
    return this.view.getInt32(this.advance(4), true);
  }

  /** Unsigned 64-bit integer; above 2^53 it comes back inexact, which every length check then refuses. */
  u64(): number {
    return Number(this.view.getBigUint64(this.advance(8), true));
  }

  /** Big-endian float64, as pickles store it. */
  f64BigEndian(): number {
    return this.view.getFloat64(this.advance(8), false);
  }

  /** Bytes up to the next line feed, which is consumed and not returned. */
  line(): Uint8Array {
    const end = this.bytes.indexOf(0x0a, this.position);
    if (end < 0) this.truncated("a line feed");
    const line = this.bytes.subarray(this.position, end);
    this.position = end + 1;
    return line;
  }

  private advance(count: number): number {
    const start = this.position;
    if (!(count <= this.bytes.length - start)) this.truncated(`${count} more bytes`);
    this.position = start + count;
    return start;
  }

  private truncated(wanted: string): never {
    throw new FormatError(
      this.where,
      `expected ${wanted} at offset ${this.position}, got the end after ${this.bytes.length} bytes`,
      "the file is cut off or damaged: copy or download it again",
    );
  }
}

/** Text from an untrusted file, made fit for an error message: quoted, nothing unprintable, at most 80 characters. */
export function quote(text: string): string {
  // Beyond JSON's own escapes: DEL, C1 controls and the bidirectional overrides, which could disguise a name on a terminal.
  return printable(JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text));
}
