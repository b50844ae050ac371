/** `--precision f16` as users start it: what it logs, and that a resumed run equals the uninterrupted one. */
import { readFile } from "node:fs/promises";
import { expect, it } from "vitest";
import { useGpu } from "../support/gpu.js";
import { at, DRAWN, expectSameRun, logLines, SMALL, STEPS, train, useTrainFolder } from "../support/trainProgram.js";

useTrainFolder();
const gpu = useGpu();

const RUN = [...SMALL, ...DRAWN, "--precision", "f16", "--save-every", "4"];

it("logs the loss scale and resumes bit for bit, or says that the adapter cannot and trains with f32", async () => {
  const whole = await train(...RUN, "--steps", String(STEPS), "--out", "whole");
  expect(whole.code).toBe(0);
  const warned = "warning: --precision f16: this adapter has no half precision (shader-f16); training with f32\n";
  expect(whole.stderr.includes(warned)).toBe(!gpu().half);
  const config = JSON.parse(await readFile(at("whole", "config.json"), "utf8")) as Record<string, unknown>;
  expect(config["precision"]).toBe(gpu().half ? "f16" : "f32");
  for (const line of await logLines("whole")) {
    expect([line["lossScale"], line["skipped"]]).toEqual(gpu().half ? [65536, 0] : [undefined, undefined]);
  }
  expect((await train(...RUN, "--steps", "8", "--out", "resumed")).code).toBe(0);
  expect((await train("--resume", "--steps", String(STEPS), "--out", "resumed")).code).toBe(0);
  await expectSameRun("resumed", "whole");
});
