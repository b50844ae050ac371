/** The ONNX graph as a file: what a reader of protobuf finds in it. That it computes rightly is shown in test/gpu/unetExport.test.ts. */
import { describe, expect, it } from "vitest";
import { encodeOnnx } from "../../src/io/onnxModel.js";
import { type UNetConfig, unetConfig, unetTensorShapes } from "../../src/pconv/unet.js";
import { onnxFile } from "../../src/pconv/unetOnnx.js";

/** Fields of a protobuf message by number: integers, floats' bytes, or nested bytes. */
function fields(bytes: Uint8Array): Map<number, (bigint | Uint8Array)[]> {
  const found = new Map<number, (bigint | Uint8Array)[]>();
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = Number(varint());
    const [field, type] = [key >> 3, key & 7];
    let value: bigint | Uint8Array;
    if (type === 0) value = varint();
    else {
      expect([2, 5]).toContain(type);
      const length = type === 5 ? 4 : Number(varint());
      expect(at + length).toBeLessThanOrEqual(bytes.length);
      value = bytes.subarray(at, (at += length));
    }
    found.set(field, [...(found.get(field) ?? []), value]);
  }
  expect(at).toBe(bytes.length);
  return found;
}

const text = (value: bigint | Uint8Array | undefined) => new TextDecoder().decode(value as Uint8Array);
const all = (message: Map<number, (bigint | Uint8Array)[]>, field: number) =>
  (message.get(field) ?? []).map((value) => fields(value as Uint8Array));

function exported(form: Partial<UNetConfig>) {
  const config = unetConfig(form);
  const state = new Map(
    [...unetTensorShapes(config)].map(([name, shape], seed) => {
      const size = shape.reduce((a, b) => a * b, 1);
      return [name, { shape, toFloat32: () => Float32Array.from({ length: size }, (_, i) => seed + i / 7) }] as const;
    }),
  );
  const model = fields(onnxFile(config, state));
  const [graph] = all(model, 7);
  const nodes = all(graph, 1).map((node) => ({
    operator: text(node.get(4)![0]),
    inputs: (node.get(1) ?? []).map(text).filter((name) => name !== ""),
    output: text(node.get(2)![0]),
  }));
  const constants = new Map(all(graph, 5).map((tensor) => [text(tensor.get(8)![0]), tensor]));
  return { config, state, model, graph, nodes, constants };
}

const FORMS: readonly Partial<UNetConfig>[] = [
  { channels: [4] },
  { channels: [4, 6, 5, 7], convention: "pytorch" },
  { channels: [4, 6], convention: "keras", concat: "skip-up", convBias: "all", head: "sigmoid", bnEps: 1e-3 },
];

describe("the ONNX graph", () => {
  it.each(FORMS)("of %j defines what it uses, once and in order, and uses what it defines", (form) => {
    const { nodes, constants, graph } = exported(form);
    const inputs = all(graph, 11).map((value) => text(value.get(1)![0]));
    expect(inputs).toEqual(["image", "mask"]);
    expect(all(graph, 12).map((value) => text(value.get(1)![0]))).toEqual(["output"]);
    const known = new Set([...inputs, ...constants.keys()]);
    const used = new Set<string>();
    for (const { inputs, output } of nodes) {
      for (const name of inputs) expect(known, `input ${name} of ${output}`).toContain(name);
      expect(known, output).not.toContain(output);
      known.add(output);
      for (const name of inputs) used.add(name);
    }
    // The last mask has no reader where nothing but the picture is asked for.
    const unused = [...known].filter((name) => !used.has(name));
    expect(unused.filter((name) => name !== "dec_1.mask")).toEqual(["output"]);
  });

  it.each(FORMS)("of %j holds every tensor of the network with its bytes", (form) => {
    const { state, constants } = exported(form);
    for (const [name, tensor] of state) {
      const stored = constants.get(name)!;
      const raw = (stored.get(9)![0] as Uint8Array).slice();
      expect(new Float32Array(raw.buffer), name).toEqual(tensor.toFloat32());
      const shape = stored.get(1)!.map(Number);
      const bias = name.endsWith("conv.bias");
      expect(shape, name).toEqual(bias ? [1, tensor.shape[0], 1, 1] : tensor.shape);
      expect(stored.get(2), name).toEqual([1n]);
    }
  });

  it("leaves batch and size open, and carries version, range and configuration", () => {
    const { model, graph, config } = exported({ ...FORMS[1], range: "imagenet" });
    const [image] = all(graph, 11);
    const dims = all(all(all(all(image, 2)[0], 1)[0], 2)[0], 1);
    expect(dims.map((dim) => (dim.has(1) ? Number(dim.get(1)![0]) : text(dim.get(2)![0])))).toEqual(["N", 3, "H", "W"]);
    expect(model.get(1)).toEqual([8n]);
    expect(all(model, 8)[0].get(2)).toEqual([17n]);
    expect(text(model.get(6)![0])).toContain("normalised by ImageNet's mean");
    const [metadata] = all(model, 14);
    expect(text(metadata.get(1)![0])).toBe("pconv-webgpu.unet");
    expect(JSON.parse(text(metadata.get(2)![0]))).toEqual(config);
  });

  it("has a convolution, a mask count and a factor for each level and the head's layers at the end", () => {
    const { nodes } = exported(FORMS[2]);
    const count = (operator: string) => nodes.filter((node) => node.operator === operator).length;
    expect(count("Conv")).toBe(2 * 4 + 1);
    expect(count("BatchNormalization")).toBe(2);
    expect(count("Resize")).toBe(4);
    expect(nodes.slice(-2).map(({ operator }) => operator)).toEqual(["Sigmoid", "Slice"]);
  });
});

describe("encodeOnnx", () => {
  it("writes negative and large integers as protobuf does", () => {
    const file = encodeOnnx({
      name: "g",
      description: "é",
      nodes: [{ operator: "Op", inputs: ["a"], output: "b", attributes: { axis: -1n, sizes: [300, -2] } }],
      constants: [{ name: "c", shape: [1], values: BigInt64Array.of(-5n) }],
      inputs: [],
      outputs: [],
      metadata: {},
    });
    const [graph] = all(fields(file), 7);
    const [node] = all(graph, 1);
    const [axis, sizes] = all(node, 5);
    expect(BigInt.asIntN(64, axis.get(3)![0] as bigint)).toBe(-1n);
    expect(sizes.get(8)!.map((v) => BigInt.asIntN(64, v as bigint))).toEqual([300n, -2n]);
    const [constant] = all(graph, 5);
    expect(constant.get(2)).toEqual([7n]);
    expect([...(constant.get(9)![0] as Uint8Array)]).toEqual([251, 255, 255, 255, 255, 255, 255, 255]);
  });
});
