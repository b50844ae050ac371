/** pconv-train on several ranks, against one process with the batch of all; skipped where there is no MPI. */
import { access, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { type Mpi, MPIS, startRanks } from "../support/mpi.js";
import { at, checkpoints, finish, logged, logLines, SMALL, start, stepName, tensors, train, useTrainFolder } from "../support/trainProgram.js"; // prettier-ignore

useTrainFolder();

const PROGRAM = fileURLToPath(new URL("../../dist/tools/pconv-train.js", import.meta.url));
const PCONV = fileURLToPath(new URL("../../dist/tools/pconv.js", import.meta.url));
const RUN = [...SMALL, "--no-vgg", "--seed", "3", "--lr", "1e-3", "--save-every", "4"];
const STEPS = 8;
/** Every test starts several programs, on more ranks than there may be cores. */
const TIMEOUT_MS = 400_000;

const ranks = (mpi: Mpi, n: number, ...args: string[]) => startRanks(mpi, n, [PROGRAM, ...args], at());
const losses = async (run: string) => (await logLines(run)).map((line) => line["loss"] as number);
const config = async (run: string) => JSON.parse(await readFile(at(run, "config.json"), "utf8")) as Record<string, unknown>; // prettier-ignore

/** Largest difference of two runs' losses, and of their last weights, each relative to the largest value. */
async function difference(a: string, b: string): Promise<{ loss: number; weights: number }> {
  const [one, other] = [await losses(a), await losses(b)];
  expect(other.length).toBe(one.length);
  const loss = Math.max(...one.map((v, i) => Math.abs(v - other[i]) / v));
  const [mine, theirs] = [await tensors(a, STEPS, "model.safetensors"), await tensors(b, STEPS, "model.safetensors")];
  let weights = 0;
  for (const [name, tensor] of mine) {
    const [x, y] = [tensor.toFloat32(), theirs.get(name)!.toFloat32()];
    const largest = x.reduce((most, v) => Math.max(most, Math.abs(v)), 1e-6);
    weights = x.reduce((most, v, i) => Math.max(most, Math.abs(v - y[i]) / largest), weights);
  }
  return { loss, weights };
}

/** Where a launcher's processes can be found. */
const onLinux = test.runIf(process.platform === "linux");

describe.each(MPIS)("$name", { timeout: TIMEOUT_MS }, (mpi) => {
  const name = mpi.name.replace(" ", "");

  test("2 ranks train as one process with the batch of both, and go on as one", async () => {
    const run = [...RUN, "--steps", String(STEPS)];
    const alone = finish(start([...run, "--batch-size", "4", "--out", `${name}-alone`]));
    expect((await alone).code).toBe(0);
    const both = ["--batch-size", "2", "--sync-batch-norm", "--verify-every", "2", "--json"];
    const { code, stdout, stderr } = await finish(ranks(mpi, 2, ...run, ...both, "--out", `${name}-both`));
    expect(code, stderr).toBe(0);
    expect(stderr).toMatch(/batch 2 on each of 2 ranks, 4 images a step/);
    expect(stderr.match(/^adapter:/gm)?.length).toBe(1);
    expect(stdout.trim().split("\n").filter((line) => line.startsWith("{")).length).toBe(STEPS); // prettier-ignore
    const same = await difference(`${name}-alone`, `${name}-both`);
    // Sums in another order; after eight steps of Adam a few units of the last place.
    expect(same.loss).toBeLessThan(2e-6);
    expect(same.weights).toBeLessThan(2e-5);

    const half = [...RUN, "--steps", "4", "--batch-size", "2", "--sync-batch-norm", "--out", `${name}-changed`];
    expect((await finish(ranks(mpi, 2, ...half))).code).toBe(0);
    const rest = await train("--resume", "--steps", String(STEPS), "--batch-size", "4", "--out", `${name}-changed`);
    expect(rest.code, rest.stderr).toBe(0);
    expect(await config(`${name}-changed`)).toMatchObject({ ranks: 1, batchSize: 4 });
    const changed = await difference(`${name}-alone`, `${name}-changed`);
    expect(changed.loss).toBeLessThan(2e-6);
    expect(changed.weights).toBeLessThan(2e-5);
  });

  test("steps of another size go on with the next pictures", async () => {
    const out = ["--out", `${name}-smaller`];
    expect((await finish(ranks(mpi, 2, ...RUN, "--steps", "4", ...out))).code).toBe(0);
    const rest = await train("--resume", "--steps", "6", ...out);
    expect(rest.code, rest.stderr).toBe(0);
    const state = JSON.parse(await readFile(at(`${name}-smaller`, stepName(6), "state.json"), "utf8")) as unknown;
    expect(state).toMatchObject({ step: 6, samples: 4 * 2 + 2 });
    // A batch that makes other steps is another run.
    const other = await train("--resume", "--steps", "8", "--batch-size", "3", ...out);
    expect(other.code).toBe(2);
    expect(other.stderr).toMatch(/^--batch-size 3: expected --batch-size 1 as the run was started/);
  });

  onLinux("a signal to one rank stops all after the same step, and another goes on from its checkpoint", async () => {
    const out = `${name}-stopped`;
    const child = ranks(mpi, 2, ...RUN, "--steps", "5000", "--save-every", "5000", "--json", "--out", out);
    const ended = finish(child);
    await logged(out, 3);
    await signalRank(child.pid!, "SIGTERM");
    const { code, stderr } = await ended;
    expect(code).toBe(143);
    expect(stderr).toMatch(/^SIGTERM on rank \d: saving a checkpoint/m);
    const steps = (await logLines(out)).length;
    expect(await checkpoints(out)).toEqual([stepName(steps)]);
    expect((await train("--resume", "--steps", String(steps + 1), "--out", out)).code).toBe(0);
  });

  onLinux("a rank that is killed ends the job; its last checkpoint goes on", async () => {
    const out = `${name}-killed`;
    const child = ranks(mpi, 2, ...RUN, "--steps", "5000", "--out", out);
    const ended = finish(child);
    await logged(out, 6);
    const pids = await signalRank(child.pid!, "SIGKILL");
    expect((await ended).code).not.toBe(0);
    await Promise.all(pids.map(gone)); // Open MPI's launcher does not wait for what it kills
    const found = await checkpoints(out);
    expect(found.length).toBeGreaterThan(0);
    const last = Number(found.at(-1)!.slice(5));
    const { code, stderr } = await train("--resume", "--steps", String(last + 1), "--out", out);
    expect(code, stderr).toBe(0);
  });

  test("what is wrong on all ranks is said once, and nothing is written", async () => {
    const { code, stderr } = await finish(ranks(mpi, 2, ...RUN, "--train", "nowhere", "--out", `${name}-none`));
    expect(code).toBe(2);
    expect(stderr.match(/^nowhere: expected a folder of pictures/gm)?.length).toBe(1);
    await expect(access(at(`${name}-none`))).rejects.toThrow();
  });

  test("pconv evaluate gives the numbers of one process, inpaint fills every picture once", async () => {
    const evaluation = [PCONV, "evaluate", "--images", "images", "--masks", "masks", "--size", "32", "--no-weights", "--baseline", "mean", "--json"]; // prettier-ignore
    const broken = await finish(startRanks(mpi, 2, evaluation, at()));
    expect(broken.code).toBe(2); // one of the pictures is cut off
    expect(broken.stderr.match(/^images.*truncated\.jpg: expected/gm)?.length).toBe(1);
    const whole = evaluation.map((arg) => (arg === "images" ? "pixel" : arg));
    const [alone, both] = [
      await finish(startRanks(mpi, 1, whole, at())),
      await finish(startRanks(mpi, 3, whole, at())),
    ];
    expect(both.code, both.stderr).toBe(0);
    expect(both.stdout).toBe(alone.stdout);

    const filled = await finish(startRanks(mpi, 2, [PCONV, "inpaint", "images", "--mask", join("masks", "0.png"), "--resize-mask", "--out", `${name}-filled`], at())); // prettier-ignore
    expect(filled.code).toBe(1);
    expect(filled.stderr).toMatch(/^5 filled, 0 skipped, 1 failed, of 6$/m);
    for (let i = 0; i < 5; i++) expect((await stat(at(`${name}-filled`, `${i}.png`))).size).toBeGreaterThan(100);
  });
});

test("options for several ranks are refused with one", async () => {
  const { code, stderr } = await train(...RUN, "--sync-batch-norm");
  expect(code).toBe(2);
  expect(stderr).toMatch(/^--sync-batch-norm: expected several ranks with it, got one\nhelp: start it by mpirun/);
});

/** Resolves when a process has ended. */
async function gone(pid: number): Promise<void> {
  while (await stat(`/proc/${pid}`).catch(() => null)) await new Promise((resolve) => setTimeout(resolve, 50));
}

/** Sends a signal to the last of the processes that a launcher has started. @returns all of them */
async function signalRank(launcher: number, signal: NodeJS.Signals): Promise<number[]> {
  const children = async (pid: number): Promise<number[]> => {
    const text = await readFile(`/proc/${pid}/task/${pid}/children`, "utf8");
    return text.trim().split(" ").filter((part) => part !== "").map(Number); // prettier-ignore
  };
  // MPICH's launcher has a proxy between itself and the ranks.
  let pids = await children(launcher);
  for (let found = pids; found.length > 0;) {
    pids = found;
    const commands = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, "utf8")));
    if (commands.every((command) => command.includes("pconv-train"))) break;
    found = (await Promise.all(pids.map(children))).flat();
  }
  process.kill(pids.at(-1)!, signal);
  return pids;
}
