/** `npm run campaign -- kill9`: a fixed run is killed at a random moment, over and over; each resumed one must end as the undisturbed. */
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { verifyChecksums } from "../../src/io/checksums.js";
import { Rng } from "../../src/pconv/rng.js";
import { Progress } from "../progress.js";
import { differences, ended, finalFiles, start, TINY, train } from "./program.js";

const RUN = [...TINY, "--steps", "16", "--save-every", "2"];

export interface Kill9Result {
  readonly campaign: "kill9";
  readonly command: string;
  readonly seed: number;
  readonly kills: number;
  /** Kills by where they fell: before there was a run, before its first checkpoint, between or in saves, after the end. */
  readonly fell: Readonly<Record<"beforeTheRun" | "beforeACheckpoint" | "whileTraining" | "afterTheEnd", number>>;
  /** Kills that left an unfinished save behind, under a name that counts for nothing. */
  readonly unfinishedSaves: number;
  /** Checkpoints that were seen after kills, and those of them that were not whole. */
  readonly checkpointsSeen: number;
  readonly partialCheckpoints: number;
  readonly equalEnds: number;
  readonly failures: readonly string[];
  readonly seconds: number;
}

/** Resolves once a run's folder is there, or the program has ended. */
async function made(run: string, end: Promise<unknown>): Promise<void> {
  const running = { yes: true };
  void end.then(() => (running.yes = false));
  while (running.yes && !(await stat(run).catch(() => null))) await new Promise((resolve) => setTimeout(resolve, 2));
}

export async function kill9(runs: number, seed: number): Promise<Kill9Result> {
  const began = performance.now();
  const dir = await mkdtemp(join(tmpdir(), "pconv-kill9-"));
  const progress = new Progress(runs);
  const fell = { beforeTheRun: 0, beforeACheckpoint: 0, whileTraining: 0, afterTheEnd: 0 };
  const failures: string[] = [];
  let [unfinishedSaves, checkpointsSeen, partialCheckpoints, equalEnds] = [0, 0, 0, 0];
  try {
    await train(dir, [...RUN, "--out", "warm-up"]); // the driver compiles
    // Most of so short a run is the start of the program: moments are drawn from when its folder is there until it ends.
    const first = ended(start(dir, [...RUN, "--out", "undisturbed"]));
    await made(join(dir, "undisturbed"), first);
    const since = performance.now();
    await first;
    const whole = performance.now() - since;
    const want = await finalFiles(join(dir, "undisturbed"));
    for (let i = 0; i < runs; i++) {
      progress.at(`kill ${i + 1} of ${runs}`);
      const run = join(dir, "killed");
      const delay = Rng.of(seed, i).uniform(0, whole);
      const child = start(dir, [...RUN, "--out", "killed"]);
      const end = ended(child);
      await made(run, end);
      const timer = setTimeout(() => child.kill("SIGKILL"), delay);
      const { signal } = await end;
      clearTimeout(timer);
      const begun = await stat(join(run, "config.json")).catch(() => null);
      const names = begun ? await readdir(run) : [];
      const steps = names.filter((name) => /^step-\d+$/.test(name));
      for (const step of steps) {
        const sound = await verifyChecksums(join(run, step), "-").catch(() => false);
        if (!sound) partialCheckpoints++;
      }
      checkpointsSeen += steps.length;
      if (names.some((name) => name.endsWith(".partial") || name.endsWith(".replaced"))) unfinishedSaves++;
      const place = signal === null ? "afterTheEnd" : !begun ? "beforeTheRun" : steps.length === 0 ? "beforeACheckpoint" : "whileTraining"; // prettier-ignore
      fell[place]++;
      try {
        await train(dir, begun ? ["--resume", "--out", "killed"] : [...RUN, "--out", "killed"]);
        const other = differences(await finalFiles(run), want);
        if (other.length === 0) equalEnds++;
        else failures.push(`kill ${i} after ${delay.toFixed(0)} ms: ${other.join()} differ`);
      } catch (error) {
        failures.push(`kill ${i} after ${delay.toFixed(0)} ms: ${String(error)}`);
      }
      await rm(run, { recursive: true, force: true });
      progress.advance(1);
    }
  } finally {
    progress.stop();
    await rm(dir, { recursive: true, force: true });
  }
  const seconds = Math.round((performance.now() - began) / 1000);
  const command = `pconv-train ${RUN.join(" ")}`;
  return { campaign: "kill9", command, seed, kills: runs, fell, unfinishedSaves, checkpointsSeen, partialCheckpoints, equalEnds, failures, seconds }; // prettier-ignore
}
