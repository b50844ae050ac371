/**
 * Keras weights in HDF5 (.h5), for Node and browsers, through the HDF5 library compiled to WebAssembly (h5wasm), which is
 * loaded when the first such file is read. Attributes are never read, so it does not matter how their strings are stored.
 */
import type { ready } from "h5wasm";
import { FormatError } from "../errors.js";
import { quote } from "./byteReader.js";
import { dtypeBytes, elementCount, LazyTensor, showShape, type TensorDtype, type TensorEntry } from "./tensorEntry.js";

type H5Module = Awaited<typeof ready>;

/** What {@link readH5} returns. */
export interface H5File {
  /** By name, see {@link readH5}. */
  readonly tensors: Map<string, TensorEntry>;
}

/** A dataset as it is in the file. */
interface H5Dataset {
  readonly dtype: TensorDtype;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

const damaged = "the file is cut off or damaged: copy or download it again";
const unusual = "write the weights with Keras's model.save_weights('weights.h5')";

/** Keras nests groups a few deep; a cycle of links nests without end. */
const MAX_DEPTH = 32;
/** Groups and datasets, counted once for every path that leads to them. */
const MAX_OBJECTS = 10_000;
const MAX_PATH_CHARACTERS = 2 ** 22;

/**
 * Compressed datasets may be larger than their file, but not without end: weights hardly shrink. Each is in the library's memory
 * and in its own array for a moment.
 */
const maxBytes = (fileBytes: number): number => 2 * fileBytes;

/**
 * Reads every numeric dataset of an HDF5 file. The convolutions of a Keras VGG16 or VGG19 get torchvision's names
 * (`block1_conv1/block1_conv1/kernel:0` becomes `features.0.weight`); every other dataset keeps its path without the first slash.
 * Every dataset of four dimensions is taken for a kernel and transposed from HWIO to OIHW; others keep their layout. Strings,
 * unsigned integers above 8 bits and links to other files are left out. Values are those of the file: the VGG weights that
 * come with Keras want BGR images of 0..255 less Caffe's mean, torchvision's want RGB normalised by ImageNet's mean and deviation.
 *
 * Memory: at most twice the file for all datasets together; the library's own grows by at most eight times the file and 64 MiB.
 *
 * @param bytes the whole file; not changed
 * @param where file name for the errors
 * @throws {FormatError} if it is damaged or hostile, has too many objects or too large ones, or big-endian numbers
 */
export async function readH5(bytes: Uint8Array, where: string): Promise<H5File> {
  const h5 = await library(where);
  let datasets: Map<string, H5Dataset>;
  try {
    datasets = readDatasets(h5, bytes, where);
  } catch (error) {
    if (error instanceof FormatError) throw error;
    note(error);
    const reason = error instanceof Error ? error.message : String(error);
    const problem = `expected an HDF5 file, got one that HDF5 refuses: ${quote(firstCause(reason))}`;
    throw new FormatError(where, problem, damaged, { cause: error });
  }
  return { tensors: named(datasets, where) };
}

let loaded: Promise<H5Module> | undefined;
/**
 * What the last failure left behind. HDF5's refusals come as exceptions through its own calls, which leaves some of its stack
 * and handles in use; anything else (a trap, a stack overflow) leaves its memory as it was at that moment, not to be used again.
 */
let condition: "sound" | "used up" | "broken" = "sound";

/** The library; a new instance of it after a failure, if one can be had. */
async function library(where: string): Promise<H5Module> {
  if (condition !== "sound") {
    try {
      loaded = Promise.resolve(await newInstance());
      condition = "sound";
    } catch (cause) {
      if (condition === "broken") {
        const problem = "expected the HDF5 library, got none since an earlier file broke it";
        throw new FormatError(where, problem, "reload the page, or convert the weights to safetensors", { cause });
      }
    }
  }
  loaded ??= import("h5wasm").then(async ({ ready }) => prepared(await ready));
  return loaded;
}

/**
 * h5wasm makes one instance when it is imported and exports no way to make another; where modules are resolved at run time
 * (not in a bundle) its factory is found beside it.
 */
async function newInstance(): Promise<H5Module> {
  const url = new URL("./hdf5_util.js", import.meta.resolve("h5wasm")).href;
  const factory = (await import(/* @vite-ignore */ url)) as { default: (options: object) => Promise<H5Module> };
  return prepared(await factory.default({ noInitialRun: true }));
}

/** Notes what a failure means for the library. */
function note(error: unknown): void {
  const refusal =
    error instanceof Error && !(error instanceof WebAssembly.RuntimeError) && !(error instanceof RangeError);
  if (!refusal) condition = "broken";
  else if (condition === "sound") condition = "used up";
}

/** Errors become exceptions instead of lines on stderr, and no file may name the console or another device as its storage. */
function prepared(h5: H5Module): H5Module {
  h5.activate_throwing_error_handler();
  for (const name of h5.FS.readdir("/dev") as string[]) {
    const device = `/dev/${name}`;
    const { mode } = h5.FS.lstat(device) as { mode: number };
    if (!h5.FS.isDir(mode)) h5.FS.unlink(device);
  }
  return h5;
}

/** HDF5's messages are stacks of calls, outermost first: the innermost says what was wrong. */
function firstCause(stack: string): string {
  const calls = stack.split("\n").filter((line) => /^\s*#\d+:/.test(line));
  return (calls.at(-1) ?? stack).replace(/^.*\(\): /, "").trim();
}

const VIRTUAL_FILE = "/weights.h5";
/** h5wasm's own value for "no bounds on the format's version". */
const ANY_VERSION = -1;

function readDatasets(h5: H5Module, bytes: Uint8Array, where: string): Map<string, H5Dataset> {
  let file = -1n;
  try {
    // canOwn: the virtual file is the array itself instead of a copy. It is opened for reading only.
    h5.FS.writeFile(VIRTUAL_FILE, bytes, { canOwn: true } as object);
    file = h5.open(VIRTUAL_FILE, h5.H5F_ACC_RDONLY, false, ANY_VERSION, ANY_VERSION);
    return boundedMemory(GROWTH_PER_BYTE * bytes.length + FREE_GROWTH, () =>
      new Walk(h5, file, where, maxBytes(bytes.length)).run(),
    );
  } finally {
    cleanUp(() => file >= 0n && h5.close_file(file));
    cleanUp(() => h5.FS.unlink(VIRTUAL_FILE));
  }
}

/** What the library's memory may grow by while it reads a file: its datasets, what it needs to unpack them, and as much again. */
const GROWTH_PER_BYTE = 8;
const FREE_GROWTH = 2 ** 26;
const PAGE_BYTES = 2 ** 16;

/**
 * Lets WebAssembly memory grow by no more than `bytes` meanwhile. Its DEFLATE filter goes on as long as there is memory, so a
 * compressed chunk of a few MB could fill 2 GiB. The library has no option for this, and its memory is out of reach; `work` is
 * synchronous, so nobody else's memory grows meanwhile.
 */
function boundedMemory<T>(bytes: number, work: () => T): T {
  const prototype = WebAssembly.Memory.prototype;
  // eslint-disable-next-line @typescript-eslint/unbound-method -- called with `this` below, and put back
  const { grow } = prototype;
  let left = bytes;
  prototype.grow = function (this: WebAssembly.Memory, pages: number): number {
    if (pages * PAGE_BYTES > left) throw new RangeError(`expected at most ${left} more bytes of memory`);
    left -= pages * PAGE_BYTES;
    return grow.call(this, pages);
  };
  try {
    return work();
  } finally {
    prototype.grow = grow;
  }
}

/** For `finally`: the error on the way out is the one to report; what it did to the library is noted. */
function cleanUp(step: () => unknown): void {
  try {
    step();
  } catch (error) {
    note(error);
  }
}

/** One pass over the groups of an open file. */
class Walk {
  private readonly datasets = new Map<string, H5Dataset>();
  private objects = 0;
  private characters = 0;

  constructor(
    private readonly h5: H5Module,
    private readonly file: bigint,
    private readonly where: string,
    private bytesLeft: number,
  ) {}

  run(): Map<string, H5Dataset> {
    this.group("", 0);
    return this.datasets;
  }

  private fail(problem: string, help = unusual): never {
    throw new FormatError(this.where, problem, help);
  }

  /** @param path absolute, without the slash at the end; empty for the root */
  private group(path: string, depth: number): void {
    const { h5, file } = this;
    if (depth > MAX_DEPTH)
      this.fail(`expected groups nested at most ${MAX_DEPTH} deep, got more (or a cycle of links)`);
    for (const name of h5.get_names(file, path === "" ? "/" : path, false)) {
      const child = `${path}/${name}`;
      this.characters += child.length;
      if (++this.objects > MAX_OBJECTS) this.fail(`expected at most ${MAX_OBJECTS} groups and datasets, got more`);
      if (this.characters > MAX_PATH_CHARACTERS) {
        this.fail(`expected paths of at most ${MAX_PATH_CHARACTERS} characters in all, got more`);
      }
      const type = h5.get_type(file, child);
      if (type === h5.H5G_GROUP) this.group(child, depth + 1);
      else if (type === h5.H5G_DATASET) this.dataset(child);
    }
  }

  private dataset(path: string): void {
    const { h5, file } = this;
    const { type, size, signed, littleEndian, shape, chunks, virtual_sources } = h5.get_dataset_metadata(file, path);
    const dtype = dtypeOf(h5, type, size, signed);
    if (!dtype || !shape) return;
    const at = `dataset ${quote(path)}`;
    if (!littleEndian && size > 1) this.fail(`${at}: expected little-endian numbers, got big-endian ones`);
    if (virtual_sources && virtual_sources.length > 0)
      this.fail(`${at}: expected its values here, got other files' names`);
    const total = (elementCount(shape) ?? Infinity) * dtypeBytes[dtype];
    const chunk = (elementCount(chunks ?? []) ?? Infinity) * dtypeBytes[dtype];
    if (Math.max(total, chunk) > this.bytesLeft) {
      this.fail(
        `${at}: expected at most ${this.bytesLeft} more bytes in this file, got ${showShape(shape)} ${dtype}`,
        damaged,
      );
    }
    this.bytesLeft -= total;
    this.datasets.set(path.slice(1), { dtype, shape, bytes: this.values(path, total) });
  }

  private values(path: string, size: number): Uint8Array {
    const { h5, file } = this;
    if (size === 0) return new Uint8Array(0);
    const address = h5._malloc(size);
    if (address === 0)
      this.fail(`dataset ${quote(path)}: expected memory for ${size} bytes, got none`, "free some memory");
    try {
      const status = h5.get_dataset_data(file, path, null, null, null, BigInt(address));
      if (status < 0) this.fail(`dataset ${quote(path)}: expected ${size} bytes, got an error`, damaged);
      return h5.HEAPU8.slice(address, address + size);
    } finally {
      cleanUp(() => h5._free(address));
    }
  }
}

/** Undefined for what is no tensor. Floats of two bytes are IEEE's: Keras stores bfloat16 as opaque bytes, not as a float. */
function dtypeOf(h5: H5Module, type: number, size: number, signed: boolean): TensorDtype | undefined {
  const { H5T_FLOAT, H5T_INTEGER } = h5.H5T_class_t;
  if (type === H5T_FLOAT.value) return ({ 2: "F16", 4: "F32", 8: "F64" } as const)[size];
  if (type !== H5T_INTEGER.value) return undefined;
  return signed ? ({ 1: "I8", 2: "I16", 4: "I32", 8: "I64" } as const)[size] : size === 1 ? "U8" : undefined;
}

/** `block3_conv1`, whatever groups stand before it, and what Keras 1 and 2 call its weight and bias. */
const vggPath = /^(?:.*\/)?block([1-5])_conv([1-4])\/(?:(?:.*\/)?(kernel|bias)|block\1_conv\2_([Wb])(?:_\d+)?)(?::0)?$/;

/** Index in torchvision's `features` of the first convolution in each block; between two convolutions stands a ReLU. */
const FIRST_CONV = { vgg16: [0, 5, 10, 17, 24], vgg19: [0, 5, 10, 19, 28] } as const;

function named(datasets: ReadonlyMap<string, H5Dataset>, where: string): Map<string, TensorEntry> {
  const vgg = (path: string) => (path.startsWith("optimizer_weights/") ? null : vggPath.exec(path));
  // A fourth convolution in a block is VGG19's.
  const first = FIRST_CONV[[...datasets.keys()].some((path) => vgg(path)?.[2] === "4") ? "vgg19" : "vgg16"];
  const tensors = new Map<string, TensorEntry>();
  for (const [path, { dtype, shape, bytes }] of datasets) {
    const [, block, conv, keras2, keras1] = vgg(path) ?? [];
    const kind = keras2 === "kernel" || keras1 === "W" ? "weight" : "bias";
    const name = block ? `features.${first[Number(block) - 1] + 2 * (Number(conv) - 1)}.${kind}` : path;
    if (tensors.has(name)) {
      throw new FormatError(
        where,
        `expected one dataset for ${quote(name)}, got two, the second at ${quote(path)}`,
        unusual,
      );
    }
    const isKernel = shape.length === 4;
    const [h, w, i, o] = shape;
    const fetch = isKernel ? () => hwioToOihw(bytes, h * w, i, o, dtypeBytes[dtype]) : () => bytes;
    tensors.set(name, new LazyTensor(dtype, isKernel ? [o, i, h, w] : shape, fetch));
  }
  return tensors;
}

/** [taps,I,O] to [O,I,taps] for elements of `width` bytes. */
function hwioToOihw(bytes: Uint8Array, taps: number, inputs: number, outputs: number, width: number): Uint8Array {
  const transposed = new Uint8Array(bytes.length);
  const [from, to] = [elements(bytes, width), elements(transposed, width)];
  let at = 0;
  for (let o = 0; o < outputs; o++) {
    for (let i = 0; i < inputs; i++) {
      for (let tap = 0; tap < taps; tap++) to[at++] = from[(tap * inputs + i) * outputs + o];
    }
  }
  return transposed;
}

/** Both arrays begin at the start of their buffers, so that they are aligned. As integers, NaN keeps its bits. */
function elements(bytes: Uint8Array, width: number): BigUint64Array | Uint32Array | Uint16Array | Uint8Array {
  const Elements = ({ 8: BigUint64Array, 4: Uint32Array, 2: Uint16Array } as const)[width] ?? Uint8Array;
  return new Elements(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / width);
}
