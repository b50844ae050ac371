/** Runs `pconv-train` as a program of its own, from where its run stands. */
import { spawn } from "node:child_process";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../../src/errors.js";

const PROGRAM = fileURLToPath(new URL("../pconv-train.js", import.meta.url));

/** Signals that a terminal sends to both; the program saves a checkpoint and ends, and so does this one after it. */
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

const isFile = (path: string): Promise<boolean> => stat(path).then((s) => s.isFile(), () => false); // prettier-ignore

/** Folder of the last checkpoint of a run. */
export async function lastCheckpoint(run: string): Promise<string> {
  const names = (await readdir(run)).filter((name) => /^step-\d{8,}$/.test(name));
  const steps = names.map((name) => Number(name.slice(5)));
  if (names.length === 0) throw new UserError(run, "expected a run with a checkpoint, got none", "remove the folder");
  return join(run, names[steps.indexOf(Math.max(...steps))]);
}

/**
 * Makes a run, or goes on with it; returns at once when it is done.
 * @param run its folder
 * @param options of a new run; one that was begun keeps its own
 * @throws {UserError} when the program fails, which has said why, or is interrupted
 */
export async function trainPhase(run: string, options: readonly string[]): Promise<void> {
  const begun = await isFile(join(run, "config.json"));
  const child = spawn(process.execPath, [PROGRAM, "--out", run, ...(begun ? ["--resume"] : options)], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  const pass = (signal: NodeJS.Signals) => child.kill(signal);
  for (const signal of SIGNALS) process.on(signal, pass);
  try {
    const code = await new Promise<number | null>((done, failed) => child.on("error", failed).on("close", done));
    if (code !== 0)
      throw new UserError(run, `expected pconv-train to finish, got exit code ${code}`, "start the same command again");
  } finally {
    for (const signal of SIGNALS) process.off(signal, pass);
  }
}
