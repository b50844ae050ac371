/** A reader of TensorBoard event logs for tests: checks every CRC and decodes what the writer can write. */
import { maskedCrc32c } from "../../src/io/tensorboard.js";

export interface LoggedEvent {
  wallSeconds: number;
  step: number;
  fileVersion?: string;
  sessionStatus?: number;
  tag?: string;
  value?: number;
  image?: { width: number; height: number; colorspace: number; png: Uint8Array };
}

type Field = number | Uint8Array;

/** The fields of a protobuf message by number; each occurs once in what is written here. */
function fields(message: Uint8Array): Map<number, Field> {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const result = new Map<number, Field>();
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = view.getUint8(at++);
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const key = varint();
    const field = key >>> 3;
    if (result.has(field)) throw new Error(`field ${field} twice`);
    switch (key & 7) {
      case 0:
        result.set(field, varint());
        break;
      case 1:
        result.set(field, view.getFloat64(at, true));
        at += 8;
        break;
      case 2: {
        const length = varint();
        if (at + length > message.length) throw new Error(`field ${field} is cut off`);
        result.set(field, message.subarray(at, (at += length)));
        break;
      }
      case 5:
        result.set(field, view.getFloat32(at, true));
        at += 4;
        break;
      default:
        throw new Error(`wire type ${key & 7}`);
    }
  }
  return result;
}

const text = (field: Field | undefined) =>
  field === undefined ? undefined : new TextDecoder().decode(field as Uint8Array);
const message = (field: Field | undefined) => (field === undefined ? undefined : fields(field as Uint8Array));

/** Every event of a log. @throws Error on a wrong CRC or a cut-off record */
export function readEvents(log: Uint8Array): LoggedEvent[] {
  const view = new DataView(log.buffer, log.byteOffset, log.byteLength);
  const events: LoggedEvent[] = [];
  let at = 0;
  while (at < log.length) {
    const length = Number(view.getBigUint64(at, true));
    if (view.getUint32(at + 8, true) !== maskedCrc32c(log.subarray(at, at + 8))) throw new Error(`length CRC at ${at}`);
    const content = log.subarray(at + 12, at + 12 + length);
    if (view.getUint32(at + 12 + length, true) !== maskedCrc32c(content)) throw new Error(`CRC at ${at}`);
    at += length + 16;

    const event = fields(content);
    const value = message(message(event.get(5))?.get(1));
    const image = message(value?.get(4));
    events.push({
      wallSeconds: event.get(1) as number,
      step: event.get(2) as number,
      fileVersion: text(event.get(3)),
      sessionStatus: message(event.get(7))?.get(1) as number | undefined,
      tag: text(value?.get(1)),
      value: value?.get(2) as number | undefined,
      image: image && {
        height: image.get(1) as number,
        width: image.get(2) as number,
        colorspace: image.get(3) as number,
        png: image.get(4) as Uint8Array,
      },
    });
  }
  return events;
}
