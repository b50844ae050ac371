/** `--loss-weights`: what is trained on, what is kept, and what a resumed run may not change. */
import { readFile } from "node:fs/promises";
import { expect, it } from "vitest";
import { at, DRAWN, logLines, SMALL, train, useTrainFolder } from "../support/trainProgram.js";

useTrainFolder();

interface Line {
  readonly loss: number;
  readonly terms: Readonly<Record<"valid" | "hole" | "perceptual" | "styleOut" | "styleComp" | "tv", number>>;
}

it("weights the terms by them, and the others by the paper's", async () => {
  const run = [...SMALL, ...DRAWN, "--steps", "2", "--out", "weighted"];
  const { code, stderr } = await train(...run, "--loss-weights", "tv=3", "hole=0.5");
  expect(stderr).not.toMatch(/expected/);
  expect(code).toBe(0);
  for (const { loss, terms } of (await logLines("weighted")) as unknown as Line[]) {
    expect(loss / (terms.valid + 0.5 * terms.hole + 3 * terms.tv)).toBeCloseTo(1, 5);
  }
  const config = JSON.parse(await readFile(at("weighted", "config.json"), "utf8")) as Record<string, unknown>;
  expect(config["lossWeights"]).toEqual({ hole: 0.5, tv: 3 });
});

it("goes on with them, given again in any order or not, and refuses others", async () => {
  const resume = (...args: string[]) => train("--resume", "--out", "weighted", ...args);
  expect((await resume("--steps", "3")).code).toBe(0);
  expect((await resume("--steps", "4", "--loss-weights", "hole=.5,tv=3")).code).toBe(0);
  const [, , third, fourth] = (await logLines("weighted")) as unknown as Line[];
  for (const { loss, terms } of [third, fourth])
    expect(loss / (terms.valid + 0.5 * terms.hole + 3 * terms.tv)).toBeCloseTo(1, 5);
  const other = await resume("--steps", "5", "--loss-weights", "hole=1");
  expect(other.code).toBe(2);
  expect(other.stderr).toContain(
    "expected --loss-weights hole=0.5,tv=3 as the run was started, got --loss-weights hole=1",
  );
});
