/**
 * Writes ONNX models: the few messages of onnx.proto that a graph of standard operators needs, in protobuf's wire format.
 *
 * Written here because it is a page of code, while a protobuf library would be the browser bundle's largest dependency for one
 * function, and holds a large model in memory several times.
 * Source: onnx/onnx.proto3 (field numbers), https://protobuf.dev/programming-guides/encoding (wire format).
 */
import { UserError } from "../errors.js";

/** Bytes in pieces: messages contain messages, whose lengths come first; weights are copied only once, at the end. */
class Message {
  private readonly pieces: Uint8Array[] = [];
  length = 0;

  private add(piece: Uint8Array): this {
    this.pieces.push(piece);
    this.length += piece.length;
    return this;
  }

  private key(field: number, wireType: number): this {
    return this.add(varint(BigInt(field * 8 + wireType)));
  }

  int(field: number, value: number): this {
    // Negative numbers take ten bytes, as two's complement of 64 bits.
    return this.key(field, 0).add(varint(BigInt.asUintN(64, BigInt(value))));
  }

  float(field: number, value: number): this {
    return this.key(field, 5).add(new Uint8Array(Float32Array.of(value).buffer));
  }

  bytes(field: number, value: Uint8Array): this {
    return this.key(field, 2)
      .add(varint(BigInt(value.length)))
      .add(value);
  }

  text(field: number, value: string): this {
    return this.bytes(field, new TextEncoder().encode(value));
  }

  message(field: number, value: Message): this {
    this.key(field, 2).add(varint(BigInt(value.length)));
    this.pieces.push(...value.pieces);
    this.length += value.length;
    return this;
  }

  finish(): Uint8Array {
    const whole = new Uint8Array(this.length);
    let at = 0;
    for (const piece of this.pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  }
}

function varint(value: bigint): Uint8Array {
  const bytes: number[] = [];
  for (; value > 127n; value >>= 7n) bytes.push(Number(value & 127n) | 128);
  bytes.push(Number(value));
  return Uint8Array.from(bytes);
}

/** A constant of the graph. */
export interface OnnxTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Row-major; the array's type is the tensor's. */
  readonly values: Float32Array | BigInt64Array;
}

/** A number is a FLOAT, a bigint an INT, an array INTS, a text STRING. */
export type OnnxAttribute = number | bigint | readonly number[] | string;

export interface OnnxNode {
  readonly operator: string;
  readonly inputs: readonly string[];
  readonly output: string;
  readonly attributes: Readonly<Record<string, OnnxAttribute>>;
}

/** A float32 input or output; sizes that are not known yet have names. */
export interface OnnxValue {
  readonly name: string;
  readonly shape: readonly (number | string)[];
}

export interface OnnxModel {
  readonly name: string;
  /** What the inputs and outputs mean. */
  readonly description: string;
  readonly nodes: readonly OnnxNode[];
  readonly constants: readonly OnnxTensor[];
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
  readonly metadata: Readonly<Record<string, string>>;
}

/** Operators' version; onnxruntime has it since 1.12. */
const OPSET = 17;
const IR_VERSION = 8;
const FLOAT = 1;
const INT64 = 7;
/** Protobuf's own bound on one message. */
const MAX_BYTES = 2 ** 31 - 1;

function tensorMessage({ name, shape, values }: OnnxTensor): Message {
  const message = new Message();
  for (const size of shape) message.int(1, size);
  const raw = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return message
    .int(2, values instanceof Float32Array ? FLOAT : INT64)
    .text(8, name)
    .bytes(9, raw);
}

function attributeMessage(name: string, value: OnnxAttribute): Message {
  const message = new Message().text(1, name);
  if (typeof value === "number") return message.float(2, value).int(20, 1);
  if (typeof value === "bigint") return message.int(3, Number(value)).int(20, 2);
  if (typeof value === "string") return message.text(4, value).int(20, 3);
  for (const item of value) message.int(8, item);
  return message.int(20, 7);
}

function nodeMessage({ operator, inputs, output, attributes }: OnnxNode): Message {
  const message = new Message();
  for (const input of inputs) message.text(1, input);
  message.text(2, output).text(3, output).text(4, operator);
  for (const [name, value] of Object.entries(attributes)) message.message(5, attributeMessage(name, value));
  return message;
}

function valueMessage({ name, shape }: OnnxValue): Message {
  const dims = new Message();
  for (const size of shape) {
    dims.message(1, typeof size === "number" ? new Message().int(1, size) : new Message().text(2, size));
  }
  const type = new Message().message(1, new Message().int(1, FLOAT).message(2, dims));
  return new Message().text(1, name).message(2, type);
}

/**
 * The model as an .onnx file.
 * @throws {UserError} when it would be larger than protobuf allows, 2 GiB
 */
export function encodeOnnx(model: OnnxModel): Uint8Array {
  const graph = new Message();
  for (const node of model.nodes) graph.message(1, nodeMessage(node));
  graph.text(2, model.name);
  for (const constant of model.constants) graph.message(5, tensorMessage(constant));
  graph.text(10, model.description);
  for (const input of model.inputs) graph.message(11, valueMessage(input));
  for (const output of model.outputs) graph.message(12, valueMessage(output));
  const file = new Message().int(1, IR_VERSION).text(2, "pconv-webgpu").text(6, model.description).message(7, graph);
  file.message(8, new Message().text(1, "").int(2, OPSET));
  for (const [key, value] of Object.entries(model.metadata)) {
    file.message(14, new Message().text(1, key).text(2, value));
  }
  if (file.length > MAX_BYTES) {
    const problem = `expected a model of at most ${MAX_BYTES} bytes, got ${file.length}`;
    throw new UserError("encodeOnnx", problem, "export a narrower network, or safetensors");
  }
  return file.finish();
}
