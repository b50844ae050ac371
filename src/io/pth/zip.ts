/**
 * A zip reader for untrusted archives in memory: stored and deflated records, zip64 directories, no encryption, one disk.
 * Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3.
 */
import { Inflate, inflateSync } from "fflate";
import { FormatError } from "../../errors.js";
import { ByteReader, quote } from "../byteReader.js";
import { crc32 } from "../crc.js";

interface ZipRecord {
  readonly method: number;
  readonly crc: number;
  readonly packed: number;
  readonly size: number;
  readonly offset: number;
}

const damaged = "the archive is cut off or damaged: copy or download it again";
/** What a file may grow to in memory, as a multiple of its size. */
const MAX_GROWTH = 4;
/** Packed bytes that are inflated at a time, so that what claims to be small is found to be large early. */
const PIECE = 2 ** 16;
const STORED = 0;
const DEFLATED = 8;

/** A zip archive; its directory is read at once, its records when asked for. */
export class ZipArchive {
  private readonly records = new Map<string, ZipRecord>();
  private inflatedTotal = 0;
  private packedTotal = 0;

  /** @throws FormatError if the directory is missing, damaged, or names a record twice */
  constructor(
    private readonly bytes: Uint8Array,
    private readonly where: string,
  ) {
    const directory = findDirectory(bytes, where);
    const reader = new ByteReader(bytes, where, directory.offset);
    for (let i = 0; i < directory.count; i++) {
      const { name, record } = readDirectoryEntry(reader);
      if (this.records.has(name)) throw new FormatError(where, `expected one record ${quote(name)}, got two`, damaged);
      this.records.set(name, record);
    }
  }

  /** Record names in the directory's order. */
  names(): string[] {
    return [...this.records.keys()];
  }

  /**
   * The bytes of a record, or undefined if there is none: a view for a stored record, a new array for a deflated one. All
   * deflated records together may grow to {@link MAX_GROWTH} times the archive: torch.save stores, and weights hardly shrink.
   *
   * @throws FormatError if it is out of bounds, packed in another way, or fails its CRC
   */
  read(name: string): Uint8Array | undefined {
    const record = this.records.get(name);
    if (record === undefined) return undefined;
    const where = `${this.where}: record ${quote(name)}`;

    const header = new ByteReader(this.bytes, where, record.offset);
    if (header.u32() !== 0x04034b50)
      throw new FormatError(where, "expected a local file header, got other bytes", damaged);
    if (header.take(4)[2] & 1)
      throw new FormatError(where, "expected plain records, got encrypted ones", "decrypt it first");
    header.take(18); // the directory repeats these
    const nameLength = header.u16();
    const extraLength = header.u16();
    header.take(nameLength + extraLength);

    const packed = header.take(record.packed);
    // Many records may claim the same bytes: each would be checked, and perhaps unpacked, anew.
    this.packedTotal += record.packed;
    if (this.packedTotal > this.bytes.length) {
      throw new FormatError(where, "expected records of their own bytes, got records that overlap", damaged);
    }
    const content = this.unpack(packed, record, where);
    if (content.length !== record.size || crc32(content) !== record.crc) {
      throw new FormatError(
        where,
        `expected ${record.size} bytes with CRC ${record.crc}, got ${content.length} with ${crc32(content)}`,
        `${damaged} (if it was saved under torch.serialization.set_crc32_options(False), save it without)`,
      );
    }
    return content;
  }

  private unpack(packed: Uint8Array, record: ZipRecord, where: string): Uint8Array {
    if (record.method === STORED) return packed;
    if (record.method !== DEFLATED) {
      throw new FormatError(
        where,
        `expected a stored or deflated record, got method ${record.method}`,
        "pack it again",
      );
    }
    this.inflatedTotal += record.size;
    const limit = MAX_GROWTH * this.bytes.length;
    // 1032:1 is the most that DEFLATE can reach, so a larger claim is false whatever the total.
    if (!(this.inflatedTotal <= limit && record.size <= 1032 * record.packed)) {
      const claim = `${record.size} bytes from ${record.packed}, ${this.inflatedTotal} in all`;
      throw new FormatError(where, `expected at most ${limit} unpacked bytes, got ${claim}`, "do not trust this file");
    }
    try {
      return inflate(packed, record.size);
    } catch (cause) {
      throw new FormatError(where, "expected DEFLATE data, got something that does not unpack", damaged, { cause });
    }
  }
}

/** What `packed` unpacks to, `size` bytes of it at most. */
function inflate(packed: Uint8Array, size: number): Uint8Array {
  if (packed.length <= PIECE) return inflateSync(packed, { out: new Uint8Array(size) });
  const content = new Uint8Array(size);
  let length = 0;
  const stream = new Inflate((piece) => {
    content.set(piece.subarray(0, Math.max(0, size - length)), length);
    length += piece.length;
  });
  for (let at = 0; at < packed.length && length <= size; at += PIECE) {
    stream.push(packed.subarray(at, at + PIECE), at + PIECE >= packed.length);
  }
  if (length > size) throw new RangeError(`more than ${size} bytes`);
  return content.subarray(0, length);
}

function findDirectory(bytes: Uint8Array, where: string): { count: number; offset: number } {
  // The end record is 22 bytes and a comment of at most 65535, which must reach exactly to the end of the file.
  const last = bytes.length - 22;
  for (let at = last; at >= 0 && at >= last - 0xffff; at--) {
    if (bytes[at] !== 0x50 || bytes[at + 1] !== 0x4b || bytes[at + 2] !== 5 || bytes[at + 3] !== 6) continue;
    const end = new ByteReader(bytes, where, at + 10);
    const count = end.u16();
    end.take(4);
    const offset = end.u32();
    if (end.u16() !== last - at) continue;
    return count === 0xffff || offset === 0xffffffff ? findZip64Directory(bytes, where, at) : { count, offset };
  }
  throw new FormatError(where, "expected a zip directory at the end of the file, got none", damaged);
}

function findZip64Directory(bytes: Uint8Array, where: string, end: number): { count: number; offset: number } {
  const locator = new ByteReader(bytes, where, Math.max(0, end - 20));
  const isLocator = locator.u32() === 0x07064b50;
  locator.take(4);
  const record = new ByteReader(bytes, where, locator.u64());
  if (!isLocator || record.u32() !== 0x06064b50) {
    throw new FormatError(where, "expected a zip64 end record, got other bytes", damaged);
  }
  record.take(28);
  const count = record.u64();
  record.take(8);
  return { count, offset: record.u64() };
}

function readDirectoryEntry(reader: ByteReader): { name: string; record: ZipRecord } {
  if (reader.u32() !== 0x02014b50) {
    throw new FormatError(
      reader.where,
      `expected a zip directory entry before offset ${reader.position}, got none`,
      damaged,
    );
  }
  reader.take(6);
  const method = reader.u16();
  reader.take(4);
  const crc = reader.u32();
  let packed = reader.u32();
  let size = reader.u32();
  const nameLength = reader.u16();
  const extraLength = reader.u16();
  const commentLength = reader.u16();
  reader.take(8);
  let offset = reader.u32();
  const name = new TextDecoder().decode(reader.take(nameLength));
  const extra = new ByteReader(reader.take(extraLength), reader.where);
  reader.take(commentLength);

  // Sizes that do not fit 32 bits are in the zip64 field (id 1), in this order, and only those that do not fit.
  while (extra.position + 4 <= extraLength) {
    const id = extra.u16();
    const field = new ByteReader(extra.take(extra.u16()), reader.where);
    if (id !== 1) continue;
    if (size === 0xffffffff) size = field.u64();
    if (packed === 0xffffffff) packed = field.u64();
    if (offset === 0xffffffff) offset = field.u64();
  }
  return { name, record: { method, crc, packed, size, offset } };
}
