/** `--log-every`: fewer lines, the same training. */
import { readFile, writeFile } from "node:fs/promises";
import { expect, it } from "vitest";
import { at, DRAWN, logLines, SMALL, stepName, STEPS, train, useTrainFolder } from "../support/trainProgram.js";

useTrainFolder();

const RUN = [...SMALL, ...DRAWN, "--steps", String(STEPS), "--save-every", "4"];
const model = (run: string) => readFile(at(run, stepName(STEPS), "model.safetensors"));
const steps = async (run: string) => (await logLines(run)).map((line) => line["step"]);

it("logs every fifth step, and ends with the same weights", async () => {
  const every = await train(...RUN, "--out", "every");
  const fifth = await train(...RUN, "--out", "fifth", "--log-every", "5", "--json");
  expect([every.code, fifth.code]).toEqual([0, 0]);
  expect(await steps("fifth")).toEqual([5, 10]);
  expect(fifth.stdout.trim().split("\n")).toHaveLength(2);
  const lines = await logLines("every");
  expect(await logLines("fifth")).toEqual([lines[4], lines[9]]);
  expect((await model("fifth")).equals(await model("every"))).toBe(true);
});

it("never logs, where the run is shorter than that, and still saves", async () => {
  expect((await train(...RUN, "--out", "never", "--log-every", "100")).code).toBe(0);
  expect(await steps("never")).toEqual([]);
  expect((await model("never")).equals(await model("every"))).toBe(true);
  const state = JSON.parse(await readFile(at("never", stepName(STEPS), "state.json"), "utf8")) as Record<
    string,
    unknown
  >;
  expect(state).toMatchObject({ step: STEPS, best: null, interval: { sum: 0, count: 0 } });
});

it("a resumed run keeps it, may change it, and logs every step where its config knows no such option", async () => {
  const resume = async (...args: string[]) => expect((await train("--resume", "--out", "fifth", ...args)).code).toBe(0);
  await resume("--steps", "16");
  expect(await steps("fifth")).toEqual([5, 10, 15]);
  await resume("--steps", "20", "--log-every", "2");
  expect(await steps("fifth")).toEqual([5, 10, 15, 18, 20]);
  const path = at("fifth", "config.json");
  const config = JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;
  expect(config["logEvery"]).toBe(2);
  delete config["logEvery"];
  await writeFile(path, JSON.stringify(config));
  await resume("--steps", "23");
  expect(await steps("fifth")).toEqual([5, 10, 15, 18, 20, 21, 22, 23]);
});
