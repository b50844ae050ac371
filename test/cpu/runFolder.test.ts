import { mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.js";
import { isDiskFull } from "../../src/io/files.js";
import { RunFolder } from "../../src/io/runFolder.js";

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "pconv-runFolder-"));
});
const opened: RunFolder[] = [];
afterEach(async () => {
  for (const run of opened.splice(0)) run.release();
  await rm(dir, { recursive: true, force: true });
});
const create = async (...of: Parameters<typeof RunFolder.create>) => {
  const run = await RunFolder.create(...of);
  opened.push(run);
  return run;
};

const files = { "model.safetensors": Uint8Array.of(1, 2, 3), "state.json": Buffer.from("{}") };
const checkpointNames = async (run: RunFolder) => (await readdir(run.dir)).filter((name) => name.startsWith("step-"));

describe("RunFolder", () => {
  it("keeps the last three checkpoints and the best one", async () => {
    const run = await create(join(dir, "a", "b"), { seed: 1 });
    for (const step of [10, 20, 30, 40, 50]) await run.saveCheckpoint(step, files, 10);
    expect(await run.checkpoints()).toEqual([10, 30, 40, 50]);
    await run.saveCheckpoint(60, files, 60);
    expect(await run.checkpoints()).toEqual([40, 50, 60]);
    expect([...(await readFile(run.checkpointPath(60, "model.safetensors")))]).toEqual([1, 2, 3]);
  });

  it("leaves earlier checkpoints and no half one when a save fails", async () => {
    const run = await create(join(dir, "run"), {});
    await run.saveCheckpoint(10, files, 10);
    const before = await checkpointNames(run);
    // The second file cannot be written: its folder does not exist.
    const failing = run.saveCheckpoint(20, { ...files, "missing/optimizer": Uint8Array.of(1) }, 20);
    await expect(failing).rejects.toThrow(UserError);
    expect(await checkpointNames(run)).toEqual(before);
  });

  it("refuses a folder with a run, and one that cannot be made", async () => {
    const run = await create(join(dir, "run"), {});
    await expect(RunFolder.create(run.dir, {})).rejects.toThrow(
      /expected a folder without a run, got one with config.json\nhelp: pass --resume/,
    );
    await writeFile(join(dir, "file"), "");
    await expect(RunFolder.create(join(dir, "file", "run"), {})).rejects.toThrow(UserError);
    await expect(RunFolder.create(join(dir, "file"), {})).rejects.toThrow(UserError);
  });

  it("counts as free until its configuration is there", async () => {
    const cyclic: Record<string, unknown> = {};
    cyclic["self"] = cyclic;
    await expect(RunFolder.create(join(dir, "run"), cyclic)).rejects.toThrow(TypeError);
    await RunFolder.checkFree(join(dir, "run"));
    await create(join(dir, "run"), {});
  });

  // Node's own recursive mkdir never comes back from this one.
  it.skipIf(process.platform !== "linux")("refuses a place in /proc", async () => {
    await expect(RunFolder.create("/proc/pconv/run", {})).rejects.toThrow(/expected a place that can be written to/);
  });

  it("discards only what is the run's", async () => {
    const made = await create(join(dir, "made"), {});
    await made.discard();
    await mkdir(join(dir, "there"));
    await writeFile(join(dir, "there", "notes.txt"), "mine");
    const run = await create(join(dir, "there"), {});
    await writeFile(await run.eventsPath(), "");
    run.log({ step: 1 });
    await run.discard();
    expect(await readdir(dir, { recursive: true })).toEqual(["there", join("there", "notes.txt")]);
  });

  it("removes leftovers of interrupted saves when it resumes", async () => {
    const begun = await create(join(dir, "run"), {});
    begun.release();
    const { dir: run } = begun;
    await mkdir(join(run, "step-00000010.partial"));
    for (const name of ["config.json.partial-7", join("samples", "step-00000010.png.partial-7")])
      await writeFile(join(run, name), "");
    (await RunFolder.resume(run)).release();
    expect((await readdir(run, { recursive: true })).sort()).toEqual(["config.json", "samples"]);
    await expect(RunFolder.resume(join(dir, "other"))).rejects.toThrow(
      /expected a run to resume, got no config.json there/,
    );
  });

  it("cuts the log after a step, and counts what is no line of it", async () => {
    const run = await create(join(dir, "run"), {});
    expect(await run.truncateLog(0)).toBe(0);
    for (const step of [1, 2, 3]) run.log({ step, loss: step / 10 });
    const whole = await readFile(run.path("log.jsonl"), "utf8");
    await writeFile(run.path("log.jsonl"), `${whole}{"step":4,"lo`);
    expect(await run.truncateLog(3)).toBe(0);
    expect(await readFile(run.path("log.jsonl"), "utf8")).toBe(whole);
    await writeFile(run.path("log.jsonl"), `[]\n{"step":"1"}\n${whole}`);
    expect(await run.truncateLog(2)).toBe(2);
    expect(await readFile(run.path("log.jsonl"), "utf8")).toBe('{"step":1,"loss":0.1}\n{"step":2,"loss":0.2}\n');
  });

  it("names the file of a checkpoint that is not what was written", async () => {
    const run = await create(join(dir, "run"), {});
    await run.saveCheckpoint(10, files, 10);
    expect(await run.verify(10)).toBe(true);
    const at = (name: string) => run.checkpointPath(10, name);
    const damages: [name: string, bytes: Uint8Array | null, problem: RegExp][] = [
      [
        "model.safetensors",
        Uint8Array.of(1, 2, 7),
        /model.safetensors: expected the bytes that were written \(SHA-256 039058c6f2c0/,
      ],
      ["model.safetensors", Uint8Array.of(1, 2), /model.safetensors: expected 3 bytes as they were written, got 2/],
      ["state.json", null, /state.json: expected a file of the checkpoint, got none/],
      [
        "checksums.json",
        Buffer.from("{"),
        /checksums.json: expected checksums \(pconv-checksums\/1\), got something else/,
      ],
      ["checksums.json", Buffer.alloc(40), /checksums.json: expected checksums/],
      [
        "checksums.json",
        Buffer.from('{"format":"pconv-checksums/1","files":{}}'),
        /checksums.json: expected checksums/,
      ],
    ];
    for (const [name, bytes, problem] of damages) {
      const good = await readFile(at(name));
      if (bytes) await writeFile(at(name), bytes);
      else await rm(at(name));
      await expect(run.verify(10)).rejects.toThrow(problem);
      await writeFile(at(name), good);
    }
    await rm(at("checksums.json")); // as version 0.1 wrote them
    expect(await run.verify(10)).toBe(false);
  });

  it("sets a damaged checkpoint aside, where it counts for nothing", async () => {
    const run = await create(join(dir, "run"), {});
    for (const step of [10, 20]) await run.saveCheckpoint(step, files, 10);
    expect(await run.setAside(20)).toBe(join(run.dir, "step-00000020.damaged"));
    expect(await run.checkpoints()).toEqual([10]);
    await run.saveCheckpoint(20, files, 10);
    expect(await checkpointNames(run)).toHaveLength(3);
    await run.setAside(20);
    expect(await run.checkpoints()).toEqual([10]);
  });

  it("puts back a checkpoint whose successor did not come to stand in its place", async () => {
    const begun = await create(join(dir, "run"), {});
    await begun.saveCheckpoint(10, files, 10);
    await begun.saveCheckpoint(10, files, 10); // the same step once more
    expect(await checkpointNames(begun)).toEqual(["step-00000010"]);
    begun.release();
    const at = begun.checkpointPath(10);
    await rename(at, `${at}.replaced`);
    await mkdir(`${at}.partial`);
    const resumed = await RunFolder.resume(begun.dir);
    opened.push(resumed);
    expect(await checkpointNames(resumed)).toEqual(["step-00000010"]);
    expect(await resumed.verify(10)).toBe(true);
  });

  it("belongs to one process, until it is released", async () => {
    const run = await create(join(dir, "run"), {});
    await expect(RunFolder.resume(run.dir)).rejects.toThrow(/expected a run that nothing else works on/);
    run.release();
    opened.push(await RunFolder.resume(run.dir));
    const both = await Promise.allSettled([1, 2].map(() => create(join(dir, "raced"), {})));
    expect(both.map((one) => one.status).sort()).toEqual(["fulfilled", "rejected"]);
  });

  it("names logs one after another, although the clock is set back and starts share a second", async () => {
    const run = await create(join(dir, "run"), {});
    const later = Math.floor(Date.now() / 1000) + 10 ** 7;
    for (const seconds of [later, later - 5]) await writeFile(run.path(`events.out.tfevents.${seconds}.host.v2`), "");
    expect(await run.eventsPath()).toContain(`events.out.tfevents.${later + 1}.`);
    await writeFile(await run.eventsPath(), "");
    expect(await run.eventsPath()).toContain(`events.out.tfevents.${later + 2}.`);
  });

  // The device /dev/full takes nothing, as a full disk.
  it.skipIf(process.platform !== "linux")("keeps the lines that a full disk refuses until there is room", async () => {
    const run = await create(join(dir, "run"), {});
    await symlink("/dev/full", run.path("log.jsonl"));
    const refused = (work: () => void) => {
      try {
        work();
      } catch (error) {
        return isDiskFull(error);
      }
      return false;
    };
    expect(refused(() => run.log({ step: 1 }))).toBe(true);
    expect(refused(() => run.log({ step: 2 }))).toBe(true);
    await expect(run.saveCheckpoint(2, files, 2)).rejects.toSatisfy(isDiskFull);
    expect(await checkpointNames(run)).toEqual([]);
    await rm(run.path("log.jsonl"));
    run.log({ step: 3 });
    expect(await readFile(run.path("log.jsonl"), "utf8")).toBe('{"step":1}\n{"step":2}\n{"step":3}\n');
  });
});
