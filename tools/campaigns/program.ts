/** What the campaigns share: the tiny run, starting pconv-train, comparing runs, keeping results. */
import { type ChildProcess, spawn } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { cpus } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeWhole } from "../../src/io/files.js";

const PROGRAM = fileURLToPath(new URL("../pconv-train.js", import.meta.url));

/** A network that makes a step in milliseconds on a software adapter, with averaged weights so that every kind of file is there. */
export const TINY = ["--image-size", "32", "--width", "0.1", "--depth", "2", "--no-vgg", "--ema", "0.99"];

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
}

/** Starts pconv-train in a folder. */
export function start(cwd: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): ChildProcess {
  return spawn(process.execPath, [PROGRAM, ...args], { cwd, env: { ...process.env, ...env } });
}

export function ended(child: ChildProcess): Promise<Ended> {
  let stderr = "";
  child.stdout?.resume();
  child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  return new Promise((resolve) => child.on("close", (code, signal) => resolve({ code, signal, stderr })));
}

/** Runs pconv-train to its end. @throws {Error} when it does not exit with 0 */
export async function train(
  cwd: string,
  args: readonly string[],
  env?: Readonly<Record<string, string>>,
): Promise<Ended> {
  const end = await ended(start(cwd, args, env));
  if (end.code !== 0) throw new Error(`pconv-train ${args.join(" ")}: exit ${end.code ?? end.signal}\n${end.stderr}`);
  return end;
}

/** What must be equal at the end of two runs: the log, which checkpoints there are, and every file of the last one. */
export async function finalFiles(run: string): Promise<Map<string, Buffer>> {
  const steps = (await readdir(run)).filter((name) => name.startsWith("step-")).sort();
  const last = steps.at(-1) ?? "";
  const files = new Map([["checkpoints", Buffer.from(steps.join())]]);
  files.set("log.jsonl", await readFile(join(run, "log.jsonl")));
  for (const name of (await readdir(join(run, last))).sort()) files.set(name, await readFile(join(run, last, name)));
  return files;
}

/** Names of the files in which two runs differ. */
export function differences(got: ReadonlyMap<string, Buffer>, want: ReadonlyMap<string, Buffer>): string[] {
  const names = new Set([...got.keys(), ...want.keys()]);
  return [...names].filter((name) => !want.get(name)?.equals(got.get(name) ?? Buffer.alloc(0)));
}

/** Writes what a campaign found, with what it ran on. */
export async function keepResult(path: string, result: object): Promise<void> {
  const machine = {
    cpu: cpus()[0]?.model ?? "?",
    cores: cpus().length,
    node: process.version,
    platform: process.platform,
  };
  const text = JSON.stringify({ date: new Date().toISOString().slice(0, 10), machine, ...result }, null, 2);
  await writeWhole(path, Buffer.from(`${text}\n`));
  console.log(`kept in ${path}`);
}
