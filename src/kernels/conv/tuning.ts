/**
 * Run-time tuning of the convolutions: measures the candidates of `choice.ts` for the passes of a network, and remembers the
 * fastest of each class of shapes, in memory and in a store.
 *
 * Only on real GPUs: the candidates of software adapters differ by factors that the table knows, and compile for seconds. What was
 * measured once on an adapter, driver and version of the kernels is not measured again: equal stores give equal choices and so equal
 * bits. The variable PCONV_TUNE (Node) says otherwise: `off` neither measures nor reads, `force` measures on any adapter and anew.
 */
import { UserError } from "../../errors.js";
import type { Gpu } from "../../gpu/gpu.js";
import { kernelSource } from "../../gpu/kernel.js";
import type { Storage } from "../../gpu/pool.js";
import type { TuningStore } from "../../gpu/tuningStore.js";
import { convOutputSize, vec4s } from "../shape.js";
import { gather, weightPass } from "./backend.js";
import {
  gatherCandidates,
  type GatherChoice,
  WEIGHT_WORKGROUP_TILES,
  weightCandidates,
  type WeightChoice,
  WORKGROUP_TILES,
} from "./choice.js";
import { gatherMatrixKernel, MATRIX_TILES } from "./matrix.js";
import { callClass, type ConvCall, tunedOf } from "./tuned.js";
import { WEIGHT_MATRIX_TILES, weightMatrixKernel } from "./weightMatrix.js";
import { weightWorkgroupKernel } from "./weightWorkgroup.js";
import { gatherWorkgroupKernel } from "./workgroup.js";

const FORMAT = "pconv-tuning/1";

/** Milliseconds that one timing should take: submitting and waiting cost about 0.2. */
const TIMING_MS = 8;
const MAX_REPEATS = 200;
const ROUNDS = 3;
/** A candidate this much slower in its first timing is given up. */
const HOPELESS = 1.5;
/** The table's choice stays unless another takes at most this share of its time: less is noise. */
const BETTER = 0.97;
/** Milliseconds of work before the first timing: GPUs at rest run at low clocks. */
const WARM_UP_MS = 200;

/** Measure where the adapter is a real GPU and nothing is known, never, or always. */
export type TuneMode = "auto" | "off" | "force";

/** Options of tuning. */
export interface TuneOptions {
  /** Keeps the measurements between runs; absent: this GPU object only. */
  readonly store?: TuningStore | undefined;
  /** Instead of what PCONV_TUNE says. */
  readonly mode?: TuneMode | undefined;
  /** Told how many classes are measured, of how many, from 0 on. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Told of a store that cannot be read or written; tuning goes on without it. */
  readonly onWarning?: (message: string) => void;
}

/** What tuning has done. */
export interface TuneReport {
  /** Classes measured now, and classes taken from the store or an earlier call. */
  readonly measured: number;
  readonly known: number;
}

/**
 * Lists the convolutions that `run` would record, one a class. Convolutions are not recorded, all else is, so results are
 * meaningless: use a throw-away copy of a network, on which a step's updates may do what they like.
 */
export async function collectConvolutions(gpu: Gpu, run: () => void | Promise<void>): Promise<ConvCall[]> {
  const tuned = tunedOf(gpu);
  if (tuned.collector) throw new Error("collectConvolutions: this GPU's convolutions are being listed already");
  const found = new Map<string, ConvCall>();
  tuned.collector = found;
  try {
    await run();
  } finally {
    tuned.collector = null;
  }
  await gpu.sync();
  return [...found.values()];
}

/**
 * Chooses the backends and tiles of these calls by measurement, see the head of this file.
 * @throws {UserError} when PCONV_TUNE holds another word
 */
export async function tuneConvolutions(
  gpu: Gpu,
  calls: readonly ConvCall[],
  options: TuneOptions = {},
): Promise<TuneReport> {
  if (!tunes(gpu, options)) return { measured: 0, known: 0 };
  const mode = tuneMode(options);
  const tuned = tunedOf(gpu);
  const stored = mode === "force" ? {} : await readStore(gpu, options);
  const missing: ConvCall[] = [];
  let known = 0;
  for (const call of calls) {
    const name = callClass(call);
    // Only what is among the candidates: a store is a file that anyone may have edited.
    const wanted = JSON.stringify(stored[name]);
    const choice = candidates(gpu, call).find((c) => JSON.stringify(c) === wanted);
    if (choice) tuned.choices.set(name, choice);
    if (mode !== "force" && tuned.choices.has(name)) known++;
    else missing.push(call);
  }
  if (missing.length === 0) return { measured: 0, known };
  options.onProgress?.(0, missing.length);
  await warmUp(gpu, missing[0]);
  for (const [i, call] of missing.entries()) {
    tuned.choices.set(callClass(call), await fastest(gpu, call));
    options.onProgress?.(i + 1, missing.length);
  }
  await writeStore(gpu, options);
  return { measured: missing.length, known };
}

/**
 * Whether {@link tuneConvolutions} would measure or read anything on this adapter: there is no use in listing calls where not.
 * @throws {UserError} when PCONV_TUNE holds another word than off and force
 */
export function tunes(gpu: Gpu, options: TuneOptions = {}): boolean {
  const mode = tuneMode(options);
  return mode === "force" || (mode === "auto" && !gpu.adapter.software);
}

function tuneMode({ mode }: TuneOptions): TuneMode {
  if (mode !== undefined) return mode;
  const word = typeof process === "undefined" ? undefined : process.env["PCONV_TUNE"];
  if (word === undefined || word === "") return "auto";
  if (word === "off" || word === "force") return word;
  throw new UserError("PCONV_TUNE", `expected off or force, got ${word}`, "unset it, or set it to one of these");
}

const candidates = (gpu: Gpu, call: ConvCall): readonly (GatherChoice | WeightChoice)[] =>
  call.pass === "gather" ? gatherCandidates(gpu, call) : weightCandidates(gpu, call);

/**
 * The tensors of a call; products of half precision are asked for by tensors of it. What they hold does not matter:
 * arithmetic takes the same time for any numbers.
 */
function buffers(gpu: Gpu, { s, half }: ConvCall, batched: boolean) {
  const [p, q] = convOutputSize("tuneConvolutions", s);
  const [c4, k4] = [vec4s(s.c), vec4s(s.k)];
  const stored = half && gpu.half;
  const size = stored ? 8 : 16; // bytes of four values
  const weights = s.kernel[0] * s.kernel[1] * (batched ? s.n : 1);
  return {
    x: gpu.alloc(s.n * s.h * s.w * c4 * size, "tuning", stored),
    y: gpu.alloc(s.n * p * q * k4 * size, "tuning", stored),
    weight: gpu.alloc(weights * c4 * 4 * k4 * 16, "tuning"),
  };
}

function recorder(gpu: Gpu, call: ConvCall, b: Record<"x" | "y" | "weight", Storage>) {
  const { s, half } = call;
  return (choice: GatherChoice | WeightChoice) => {
    if (call.pass === "weight") {
      const { imagePerTap } = call;
      weightPass(gpu, s, { x: b.x, dy: b.y, dw: b.weight }, { imagePerTap, half }, choice as WeightChoice);
    } else {
      const [src, dst] = call.direction === "forward" ? [b.x, b.y] : [b.y, b.x];
      const { weightPerImage } = call;
      gather(gpu, s, call.direction, { src, weight: b.weight, dst }, { weightPerImage, half }, choice as GatherChoice);
    }
  };
}

async function withBuffers<T>(
  gpu: Gpu,
  call: ConvCall,
  run: (record: ReturnType<typeof recorder>) => Promise<T>,
): Promise<T> {
  const b = buffers(gpu, call, call.pass === "gather" ? call.weightPerImage : call.imagePerTap);
  try {
    return await run(recorder(gpu, call, b));
  } finally {
    for (const storage of Object.values(b)) gpu.free(storage);
  }
}

async function warmUp(gpu: Gpu, call: ConvCall): Promise<void> {
  await withBuffers(gpu, call, async (record) => {
    const until = performance.now() + WARM_UP_MS;
    do {
      record(candidates(gpu, call)[0]);
      await gpu.sync();
    } while (performance.now() < until);
  });
}

/** Measures the candidates of one call; the table's choice is the first. */
async function fastest(gpu: Gpu, call: ConvCall): Promise<GatherChoice | WeightChoice> {
  return withBuffers(gpu, call, async (record) => {
    const time = async (choice: GatherChoice | WeightChoice, repeats: number) => {
      const started = performance.now();
      for (let i = 0; i < repeats; i++) record(choice);
      await gpu.sync();
      return (performance.now() - started) / repeats;
    };
    const list = candidates(gpu, call);
    const times: number[] = [];
    for (const choice of list) {
      await time(choice, 1); // compiles
      const once = await time(choice, 1);
      const best = Math.min(...times, Infinity);
      const repeats = Math.max(1, Math.min(Math.ceil(TIMING_MS / once), MAX_REPEATS));
      let ms = await time(choice, repeats);
      for (let round = 1; round < ROUNDS && ms < HOPELESS * best; round++) {
        ms = Math.min(ms, await time(choice, repeats));
      }
      times.push(ms);
    }
    const best = times.indexOf(Math.min(...times));
    return times[best] < BETTER * times[0] ? list[best] : list[0];
  });
}

interface StoreContents {
  readonly format: typeof FORMAT;
  readonly adapter: string;
  readonly kernels: string;
  readonly choices: Readonly<Record<string, unknown>>;
}

const identity = ({ adapter }: Gpu) => `${adapter.name}, ${adapter.description}`;

/** The choices in the store, if they are of this adapter and these kernels. */
async function readStore(gpu: Gpu, { store, onWarning }: TuneOptions): Promise<StoreContents["choices"]> {
  try {
    const text = await store?.read();
    if (text === undefined || text === null) return {};
    const contents = JSON.parse(text) as Partial<StoreContents> | null;
    if (contents?.format !== FORMAT || typeof contents.choices !== "object" || contents.choices === null) {
      throw new Error(`expected the format ${FORMAT}, got ${String(contents?.format)}`);
    }
    return contents.adapter === identity(gpu) && contents.kernels === kernelsDigest() ? contents.choices : {};
  } catch (error) {
    onWarning?.(
      `${store?.name}: ignored and measured anew (${error instanceof Error ? error.message : String(error)})`,
    );
    return {};
  }
}

async function writeStore(gpu: Gpu, options: TuneOptions): Promise<void> {
  const { store, onWarning } = options;
  if (!store) return;
  // Classes of other networks stay; those of this GPU object are newer.
  const others = await readStore(gpu, { store });
  const choices = { ...others, ...Object.fromEntries(tunedOf(gpu).choices) };
  const contents: StoreContents = { format: FORMAT, adapter: identity(gpu), kernels: kernelsDigest(), choices };
  try {
    await store.write(`${JSON.stringify(contents, null, 1)}\n`);
  } catch (error) {
    onWarning?.(`${store.name}: not kept for the next run (${error instanceof Error ? error.message : String(error)})`);
  }
}

/** A digest (FNV-1a, 32 bits) of the kernels that are chosen among: other versions of them have other speeds. */
function kernelsDigest(): string {
  const unit = { m: 16, n: 16, k: 16, lanes: 32 };
  const sources = [
    ...Object.values(WORKGROUP_TILES).map((spec) => kernelSource(gatherWorkgroupKernel, spec)),
    ...Object.values(WEIGHT_WORKGROUP_TILES).map((spec) => kernelSource(weightWorkgroupKernel, spec)),
    ...MATRIX_TILES.map((spec) => kernelSource(gatherMatrixKernel, { ...spec, unit })),
    ...WEIGHT_MATRIX_TILES.map((spec) => kernelSource(weightMatrixKernel, { ...spec, unit })),
  ];
  let digest = 0x811c9dc5;
  for (const source of sources) {
    for (let i = 0; i < source.length; i++) digest = Math.imul(digest ^ source.charCodeAt(i), 0x01000193) >>> 0;
  }
  return digest.toString(16).padStart(8, "0");
}
