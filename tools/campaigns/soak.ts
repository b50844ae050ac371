/** `npm run campaign -- soak`: a long run of a tiny network, in this process; memory and open files must not grow. */
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Gpu } from "../../src/gpu/gpu.js";
import { trainCommand } from "../train/command.js";
import { invocation } from "../train/options.js";
import { runTraining } from "../train/run.js";
import { TINY } from "./program.js";

/** One look at the process after a step. */
interface Look {
  readonly step: number;
  readonly deviceBytes: number;
  readonly rssMiB: number;
  readonly heapMiB: number;
  /** Open file descriptors; null where the system does not tell. */
  readonly files: number | null;
}

export interface SoakResult {
  readonly campaign: "soak";
  readonly command: string;
  readonly steps: number;
  readonly looks: readonly Look[];
  readonly exitCode: number;
  readonly seconds: number;
}

const mib = (bytes: number) => Math.round(bytes / 2 ** 18) / 4;

async function look(step: number, gpu: Gpu): Promise<Look> {
  const { rss, heapUsed } = process.memoryUsage();
  // The folder that is read counts as one.
  const files = await readdir("/proc/self/fd").then((names) => names.length - 1, () => null); // prettier-ignore
  return { step, deviceBytes: gpu.memory().allocated, rssMiB: mib(rss), heapMiB: mib(heapUsed), files };
}

export async function soak(steps: number): Promise<SoakResult> {
  const began = performance.now();
  const dir = await mkdtemp(join(tmpdir(), "pconv-soak-"));
  const args = [...TINY, "--steps", String(steps), "--save-every", String(Math.max(1, Math.round(steps / 100)))];
  const looks: Look[] = [];
  const every = Math.max(1, Math.round(steps / 20));
  try {
    const command = trainCommand().parse([...args, "--out", join(dir, "run")], { from: "user" });
    const exitCode = await runTraining(invocation(command), async (step, gpu) => {
      if (step % every === 0 || step === Math.min(100, every)) looks.push(await look(step, gpu));
    });
    const seconds = Math.round((performance.now() - began) / 1000);
    return { campaign: "soak", command: `pconv-train ${args.join(" ")}`, steps, looks, exitCode, seconds };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
