/** `--gradient-checkpointing`: the same training, bit for bit, and free to change when a run is resumed. */
import { readFile, writeFile } from "node:fs/promises";
import { expect, it } from "vitest";
import { at, DRAWN, expectSameRun, INTERVALS, SMALL, train, useTrainFolder } from "../support/trainProgram.js";

useTrainFolder();

const configOf = async (run: string) =>
  JSON.parse(await readFile(at(run, "config.json"), "utf8")) as Record<string, unknown>;

it("logs the same losses and ends with the same weights, however often a run changes its mind", async () => {
  const run = async (...args: string[]) => expect(await train(...args)).toMatchObject({ code: 0 });
  await run(...SMALL, ...DRAWN, ...INTERVALS, "--out", "kept");
  await run(...SMALL, ...DRAWN, ...INTERVALS, "--gradient-checkpointing", "--out", "again");
  expect([await configOf("kept"), await configOf("again")]).toMatchObject([
    { gradientCheckpointing: false },
    { gradientCheckpointing: true },
  ]);
  await expectSameRun("again", "kept");

  const upTo = (steps: number) => ["--resume", "--out", "mixed", "--steps", String(steps)];
  await run(...SMALL, ...DRAWN, ...INTERVALS, "--steps", "4", "--out", "mixed");
  const config = await configOf("mixed");
  delete config["gradientCheckpointing"]; // as version 0.1 wrote it
  await writeFile(at("mixed", "config.json"), JSON.stringify(config));
  await run(...upTo(6));
  expect(await configOf("mixed")).toMatchObject({ gradientCheckpointing: false });
  await run(...upTo(8), "--gradient-checkpointing");
  await run(...upTo(10));
  expect(await configOf("mixed")).toMatchObject({ gradientCheckpointing: true });
  await run(...upTo(12), "--no-gradient-checkpointing");
  expect(await configOf("mixed")).toMatchObject({ gradientCheckpointing: false });
  await expectSameRun("mixed", "kept");
}, 300_000);
