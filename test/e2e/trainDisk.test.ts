/** Full and read-only disks, damaged checkpoints, two runs in one folder, clocks that jump, pictures that go away. */
import { execFileSync } from "node:child_process";
import { cp, mkdir, open, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import {
  at,
  checkpoints,
  DRAWN,
  everything,
  expectSameRun,
  finish,
  logged,
  logLines,
  SMALL,
  start,
  stepName,
  STEPS,
  train,
  useTrainFolder,
} from "../support/trainProgram.js";

useTrainFolder();

const RUN = [...SMALL, ...DRAWN, "--steps", String(STEPS), "--save-every", "2"];

beforeAll(async () => {
  expect((await train(...RUN, "--out", "plain")).code).toBe(0);
});

/** Resolves once the program has said something on standard error. */
const said = (child: ReturnType<typeof start>, what: RegExp) =>
  new Promise<void>((resolve) => {
    let text = "";
    child.stderr!.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      if (what.test(text)) resolve();
    });
    child.on("close", () => resolve());
  });

async function expectSameFiles(got: string, want: string, files: readonly string[]): Promise<void> {
  for (const file of files)
    expect((await readFile(at(got, file))).equals(await readFile(at(want, file))), file).toBe(true);
}

/** A file system in memory of so many KiB, where this user and system can have one; else tests that need it are left out. */
function mounted(name: string, kib: number): boolean {
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${kib}k`, "tmpfs", at(name)], { stdio: "ignore" });
    return true;
  } catch {
    console.log("left out: only root may mount a file system here");
    return false;
  }
}
const unmount = (name: string) => execFileSync("umount", [at(name)]);

describe.skipIf(process.platform !== "linux")("a full disk", () => {
  it("does not end a run, shows nothing half written, and is written to once there is room", async ({ skip }) => {
    await mkdir(at("small"));
    if (!mounted("small", 600)) return skip();
    try {
      await writeFile(at("small", "filler"), Buffer.alloc(400 * 1024));
      const child = start([...RUN, "--out", join("small", "run")]);
      const end = finish(child);
      await said(child, /waiting up to 15 min for room for the last checkpoint/);
      expect(await checkpoints(join("small", "run"))).toEqual([]);
      expect((await readdir(at("small", "run"))).filter((name) => name.includes("partial"))).toEqual([]);
      await rm(at("small", "filler"));
      const { code, stderr } = await end;
      expect(code, stderr).toBe(0);
      expect(stderr.match(/no space left on device.*training goes on/g)).toHaveLength(1);
      expect(stderr).toContain("the disk has room again");
      const last = stepName(STEPS);
      await expectSameFiles(join("small", "run"), "plain", ["log.jsonl", join(last, "model.safetensors"), join(last, "optimizer.safetensors")]); // prettier-ignore
      expect(await checkpoints(join("small", "run"))).toEqual([last]);
    } finally {
      unmount("small");
    }
  });

  it("ends a run that is told to end, with the last whole checkpoint named", async ({ skip }) => {
    await mkdir(at("tight"));
    if (!mounted("tight", 700)) return skip();
    try {
      const out = join("tight", "run");
      expect((await train(...SMALL, ...DRAWN, "--steps", "2", "--out", out)).code).toBe(0);
      const { bavail, bsize } = await import("node:fs/promises").then(({ statfs }) => statfs(at("tight")));
      await writeFile(at("tight", "filler"), Buffer.alloc(bavail * bsize - 100 * 1024));
      const child = start(["--resume", "--out", out, "--steps", "4"]);
      const end = finish(child);
      await said(child, /waiting up to 15 min/);
      child.kill("SIGTERM");
      const { code, stderr } = await end;
      expect(code, stderr).toBe(2);
      expect(stderr).toMatch(
        /step-00000004: expected room for a checkpoint of 0\.\d MiB, got a full disk; the last whole one is tight.run.step-00000002\nhelp: free some space, and go on with --resume/,
      );
      expect(await checkpoints(out)).toEqual([stepName(2)]);
    } finally {
      unmount("tight");
    }
  });

  it("at the start refuses the run, and leaves nothing", async ({ skip }) => {
    await mkdir(at("none"));
    if (!mounted("none", 8)) return skip();
    try {
      await writeFile(at("none", "filler"), Buffer.alloc(4 * 1024));
      const { code, stderr } = await train(...RUN, "--out", join("none", "run"));
      expect(code, stderr).toBe(2);
      expect(stderr).toMatch(
        /expected a place that can be written to, got ENOSPC.*\nhelp: the disk is full; free some space/,
      );
      expect((await readdir(at("none"))).filter((name) => name !== "filler" && name !== "run")).toEqual([]);
    } finally {
      unmount("none");
    }
  });
});

it.skipIf(process.platform !== "linux")("a read-only disk is refused in two lines", async ({ skip }) => {
  await mkdir(at("locked"));
  if (!mounted("locked", 2000)) return skip();
  try {
    await cp(at("plain"), at("locked", "run"), { recursive: true });
    execFileSync("mount", ["-o", "remount,ro", at("locked")]);
    for (const args of [
      ["--resume", "--steps", "20", "--out", join("locked", "run")],
      [...RUN, "--out", join("locked", "new")],
    ]) {
      const { code, stderr } = await train(...args);
      expect(code, stderr).toBe(2);
      expect(stderr).toMatch(/expected a place that can be written to, got EROFS.*\nhelp: the file system is read-only; choose another place\n$/); // prettier-ignore
    }
  } finally {
    unmount("locked");
  }
});

describe("damaged checkpoints", () => {
  /** Turns one bit over. */
  async function flip(path: string, byte: number): Promise<void> {
    const file = await open(path, "r+");
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, byte);
    await file.write(Buffer.of(buffer[0] ^ 4), 0, 1, byte);
    await file.close();
  }

  it("are named and set aside, and the run goes on from the one before to the same bits", async () => {
    await cp(at("plain"), at("damaged"), { recursive: true });
    await flip(at("damaged", stepName(12), "model.safetensors"), 30_000);
    await truncate(at("damaged", stepName(10), "optimizer.safetensors"), 1000);
    const { code, stderr } = await train("--resume", "--out", "damaged");
    expect(code, stderr).toBe(0);
    const warned = stderr.split("\n").filter((line) => line.startsWith("warning: damaged checkpoint: "));
    expect(warned).toHaveLength(2);
    expect(warned[0]).toMatch(/step-00000012.model.safetensors: expected the bytes that were written .* it is damaged.step-00000012.damaged now/); // prettier-ignore
    expect(warned[1]).toMatch(
      /step-00000010.optimizer.safetensors: expected \d+ bytes as they were written, got 1000;/,
    );
    expect(stderr).toContain("resuming after step 8");
    await expectSameRun("damaged", "plain");
    expect(await readdir(at("damaged"))).toEqual(expect.arrayContaining(["step-00000010.damaged", "step-00000012.damaged"])); // prettier-ignore
    expect((await train("--resume", "--out", "damaged")).stderr).toContain("finished");
  });

  it("that was the best is forgotten", async () => {
    await cp(at("plain"), at("best"), { recursive: true });
    const path = at("best", stepName(12), "state.json");
    const best = (JSON.parse(await readFile(path, "utf8")) as { best: { step: number } }).best.step;
    if (best === 12) throw new Error("expected an earlier best one; choose another seed");
    await flip(at("best", stepName(best), "model.safetensors"), 20_000);
    const { code, stderr } = await train("--resume", "--steps", "14", "--out", "best");
    expect(code, stderr).toBe(0);
    expect(stderr).toMatch(new RegExp(`damaged checkpoint: .*${stepName(best)}.*; it was the best one`));
    const after = JSON.parse(await readFile(at("best", stepName(14), "state.json"), "utf8")) as {
      best: { step: number };
    };
    expect(after.best.step).toBe(14);
  });

  it("of another run are not started from", async () => {
    await cp(at("plain", stepName(12)), at("given"), { recursive: true });
    await flip(at("given", "model.safetensors"), 30_000);
    const { code, stderr } = await train(...SMALL, ...DRAWN, "--checkpoint", "given", "--out", "from");
    expect(code).toBe(2);
    expect(stderr).toMatch(/^given.model.safetensors: expected the bytes that were written/);
  });
});

describe("two runs in one folder", () => {
  it("are refused, and one that was killed is no hindrance", async () => {
    const child = start([...SMALL, ...DRAWN, "--steps", "5000", "--out", "shared"]);
    const end = finish(child);
    await logged("shared", 2);
    for (const args of [
      ["--resume", "--out", "shared"],
      [...RUN, "--out", "shared"],
    ]) {
      const { code, stderr } = await train(...args);
      expect(code).toBe(2);
      expect(stderr).toMatch(args[0] === "--resume" ? new RegExp(`^shared: expected a run that nothing else works on, got one that process ${child.pid} works on\nhelp: wait`) : /got one with config.json/); // prettier-ignore
    }
    child.kill("SIGKILL");
    await end;
    expect(await readdir(at("shared"))).toContain("run.lock");
    const lines = await logLines("shared").catch(() => []);
    expect(lines.length).toBeGreaterThan(1);
    const second = start(["--resume", "--out", "shared"]);
    const over = finish(second);
    await said(second, /resuming/);
    second.kill("SIGTERM");
    expect((await over).stderr).toContain("resuming from the start: no checkpoint was saved");
  });
});

describe("a clock that jumps", () => {
  it("changes nothing, and durations least of all", async () => {
    // Every look at the clock is a day earlier or later than the last.
    const jump = "let n = 0; const now = Date.now; Date.now = () => now() + (++n % 2 ? 1 : -1) * 864e5;";
    const NODE_OPTIONS = `--import data:text/javascript,${encodeURIComponent(jump)}`;
    const { code, stderr } = await finish(start([...RUN, "--out", "jumps"], { NODE_OPTIONS }));
    expect(code, stderr).toBe(0);
    await expectSameRun("jumps", "plain");
    expect(stderr).toMatch(/done after step 12, (\d+ s|\d min \d\d s);/);
  });

  it("gives runs that start in one second folders of their own", async () => {
    const frozen = "const D = Date; globalThis.Date = class extends D { constructor(...a) { super(...(a.length ? a : [1.8e12])); } };"; // prettier-ignore
    const NODE_OPTIONS = `--import data:text/javascript,${encodeURIComponent(frozen)}`;
    const args = [...SMALL, ...DRAWN, "--steps", "1"];
    for (let i = 0; i < 2; i++) expect((await finish(start(args, { NODE_OPTIONS }))).code).toBe(0);
    expect((await readdir(at("runs"))).sort()).toEqual(["train-2027-01-15-080000", "train-2027-01-15-080000-2"]);
  });
});

it("pictures that change, break or go away while they are trained on", async () => {
  await cp(at("images"), at("moving"), { recursive: true });
  await rm(at("moving", "truncated.jpg"));
  const child = start([...SMALL, ...DRAWN, "--train", "moving", "--steps", "100000", "--out", "moved"]);
  const end = finish(child);
  await logged("moved", 6);
  const warned = said(child, /(warning: skipped [^]*){3}/);
  await rm(at("moving", "0.png"));
  await truncate(at("moving", "1.jpg"), 300);
  await writeFile(at("moving", "2.png"), "this is no picture any more");
  await cp(at("moving", "3.jpg"), at("moving", "4.png")); // another picture, and fine
  await warned;
  const before = (await logLines("moved")).length;
  await logged("moved", before + 10);
  await rm(at("moving"), { recursive: true });
  const { code, stderr } = await end;
  expect(code, stderr).toBe(2);
  for (const name of ["0.png", "1.jpg", "2.png"])
    expect(stderr.split(`warning: skipped ${join("moving", name)}: `), name).toHaveLength(2);
  expect(stderr.match(/warning: skipped/g)).toHaveLength(3);
  expect(stderr).toMatch(
    /^moving: expected a folder of pictures, got one that is gone or empty now\nhelp: bring its disk back/m,
  );
  const last = (await logLines("moved")).at(-1)!["step"] as number;
  expect(last).toBeGreaterThanOrEqual(before + 10);
  expect(await checkpoints("moved")).toContain(stepName(last));
  expect((await stat(at("moved"))).isDirectory()).toBe(true);
  const before2 = await everything();
  expect((await train("--resume", "--out", "moved")).stderr).toMatch(
    /^moving: expected a folder of pictures, got no such folder/,
  );
  expect(await everything()).toBe(before2);
});
