/** Weight files: safetensors, .pth and .h5. */
import { readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { unzipSync, zipSync } from "fflate";
import { writeSafetensors } from "../../src/io/safetensors.js";
import { readWeightsFile } from "../../src/io/weightsFile.js";
import { unetConfig, unetTensorShapes } from "../../src/pconv/unet.js";
import { findUNet, unetMetadata } from "../../src/pconv/unetWeights.js";
import { findVgg } from "../../src/pconv/vggWeights.js";
import type { Rng } from "../../src/pconv/rng.js";
import { chance, concat, extremeField, latin1, mutateBytes, mutateList, pick, utf8 } from "./bytes.js";
import { Broken, type FuzzFormat } from "./case.js";
import { mutateJson } from "./json.js";
import { instructions, mutatePickle } from "./pickle.js";

/** Weight files that other programs wrote, in a checkout. */
const FIXTURES = resolve("test/fixtures/weights");
const fixture = async (name: string): Promise<Uint8Array> => new Uint8Array(await readFile(join(FIXTURES, name)));

/** Tensors together may be so many times the file; see `readPth` and `readH5`. */
const MAX_GROWTH = 4;

/** What readers allocate whatever a file's size: tables, decoders; HDF5 is a library with memory of its own. */
const SLACK_BYTES = 2 ** 22;
const LIBRARY_BYTES = 2 ** 26;

/** Reads a weight file as the commands do: every tensor, and the network in it. */
async function readAll(folder: string, name: string): Promise<void> {
  const path = join(folder, name);
  const { size: length } = await stat(path);
  const before = process.memoryUsage().arrayBuffers;
  // One file more for its own bytes.
  const allowed = (MAX_GROWTH + 1) * length + SLACK_BYTES + (name.endsWith(".h5") ? LIBRARY_BYTES : 0);
  const weights = await readWeightsFile(path).finally(() => {
    const growth = process.memoryUsage().arrayBuffers - before;
    if (growth > allowed) throw new Broken(`${growth} bytes allocated for a file of ${length}`);
  });
  let bytes = 0;
  for (const [tensorName, tensor] of weights.tensors) {
    bytes += tensor.bytes.length;
    const elements = tensor.shape.reduce((product, size) => product * size, 1);
    if (tensor.toFloat32().length !== elements) throw new Broken(`${tensorName} has not the elements of its shape`);
  }
  if (bytes > MAX_GROWTH * length) throw new Broken(`${bytes} bytes of tensors from ${length}`);
  if (Object.getPrototypeOf(weights.metadata) !== null && weights.format === "safetensors") {
    throw new Broken("the metadata have a prototype");
  }
  findUNet(weights, path);
  findVgg(weights.tensors, path);
}

/** A small network of this library, as its own weight file. */
function ownUNet(): Uint8Array {
  const config = unetConfig({ depth: 2, channels: [2, 3] });
  const tensors = [...unetTensorShapes(config)].map(([name, shape]) => {
    const values = new Float32Array(shape.reduce((product, size) => product * size, 1)).fill(0.5);
    return [name, { dtype: "F32", shape, values }] as const;
  });
  return writeSafetensors(tensors, unetMetadata(config));
}

let safetensors: Uint8Array[] = [];
const headerLength = (file: Uint8Array): number => new DataView(file.buffer, file.byteOffset).getUint32(0, true);

export const safetensorsFormat: FuzzFormat = {
  name: "safetensors",
  async prepare() {
    safetensors = [ownUNet(), await fixture("edge.safetensors"), await fixture("vgg16_small.safetensors")];
  },
  make(rng) {
    const original = pick(safetensors, rng);
    if (chance(0.4, rng)) {
      const words = ["__metadata__", '"dtype":"F32"', '"shape":[', '"data_offsets":[0,', "9007199254740993", "1e999", '{"', "\\u0000", "BF16"].map(latin1); // prettier-ignore
      return { files: { "case.safetensors": mutateBytes(original, rng, words, safetensors) } };
    }
    const end = 8 + headerLength(original);
    const header = JSON.parse(Buffer.from(original.subarray(8, end)).toString()) as Record<string, unknown>;
    // What is wrong with one tensor of many is often hidden by the many.
    const names = Object.keys(header);
    for (const name of names) if (names.length > 20 && chance(0.8, rng)) delete header[name];
    const spoilt = utf8(nestedConfig(header, rng) ?? mutateJson(header, rng));
    const length = new Uint8Array(8);
    new DataView(length.buffer).setUint32(0, spoilt.length, true);
    const body = original.subarray(end);
    return { files: { "case.safetensors": concat(length, spoilt, chance(0.2, rng) ? mutateBytes(body, rng) : body) } };
  },
  read: (folder) => readAll(folder, "case.safetensors"),
};

/** The network's configuration is JSON within JSON. */
function nestedConfig(header: Record<string, unknown>, rng: Rng): string | null {
  const metadata = header["__metadata__"] as Record<string, string> | undefined;
  const [key] = Object.keys(metadata ?? {});
  if (!metadata || key === undefined || !metadata[key].startsWith("{") || chance(0.5, rng)) return null;
  metadata[key] = mutateJson(JSON.parse(metadata[key]) as object, rng);
  return JSON.stringify(header);
}

let zips: { bytes: Uint8Array; records: Record<string, Uint8Array> }[] = [];
let legacies: Uint8Array[] = [];
/** The pickles of a legacy file: magic number, version, system, object, storage keys. */
const LEGACY_PICKLES = 5;

export const pthFormat: FuzzFormat = {
  name: "pth",
  async prepare() {
    zips = [];
    for (const name of ["edge.pth", "vgg16_small.pth", "naoto_small_ckpt.pth"]) {
      const bytes = await fixture(name);
      zips.push({ bytes, records: unzipSync(bytes) });
    }
    legacies = [await fixture("edge_legacy.pth"), await fixture("vgg16_small_legacy.pth")];
  },
  make(rng) {
    const kind = rng.uniform();
    const file = kind < 0.35 ? spoiltArchive(rng) : kind < 0.7 ? spoiltLegacy(rng) : spoiltBytes(rng);
    return { files: { "case.pth": file } };
  },
  read: (folder) => readAll(folder, "case.pth"),
};

function spoiltBytes(rng: Rng): Uint8Array {
  const words = ["PK\x01\x02", "PK\x03\x04", "PK\x05\x06", "PK\x06\x06", "PK\x06\x07", "\x01\x00\x18\x00", "data.pkl", "../", "cos\nsystem\n", "\x80\x02", "."].map(latin1); // prettier-ignore
  const originals = [...zips.map((z) => z.bytes), ...legacies];
  return mutateBytes(pick(originals, rng), rng, words, originals);
}

/** An archive with right checksums around a spoilt pickle or spoilt records; its directory perhaps spoilt afterwards. */
function spoiltArchive(rng: Rng): Uint8Array {
  const { records } = pick(zips, rng);
  let entries = Object.entries(records);
  const pickle = entries.findIndex(([name]) => name.endsWith("data.pkl"));
  if (chance(0.7, rng)) entries = entries.with(pickle, [entries[pickle][0], mutatePickle(entries[pickle][1], rng)]);
  else {
    entries = mutateList(entries, rng, ([name, content]): [string, Uint8Array] => {
      const names = [
        name,
        name.replace("data/", ""),
        "../../x",
        "/etc/passwd",
        "a\0b",
        "",
        "x".repeat(3000),
        `${name}/`,
      ];
      return [chance(0.4, rng) ? pick(names, rng) : name, chance(0.6, rng) ? mutateBytes(content, rng) : content];
    });
  }
  const level = pick([0, 0, 9] as const, rng);
  const zip = zipSync(Object.fromEntries(entries), { level });
  if (chance(0.7, rng)) return zip;
  // Fields of the directory: it begins at PK 1 2 and takes the rest of the file.
  const directory = Buffer.from(zip).indexOf("PK\x01\x02");
  if (directory < 0) return zip;
  const at = directory + rng.integer(0, zip.length - directory - 1);
  const copy = zip.slice();
  copy.set(extremeField(rng, directory).subarray(0, copy.length - at), at);
  return copy;
}

function spoiltLegacy(rng: Rng): Uint8Array {
  const file = pick(legacies, rng);
  const pickles: Uint8Array[] = [];
  let at = 0;
  for (let i = 0; i < LEGACY_PICKLES; i++) {
    pickles.push(concat(...instructions(file, at)));
    at += pickles[i].length;
  }
  const which = pick([3, 3, 3, 3, 4, 2, 1, 0], rng);
  pickles[which] = mutatePickle(pickles[which], rng);
  const storages = file.subarray(at);
  return concat(...pickles, chance(0.2, rng) ? mutateBytes(storages, rng) : storages);
}

let h5: Uint8Array[] = [];
const H5_WORDS = ["TREE", "HEAP", "SNOD", "OHDR", "FRHP", "FHDB", "BTHD", "BTLF", "GCOL", "\x89HDF\r\n\x1a\n", "deflate", "\xff\xff\xff\xff\xff\xff\xff\xff"]; // prettier-ignore

export const h5Format: FuzzFormat = {
  name: "h5",
  async prepare() {
    const names = ["vgg16_small_official_names.h5", "vgg16_small_keras2.h5", "vgg16_small_keras2_vlen.h5"];
    h5 = await Promise.all(names.map(fixture));
  },
  make(rng) {
    const original = pick(h5, rng);
    let file = chance(0.4, rng) ? mutateBytes(original, rng, H5_WORDS.map(latin1), h5) : original.slice();
    // Most fields are addresses and lengths at multiples of 8: some are led to another place in the file, perhaps in a circle.
    for (let i = file === original ? 0 : rng.integer(1, 3); i > 0 && file.length >= 16; i--) {
      const at = 8 * rng.integer(1, Math.floor(file.length / 8) - 1);
      const target = Buffer.alloc(8);
      target.writeUInt32LE(8 * rng.integer(0, Math.floor(file.length / 8)));
      file = file.slice();
      file.set(chance(0.5, rng) ? target : extremeField(rng, at).subarray(0, file.length - at), at);
    }
    // The signature stays, mostly, so that files get to the library.
    if (chance(0.95, rng)) file.set(original.subarray(0, Math.min(8, file.length)));
    return { files: { "case.h5": file } };
  },
  read: (folder) => readAll(folder, "case.h5"),
};
