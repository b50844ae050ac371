/** Kills, signals, closed pipes and the second stage: a resumed run equals the uninterrupted one. */
import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import {
  at,
  checkpoints,
  DRAWN,
  expectSameRun,
  finish,
  FOLDERS,
  INTERVALS,
  logged,
  logLines,
  SMALL,
  start,
  stepName,
  STEPS,
  tensors,
  train,
  useTrainFolder,
} from "../support/trainProgram.js";

useTrainFolder();

describe("interruptions", () => {
  const kinds = { drawn: DRAWN, folders: FOLDERS } as const;
  const finetune = ["--stage", "finetune", "--checkpoint", join("drawn", stepName(STEPS)), ...DRAWN];

  beforeAll(async () => {
    for (const [name, args] of Object.entries(kinds)) {
      expect((await train(...SMALL, ...args, ...INTERVALS, "--out", name)).code).toBe(0);
    }
    expect((await train(...SMALL, ...finetune, ...INTERVALS, "--out", "finetune")).code).toBe(0);
  });

  /** Kills at random moments until the run is through. */
  async function killed(name: string, args: readonly string[], kills: number): Promise<void> {
    const out = `${name}-killed`;
    const call = ["--out", out];
    for (let i = 0; i < kills; i++) {
      const first = !existsSync(at(out, "config.json"));
      const child = start(first ? [...SMALL, ...args, ...INTERVALS, ...call] : ["--resume", ...call]);
      const end = finish(child);
      const delay = Math.floor(Math.random() * 60);
      await Promise.race([logged(out, 3 + 4 * i), end]);
      await new Promise((resolve) => setTimeout(resolve, delay));
      child.kill("SIGKILL");
      const { code } = await end;
      console.log(
        `${out}: killed ${delay} ms after line ${3 + 4 * i} (exit ${code}), checkpoints: ${(await checkpoints(out)).join(" ")}`,
      );
    }
    // As if the kill had come in the middle of a save.
    await mkdir(at(out, `${stepName(STEPS)}.partial`));
    const last = await train("--resume", ...call);
    expect(last.stderr + String(last.code)).toMatch(/0$/);
    await expectSameRun(out, name);
    expect(await checkpoints(out)).toEqual(await checkpoints(name));
  }

  it("kill -9 and --resume give the uninterrupted run, bit for bit: drawn pictures", () => killed("drawn", DRAWN, 2));
  it("... folders, VGG and validation", () => killed("folders", FOLDERS, 2));
  it("... finetuning", () => killed("finetune", finetune, 1));

  it.skipIf(process.platform === "win32")(
    "Ctrl-C saves a checkpoint, exits with 130, and changes nothing",
    async () => {
      const child = start([...SMALL, ...FOLDERS, ...INTERVALS, "--save-every", "6", "--out", "stopped"]);
      const end = finish(child);
      await logged("stopped", 2);
      child.kill("SIGINT");
      const stopped = await end;
      expect(stopped.code).toBe(130);
      expect(stopped.stderr).toContain("SIGINT: saving a checkpoint");
      const steps = (await logLines("stopped")).filter((line) => "loss" in line).length;
      expect(steps).toBeLessThan(STEPS);
      expect((await checkpoints("stopped")).at(-1)).toBe(stepName(steps));
      expect((await train("--resume", "--out", "stopped")).code).toBe(0);
      const file = join(stepName(STEPS), "model.safetensors");
      expect((await readFile(at("stopped", file))).equals(await readFile(at("folders", file)))).toBe(true);
    },
  );

  it.skipIf(process.platform === "win32").each(["350 ms after the start", "when its folder appears"])(
    "SIGTERM %s exits with 143, and leaves what can be resumed, or started anew",
    async (when) => {
      const dir = `early-${when.length}`;
      const child = start([...SMALL, ...DRAWN, ...INTERVALS, "--out", dir]);
      const end = finish(child);
      if (when.startsWith("350")) await new Promise((resolve) => setTimeout(resolve, 350));
      else while (!existsSync(at(dir))) await new Promise((resolve) => setImmediate(resolve));
      child.kill("SIGTERM");
      expect([143, null]).toContain((await end).code); // null: before Node had read the program
      const begun = existsSync(at(dir, "config.json"));
      expect((await train("--resume", "--out", dir)).code).toBe(begun ? 0 : 2);
      if (!begun) expect((await train(...SMALL, ...DRAWN, ...INTERVALS, "--out", dir)).code).toBe(0);
      await expectSameRun(dir, "drawn");
    },
  );

  it.skipIf(process.platform === "win32")("a reader that goes away ends the run without a fault, saved", async () => {
    const child = start([...SMALL, ...DRAWN, "--steps", "5000", "--json", "--out", "unread"]);
    child.stdout!.once("data", () => child.stdout!.destroy());
    const { code, stderr } = await finish(child);
    expect(code).toBe(141);
    expect(stderr).not.toContain("fault");
    expect(await checkpoints("unread")).toHaveLength(1);
  });

  it("finetuning as the references do keeps the encoder's running statistics and trains everything else", async () => {
    const before = await tensors("drawn", STEPS, "model.safetensors");
    const original = ["--freeze", "encoder", "--freeze-statistics", "running"];
    expect((await train(...SMALL, ...finetune, ...INTERVALS, ...original, "--out", "original")).code).toBe(0);
    const after = await tensors("original", STEPS, "model.safetensors");
    let kept = 0;
    for (const [name, tensor] of after) {
      const [got, want] = [tensor.toFloat32(), before.get(name)!.toFloat32()];
      const same = got.every((v, i) => v === want[i]);
      const frozen = name.startsWith("enc_") && /\.(running_mean|running_var|num_batches_tracked)$/.test(name);
      expect(same, name).toBe(frozen);
      if (frozen) kept++;
    }
    expect(kept).toBe(6); // levels 2 and 3 have batch norm
  });

  it("finetuning takes the statistics anew before the first step, and keeps them", async () => {
    const before = await tensors("drawn", STEPS, "model.safetensors");
    const [early, late] = await Promise.all(
      [STEPS - 2, STEPS].map((step) => tensors("finetune", step, "model.safetensors")),
    );
    const values = (of: typeof before, name: string) => [...of.get(name)!.toFloat32()];
    for (const name of [...before.keys()].filter((n) => n.includes(".running_"))) {
      expect(values(late, name), name).not.toEqual(values(before, name));
      expect(values(late, name), name).toEqual(values(early, name));
    }
  });
});
