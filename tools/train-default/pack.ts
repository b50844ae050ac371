/** The compact forms in which a trained network and its optimizer are kept. */
import { readBytes, writeWhole } from "../../src/io/files.js";
import { readSafetensors, type TensorToWrite, writeSafetensors } from "../../src/io/safetensors.js";
import type { TensorEntry } from "../../src/io/tensorEntry.js";

const asFloat32 = (entry: TensorEntry): TensorToWrite => ({
  dtype: "F32",
  shape: entry.shape,
  values: entry.toFloat32(),
});

/** The upper half of each float32, rounded to nearest even: its exponents reach as far down as the squares of gradients. */
function bfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(bits, (b) => (b + 0x7fff + ((b >>> 16) & 1)) >>> 16);
}

/**
 * Weights of a network with the convolutions in float16. What batch norm holds stays as it is: it is small, and divides.
 * @param metadata is added to the file's own
 */
export async function packWeights(from: string, to: string, metadata: Readonly<Record<string, string>>): Promise<void> {
  const file = readSafetensors(await readBytes(from), from);
  const tensors = [...file.tensors].map(([name, entry]): [string, TensorToWrite] => {
    // Only torch counts batches; nothing of this library reads it.
    if (name.endsWith(".num_batches_tracked"))
      return [name, { dtype: "I64", shape: entry.shape, values: new BigInt64Array(1) }];
    const { shape } = entry;
    return [name, shape.length === 4 ? { dtype: "F16", shape, values: entry.toFloat32() } : asFloat32(entry)];
  });
  await writeWhole(to, writeSafetensors(tensors, { ...file.metadata, ...metadata }));
}

/** Adam's moments in bfloat16; its step count as it is. */
export async function packOptimizer(from: string, to: string): Promise<void> {
  const file = readSafetensors(await readBytes(from), from);
  const tensors = [...file.tensors].map(([name, entry]): [string, TensorToWrite] => {
    if (!/^[mv]\./.test(name)) return [name, asFloat32(entry)];
    return [name, { dtype: "BF16", shape: entry.shape, values: bfloat16(entry.toFloat32()) }];
  });
  await writeWhole(to, writeSafetensors(tensors));
}

/**
 * Makes a network of `--base none` one of `--base harmonic`: the same layers, and a last one of zeros, so that it begins by giving the
 * base itself.
 */
export async function addBase(from: string, to: string): Promise<void> {
  const file = readSafetensors(await readBytes(from), from);
  const [key, config] = Object.entries(file.metadata).find(([, text]) => text.includes('"convention"'))!;
  const tensors = [...file.tensors].map(([name, entry]): [string, TensorToWrite] => {
    const { dtype, shape } = entry;
    if (dtype === "I64") return [name, { dtype, shape, values: new BigInt64Array(1) }];
    const values = entry.toFloat32();
    return [name, { dtype: "F32", shape, values: name.startsWith("dec_1.conv.") ? values.fill(0) : values }];
  });
  const metadata = { ...file.metadata, [key]: JSON.stringify({ ...JSON.parse(config), base: "harmonic" }) };
  await writeWhole(to, writeSafetensors(tensors, metadata));
}
