/** Both stages in one run of pconv-train, with everything that changes over a run; resumed anywhere, it goes on bit for bit. */
import { cp, readdir, readFile, rm } from "node:fs/promises";
import { beforeAll, describe, expect, it } from "vitest";
import {
  at,
  logLines,
  SMALL,
  start,
  finish,
  stepName,
  tensors,
  train,
  useTrainFolder,
} from "../support/trainProgram.js";

useTrainFolder();

const RUN = [
  ...SMALL,
  "--no-vgg",
  "--stages",
  "both",
  "--steps",
  "4",
  "--finetune-steps",
  "3",
  "--reestimate-batches",
  "3",
];
const MORE = ["--lr", "1e-3", "--lr-schedule", "linear", "--lr-warmup", "2", "--ema", "0.9", "--clip-grad-norm", "0.5"];

describe("--stages both", () => {
  beforeAll(async () => {
    const { code, stderr } = await train(...RUN, ...MORE, "--save-every", "1", "--out", "whole");
    expect(stderr).toMatch(/stage 2: taking batch norm's statistics over 3 batches/);
    expect(code).toBe(0);
  });

  it("runs the stages one after the other, each with its learning rate", async () => {
    const lines = (await logLines("whole")).filter((line) => "loss" in line);
    const rates = lines.map((line) => line["lr"] as number);
    const want = [0.5e-3, 1e-3, 1e-3, 0.5e-3, 5e-5, (5e-5 * 2) / 3, 5e-5 / 3];
    expect(rates.length).toBe(want.length);
    rates.forEach((lr, i) => expect(lr / want[i]).toBeCloseTo(1, 9));
    for (const line of lines) expect(line["gradNorm"]).toBeGreaterThan(0);
  });

  it.each(["all", "encoder"])("freezes the statistics after the first: %s", async (which) => {
    const run = which === "all" ? "whole" : "encoder";
    if (run !== "whole")
      expect((await train(...RUN, "--freeze", which, "--save-every", "1", "--out", run)).code).toBe(0);
    const [a, b] = [await tensors(run, 6, "model.safetensors"), await tensors(run, 7, "model.safetensors")];
    const same = (name: string) =>
      JSON.stringify([...a.get(name)!.toFloat32()]) === JSON.stringify([...b.get(name)!.toFloat32()]);
    const names = [...a.keys()].filter((name) => name.includes("running"));
    const encoder = names.filter((name) => name.startsWith("enc_"));
    expect(encoder.length).toBeGreaterThan(0);
    expect(encoder.every(same)).toBe(true);
    const decoder = names.filter((name) => name.startsWith("dec_"));
    expect(which === "all" ? decoder.every(same) : !decoder.some(same)).toBe(true);
    expect(same("enc_2.bn.weight")).toBe(false); // its weight and bias still train
  });

  it("keeps averaged weights beside the last ones", async () => {
    const [last, average] = [
      await tensors("whole", 7, "model.safetensors"),
      await tensors("whole", 7, "ema.safetensors"),
    ];
    expect([...average.keys()].sort()).toEqual([...last.keys()].sort());
    expect([...average.get("dec_1.conv.weight")!.toFloat32()]).not.toEqual([
      ...last.get("dec_1.conv.weight")!.toFloat32(),
    ]);
    expect([...average.get("enc_2.bn.running_mean")!.toFloat32()]).toEqual([...last.get("enc_2.bn.running_mean")!.toFloat32()]); // prettier-ignore
  });

  // Before the change of stages, right at it, and after it.
  it.each([3, 4, 5])("resumed from step %i, ends with the same bits", async (step) => {
    const run = `resumed-${step}`;
    const child = start([...RUN, ...MORE, "--save-every", "1", "--out", run]);
    const ended = finish(child);
    for (;;) {
      const names = await readdir(at(run)).catch((): string[] => []);
      if (names.includes(stepName(step))) break;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    child.kill("SIGKILL");
    await ended;
    for (const name of await readdir(at(run))) {
      if (name.startsWith("step-") && name > stepName(step)) await rm(at(run, name), { recursive: true });
    }
    const { code, stderr } = await train("--resume", "--out", run);
    expect(stderr).toContain(`resuming after step ${step}`);
    expect(code).toBe(0);
    for (const file of ["model.safetensors", "ema.safetensors", "optimizer.safetensors"]) {
      const [got, want] = await Promise.all([run, "whole"].map((r) => readFile(at(r, stepName(7), file))));
      expect(got.equals(want), file).toBe(true);
    }
    expect(await logLines(run)).toEqual(await logLines("whole"));
  });

  it("--finetune-steps makes the second stage longer; the first keeps its length", async () => {
    await cp(at("whole"), at("longer"), { recursive: true });
    const refused = await train("--resume", "--out", "longer", "--steps", "5");
    expect(refused.stderr).toMatch(/^--steps 5: expected --steps 4 as the run was started, got --steps 5$/m);
    expect(refused.code).toBe(2);
    const other = await train("--resume", "--out", "longer", "--stage", "train");
    expect(other.stderr).toMatch(/^--stage train: expected --stages both as the run was started, got --stage train$/m);
    expect((await train("--resume", "--out", "longer", "--finetune-steps", "4")).code).toBe(0);
    expect((await logLines("longer")).filter((line) => "loss" in line).length).toBe(8);
  });
});

it("mixes drawn images and masks into those of folders", async () => {
  const folders = ["--train", "images", "--masks", "masks", "--drawn-images", "0.5", "--drawn-masks", "0.25"];
  const { code, stderr } = await train(...SMALL, "--no-vgg", "--steps", "2", "--out", "mixed", ...folders);
  expect(stderr).toMatch(/images: 50 % .*images.*, 50 % .*dead.?leaves.*; masks: 75 % .*masks.*, 25 % random masks/i);
  expect(code).toBe(0);
});

it("a run of one stage takes nothing of the second when it is resumed", async () => {
  expect((await train(...SMALL, "--no-vgg", "--steps", "1", "--out", "one")).code).toBe(0);
  const { code, stderr } = await train("--resume", "--out", "one", "--finetune-steps", "5");
  expect(stderr.split("\n")[0]).toBe(
    "--finetune-steps 5: expected it with a run of --stages both, got one of --stage train",
  );
  expect(code).toBe(2);
});

describe("refusals", () => {
  const cases: [string, string[], RegExp][] = [
    ["both forms", ["--stage", "train", "--stages", "both"], /^--stages: expected only one of --stage and --stages/],
    ["finetune steps of nothing", ["--finetune-steps", "3"], /^--finetune-steps: expected --stages both with it/],
    ["freezing without a second stage", ["--freeze-statistics", "running"], /^--freeze-statistics: expected --stage finetune or --stages both/], // prettier-ignore
    ["a share of nothing", ["--drawn-masks", "0.5"], /^--drawn-masks: expected --masks with it, got none$/],
    ["more than all", ["--drawn-images", "2"], /^--drawn-images: expected a share from 0 to 1, got 2$/],
    ["an average of everything", ["--ema", "1"], /^--ema: expected a number above 0 and below 1, got 1$/],
    ["an average of nothing", ["--ema", "0"], /^--ema: expected a number above 0 and below 1, got 0$/],
    ["clipping to nothing", ["--clip-grad-norm", "0"], /^--clip-grad-norm: expected a number above 0, got 0$/],
  ];
  it.each(cases)("%s", async (_, args, first) => {
    const { code, stderr } = await train(...SMALL, "--no-vgg", "--steps", "1", ...args);
    expect(stderr.split("\n")[0]).toMatch(first);
    expect(code).toBe(2);
  });
});
