/** A whole run of pconv-train as users start it, and what it writes. */
import { cp, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { LOSS_TERMS } from "../../src/pconv/loss.js";
import { readPicture } from "../../src/io/imageFile.js";
import { readEvents } from "../cpu/eventReader.js";
import {
  at,
  checkpoints,
  everything,
  type Finished,
  FOLDERS,
  INTERVALS,
  logLines,
  SMALL,
  stepName,
  STEPS,
  train,
  useTrainFolder,
} from "../support/trainProgram.js";

useTrainFolder();

describe("a whole run", () => {
  let result: Finished;
  beforeAll(async () => {
    result = await train(
      ...SMALL,
      ...FOLDERS,
      ...INTERVALS,
      "--steps-per-epoch",
      "5",
      "--json",
      "--test",
      "pixel",
      "--out",
      "whole",
    );
    expect(result.stderr + String(result.code)).toMatch(/0$/);
  });

  it("prints a line of JSON for each step, and logs the same without the clock", async () => {
    const lines = result.stdout.trim().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>); // prettier-ignore
    expect(lines).toHaveLength(STEPS);
    for (const [i, line] of lines.entries()) {
      expect(Object.keys(line)).toEqual(["step", "epoch", "loss", "terms", "lr", "imagesPerSecond"]);
      const terms = line["terms"] as Record<string, number>;
      expect(Object.keys(terms)).toEqual([...LOSS_TERMS]);
      for (const value of [line["loss"], ...Object.values(terms)]) expect(value).toBeGreaterThan(0);
      expect(line).toMatchObject({ step: i + 1, epoch: Math.floor(i / 5) + 1, lr: 1e-4 });
    }
    const steps = (await logLines("whole")).filter((line) => "loss" in line);
    expect(steps).toHaveLength(STEPS);
    for (const [i, line] of lines.entries()) {
      const { imagesPerSecond, ...rest } = line;
      expect(imagesPerSecond).toBeGreaterThan(0);
      expect(steps[i]).toEqual(rest);
    }
  });

  it("skips broken files with one warning each and counts them", () => {
    expect(result.stderr.match(/warning: skipped/g)).toHaveLength(2);
    expect(result.stderr).toContain(`warning: skipped ${join("images", "truncated.jpg")}`);
    expect(result.stderr).toContain("skipped 2 unusable files");
  });

  it("logs validation and test PSNR", async () => {
    const lines = await logLines("whole");
    const validation = lines.filter((line) => "validation" in line);
    expect(validation.map((line) => line["step"])).toEqual([2, 4, 6, 8, 10, 12]);
    for (const line of validation) {
      const { psnr, images } = line["validation"] as { psnr: number; images: number };
      expect(psnr).toBeGreaterThan(3);
      expect(psnr).toBeLessThan(60);
      expect(images).toBe(6);
    }
    expect(lines.at(-1)).toMatchObject({ step: STEPS, test: { images: 1 } });
  });

  it("keeps the last three checkpoints and the one with the best validation PSNR", async () => {
    const psnr = (await logLines("whole")).flatMap((line) => {
      const value = line["validation"] as { psnr: number } | undefined;
      return value ? [{ step: line["step"] as number, psnr: value.psnr }] : [];
    });
    const best = psnr.reduce((a, b) => (b.psnr > a.psnr ? b : a)).step;
    const kept = [...new Set([best, 8, 10, 12])].sort((a, b) => a - b);
    expect(await checkpoints("whole")).toEqual(kept.map(stepName));
    const state = JSON.parse(await readFile(at("whole", stepName(STEPS), "state.json"), "utf8")) as {
      best: { step: number };
    };
    expect(state.best.step).toBe(best);
  });

  it("writes sample strips of masked, output, composite and truth", async () => {
    expect(await readdir(at("whole", "samples"))).toHaveLength(STEPS / 2);
    const strip = await readPicture(at("whole", "samples", `${stepName(STEPS)}.png`));
    expect([strip.width, strip.height]).toEqual([4 * 32 + 3 * 4, 4 * 32 + 3 * 4]);
    const cell = (x: number, y: number, column: number) => {
      const first = (y * strip.width + x + 36 * column) * 3;
      return strip.pixels.subarray(first, first + 3).join();
    };
    const grey = Float32Array.of(128 / 255, 128 / 255, 128 / 255).join();
    let holes = 0;
    for (let y = 0; y < 32; y++) {
      for (let x = 0; x < 32; x++) {
        const [masked, output, composite, truth] = [0, 1, 2, 3].map((column) => cell(x, y, column));
        if (masked !== grey) expect([masked, composite]).toEqual([truth, truth]);
        else if (truth !== grey) {
          holes++;
          expect(composite).toBe(output);
        }
      }
    }
    expect(holes).toBeGreaterThan(10);
  });

  it("writes TensorBoard curves and pictures", async () => {
    const name = (await readdir(at("whole"))).find((file) => file.startsWith("events.out.tfevents."))!;
    const events = readEvents(await readFile(at("whole", name)));
    const steps = (tag: string) => events.filter((e) => e.tag === tag).map((e) => e.step);
    const all = Array.from({ length: STEPS }, (_, i) => i + 1);
    for (const tag of ["loss/total", ...LOSS_TERMS.map((t) => `loss/${t}`), "imagesPerSecond"])
      expect(steps(tag)).toEqual(all);
    expect(steps("psnr/validation")).toEqual([2, 4, 6, 8, 10, 12]);
    expect(events.filter((e) => e.image).map((e) => e.step)).toEqual([2, 4, 6, 8, 10, 12]);
    const { loss } = (await logLines("whole"))[0];
    expect(events.find((e) => e.tag === "loss/total")?.value).toBe(loss);
  });

  it("says of a finished run that it is finished, and trains on when asked", async () => {
    await cp(at("whole"), at("longer"), { recursive: true });
    const before = await everything();
    const again = await train("--resume", "--out", "longer");
    expect(again.code).toBe(0);
    expect(again.stderr).toContain("finished");
    expect(await everything()).toBe(before);
    const fewer = await train("--resume", "--out", "longer", "--steps", "4");
    expect(fewer).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^--steps: expected at least the 12 steps .*\nhelp: .*\n$/) as string,
    });
    const more = await train("--resume", "--out", "longer", "--steps", "13");
    expect(more.code).toBe(0);
    expect((await logLines("longer")).at(-1)).toHaveProperty("test");
    expect((await checkpoints("longer")).at(-1)).toBe(stepName(13));
  });
});
