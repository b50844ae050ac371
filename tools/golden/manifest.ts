/** The `pconv-golden/1` format: manifest.json beside safetensors files, NCHW and OIHW, masks 1 = valid. */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { FormatError } from "../../src/errors.js";
import type { TensorEntry } from "../../src/io/tensorEntry.js";
import { readWeightsFile } from "../../src/io/weightsFile.js";

export interface GoldenCase {
  readonly id: string;
  readonly op: string;
  readonly reference: string;
  readonly file: string;
  readonly params: Readonly<Record<string, unknown>>;
  readonly tensors: Readonly<
    Record<string, { readonly role: "input" | "expected"; readonly tensor: string; readonly shape: readonly number[] }>
  >;
  readonly tolerance: Readonly<Record<string, { readonly atol: number; readonly rtol: number }>>;
}

export interface Fixture {
  readonly file: string;
  readonly same_tensors_as?: string;
  readonly [key: string]: unknown;
}

interface Manifest {
  readonly format: string;
  readonly cases: readonly GoldenCase[];
  readonly fixtures?: readonly Fixture[];
}

/** A folder of cases; files are read once. */
export class GoldenFolder {
  private readonly files = new Map<string, Promise<Map<string, TensorEntry>>>();

  private constructor(
    readonly dir: string,
    readonly manifest: Manifest,
  ) {}

  /** @throws {FormatError} when the folder has no manifest of this format. */
  static async open(dir: string): Promise<GoldenFolder> {
    const path = join(dir, "manifest.json");
    const help = "pass a folder in the pconv-golden/1 format: manifest.json beside safetensors files";
    const text = await readFile(path, "utf8").catch((cause: unknown) => {
      throw new FormatError(path, "expected a manifest, got none that can be read", help, { cause });
    });
    let manifest: Manifest;
    try {
      manifest = JSON.parse(text) as Manifest;
    } catch (cause) {
      throw new FormatError(path, "expected JSON, got something else", help, { cause });
    }
    if (manifest.format !== "pconv-golden/1" || !Array.isArray(manifest.cases)) {
      throw new FormatError(path, `expected format pconv-golden/1 with cases, got ${String(manifest.format)}`, help);
    }
    return new GoldenFolder(dir, manifest);
  }

  path(file: string): string {
    return join(this.dir, file);
  }

  /** The first file that a case names and the folder does not have. */
  async missingFile(c: GoldenCase): Promise<string | undefined> {
    const weights = [c.params["weights"], c.params["vgg"]].filter(
      (f): f is string => typeof f === "string" && /\.\w+$/.test(f),
    );
    for (const file of [c.file, ...weights]) {
      if (!(await stat(this.path(file)).catch(() => null))) return file;
    }
    return undefined;
  }

  /** Tensors of one file. */
  tensors(file: string): Promise<Map<string, TensorEntry>> {
    let tensors = this.files.get(file);
    if (!tensors) this.files.set(file, (tensors = readWeightsFile(this.path(file)).then((w) => w.tensors)));
    return tensors;
  }

  case(id: string): GoldenCase {
    const found = this.manifest.cases.find((c) => c.id === id);
    if (!found)
      throw new FormatError("golden", `expected a case ${id}, got none`, "the manifest refers to a case that it lacks");
    return found;
  }

  /** A tensor of a case by its key; undefined when the case has none. */
  async find(c: GoldenCase, key: string): Promise<TensorEntry | undefined> {
    const entry = c.tensors[key];
    return entry && (await this.tensors(c.file)).get(entry.tensor);
  }

  /** A tensor of a case by its key. */
  async get(c: GoldenCase, key: string): Promise<TensorEntry> {
    const tensor = await this.find(c, key);
    if (!tensor)
      throw new FormatError(c.id, `expected a tensor ${key}, got none`, "the manifest or its file is incomplete");
    return tensor;
  }

  /** Keys of a case that begin with `prefix`, with their tensors, the prefix taken off. */
  async all(c: GoldenCase, prefix: string): Promise<Map<string, TensorEntry>> {
    const found = new Map<string, TensorEntry>();
    for (const key of Object.keys(c.tensors))
      if (key.startsWith(prefix)) found.set(key.slice(prefix.length), await this.get(c, key));
    return found;
  }
}

/** What a case's handler computed, by the manifest's keys; NCHW or OIHW values. */
export type Computed = ReadonlyMap<string, ArrayLike<number>>;

/**
 * Compares everything that the case expects. Returns the failures, empty when it passes; a value that was not computed, and any
 * NaN, is a failure.
 */
export async function compare(folder: GoldenFolder, c: GoldenCase, computed: Computed, slack = 1): Promise<string[]> {
  const failures: string[] = [];
  for (const [key, { role }] of Object.entries(c.tensors)) {
    if (role !== "expected") continue;
    const expected = await folder.get(c, key);
    const want = expected.toFloat64();
    const got = computed.get(key);
    const { atol, rtol } = c.tolerance[key] ?? { atol: 0, rtol: 0 };
    if (!got) failures.push(`${key}: not computed`);
    else if (got.length !== want.length) failures.push(`${key}: expected ${want.length} values, got ${got.length}`);
    else {
      const bad = want.findIndex((w, i) => !(Math.abs(got[i] - w) <= slack * (atol + rtol * Math.abs(w))));
      if (bad >= 0) failures.push(`${key}[${bad}]: got ${got[bad]}, want ${want[bad]} (atol ${atol}, rtol ${rtol})`);
    }
  }
  return failures;
}
