/**
 * TensorBoard event logs: scalars and pictures; Node only.
 *
 * A log is a sequence of TFRecords: u64 length, masked CRC-32C of those 8 bytes, the record, its masked CRC-32C, all
 * little-endian. A record is a protobuf `Event`.
 * Source: TensorFlow, "TFRecord and tf.train.Example" (format of the records) and core/lib/hash/crc32c.h (mask);
 * tensorboard/compat/proto/event.proto and summary.proto (field numbers below); Protocol Buffers, "Encoding".
 */
import { closeSync, fstatSync, fsyncSync, openSync, readSync, truncateSync, writeFileSync } from "node:fs";
import { FormatError, UserError } from "../errors.js";
import { crc32c } from "./crc.js";
import { fileError } from "./files.js";

/** A CRC of data that holds CRCs is weak, so TFRecord stores it rotated and shifted. Unsigned 32 bits. */
export function maskedCrc32c(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

type Bytes = Uint8Array;

function concat(parts: readonly Bytes[]): Bytes {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    result.set(part, offset);
    offset += part.length;
  }
  return result;
}

/** Base-128, least significant group first; for integers from 0 to 2^53. */
function varint(value: number): Bytes {
  const groups: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Uint8Array.from([...groups, rest]);
    groups.push((rest % 128) | 128);
  }
}

// Protobuf fields; the key is (number << 3) | wire type, and every number here is below 16, so that a key is one byte.
const integerField = (field: number, value: number): Bytes => concat([Uint8Array.of(field << 3), varint(value)]);
const bytesField = (field: number, value: Bytes): Bytes =>
  concat([Uint8Array.of((field << 3) | 2), varint(value.length), value]);
const textField = (field: number, value: string): Bytes => bytesField(field, new TextEncoder().encode(value));

function doubleField(field: number, value: number): Bytes {
  const result = new Uint8Array(9);
  result[0] = (field << 3) | 1;
  new DataView(result.buffer).setFloat64(1, value, true);
  return result;
}

function floatField(field: number, value: number): Bytes {
  const result = new Uint8Array(5);
  result[0] = (field << 3) | 5;
  new DataView(result.buffer).setFloat32(1, value, true);
  return result;
}

/** event.proto: wall_time = 1, step = 2, and one of file_version = 3, summary = 5, session_log = 7. */
function event(wallSeconds: number, step: number, what: Bytes): Bytes {
  return concat([doubleField(1, wallSeconds), integerField(2, step), what]);
}

/** summary.proto: Summary.value = 1; Value.tag = 1, and one of simple_value = 2, image = 4. */
function summary(tag: string, value: Bytes): Bytes {
  return bytesField(5, bytesField(1, concat([textField(1, tag), value])));
}

function record(content: Bytes): Bytes {
  const result = new Uint8Array(content.length + 16);
  const view = new DataView(result.buffer);
  view.setBigUint64(0, BigInt(content.length), true);
  view.setUint32(8, maskedCrc32c(result.subarray(0, 8)), true);
  result.set(content, 12);
  view.setUint32(12 + content.length, maskedCrc32c(content), true);
  return result;
}

/** summary.proto's colour spaces by the PNG header's colour type. */
const colorspaceOfPng: Readonly<Record<number, number>> = { 0: 1, 4: 2, 2: 3, 3: 3, 6: 4 };
const pngSignature = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/**
 * Appends events to one log. Events gather in memory until {@link flush}; a process that dies between two flushes loses those,
 * and at worst leaves half a record at the end, which the next writer on that file removes.
 */
export class EventWriter {
  private readonly file: number;
  private pending: Bytes[] = [];
  /** Bytes of whole records in the file. */
  private size = 0;
  private closed = false;

  /**
   * Opens a log, or goes on with one that exists.
   *
   * @param path TensorBoard only looks at names that hold `tfevents`: `events.out.tfevents.<seconds>.<host>.v2`
   * @throws UserError if it cannot be written; FormatError if it exists and is no event log (it is left as it is)
   */
  constructor(private readonly path: string) {
    this.file = this.guard(() => openSync(path, "a+"));
    try {
      this.guard(() => {
        this.size = wholeRecords(this.file, path);
        if (this.size < fstatSync(this.file).size) truncateSync(path, this.size);
      });
      if (this.size === 0) {
        this.add(event(Date.now() / 1000, 0, textField(3, "brain.Event:2")));
        this.flush();
      }
    } catch (error) {
      closeSync(this.file);
      throw error;
    }
  }

  /** One point of the curve `tag`; slashes in a tag make groups. NaN and infinities are kept. */
  scalar(tag: string, value: number, step: number, wallSeconds: number): void {
    this.add(event(wallSeconds, this.checkStep(step), summary(tag, floatField(2, value))));
  }

  /**
   * A picture.
   *
   * @param png a whole PNG file of `width` x `height` pixels
   * @throws FormatError if it is no such PNG
   */
  image(tag: string, png: Uint8Array, width: number, height: number, step: number, wallSeconds: number): void {
    const header = new DataView(png.buffer, png.byteOffset, png.byteLength);
    const isPng = png.length >= 33 && pngSignature.every((byte, i) => png[i] === byte);
    if (!isPng || header.getUint32(16) !== width || header.getUint32(20) !== height) {
      const got = isPng ? `${header.getUint32(16)}x${header.getUint32(20)}` : "other bytes";
      throw new FormatError(
        `EventWriter.image: ${tag}`,
        `expected a PNG of ${width}x${height}, got ${got}`,
        "encode it as PNG",
      );
    }
    const colorspace = colorspaceOfPng[png[25]];
    const fields = [integerField(1, height), integerField(2, width), integerField(3, colorspace), bytesField(4, png)];
    this.add(event(wallSeconds, this.checkStep(step), summary(tag, bytesField(4, concat(fields)))));
  }

  /**
   * Says that training starts (again) at `step`: TensorBoard then drops what earlier logs of the run hold for this step and
   * later ones, which were written after the checkpoint that is resumed.
   */
  sessionStart(step: number): void {
    const start = integerField(1, 1); // SessionLog.status = START
    this.add(event(Date.now() / 1000, this.checkStep(step), bytesField(7, start)));
  }

  /**
   * Writes what has gathered.
   *
   * @throws UserError if the disk is full or gone; the events are then kept for another try
   */
  flush(): void {
    if (this.pending.length === 0) return;
    const bytes = concat(this.pending);
    try {
      this.guard(() => writeFileSync(this.file, bytes));
    } catch (error) {
      // A full disk may have taken half of it; a later try must not follow half a record.
      if (fstatSync(this.file).size > this.size) truncateSync(this.path, this.size);
      throw error;
    }
    this.size += bytes.length;
    this.pending = [];
  }

  /** Flushes, waits for the disk, and closes; closing again does nothing. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    try {
      this.flush();
      this.guard(() => fsyncSync(this.file));
    } finally {
      closeSync(this.file);
    }
  }

  private add(content: Bytes): void {
    this.pending.push(record(content));
  }

  private checkStep(step: number): number {
    if (!Number.isSafeInteger(step) || step < 0) {
      throw new UserError("EventWriter", `expected a step of 0 or more, got ${step}`, "count steps from 0");
    }
    return step;
  }

  private guard<T>(operation: () => T): T {
    try {
      return operation();
    } catch (cause) {
      throw fileError(this.path, "write", cause);
    }
  }
}

/** Length of the whole records that a log begins with; only a last, cut-off one may follow. */
function wholeRecords(file: number, path: string): number {
  const size = fstatSync(file).size;
  const header = new DataView(new ArrayBuffer(12));
  let end = 0;
  while (end + 12 <= size) {
    readSync(file, header, 0, 12, end);
    if (header.getUint32(8, true) !== maskedCrc32c(new Uint8Array(header.buffer, 0, 8))) {
      throw new FormatError(
        path,
        `expected an event record at offset ${end}, got other bytes`,
        "name a file of its own",
      );
    }
    const next = end + 16 + Number(header.getBigUint64(0, true));
    if (next > size) break;
    end = next;
  }
  return end;
}
