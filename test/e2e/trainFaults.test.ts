/** Lost, full and hung devices, signals: what a run makes of them, and that it ends with the same bits. */
import { readdir, readFile } from "node:fs/promises";
import { beforeAll, describe, expect, it } from "vitest";
import { verifyChecksums } from "../../src/io/checksums.js";
import { readEvents } from "../cpu/eventReader.js";
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

const RUN = [...SMALL, ...DRAWN, "--steps", String(STEPS), "--save-every", "4"];
const withFaults = (faults: string, ...args: string[]) => finish(start(args, { PCONV_FAULTS: faults }));
const count = (text: string, what: RegExp) => text.match(what)?.length ?? 0;

beforeAll(async () => {
  expect((await train(...RUN, "--ema", "0.9", "--validation", "images", "--out", "plain")).code).toBe(0);
  expect((await train(...RUN, "--out", "bare")).code).toBe(0);
});

describe("a lost device", () => {
  it("is opened again, and the run ends with the same bits and has told everything once", async () => {
    const args = [...RUN, "--ema", "0.9", "--validation", "images", "--json", "--out", "lost"];
    const { code, stdout, stderr } = await withFaults("lose@1,lose@6x2,lose@7,lose@12", ...args);
    expect(code, stderr).toBe(0);
    expect(count(stderr, /warning: step \d+: the device was lost .* opening it again/g)).toBe(5);
    expect(stderr).toContain(
      "step 7: the device was lost (device was destroyed); opening it again and going on after step 4",
    );
    await expectSameRun("lost", "plain");
    expect(await checkpoints("lost")).toEqual(await checkpoints("plain"));
    const steps = stdout.trim().split("\n").map((line) => (JSON.parse(line) as { step: number }).step); // prettier-ignore
    const all = Array.from({ length: STEPS }, (_, i) => i + 1);
    expect(steps).toEqual(all);
    const [log, ...more] = (await readdir(at("lost"))).filter((name) => name.startsWith("events."));
    expect(more).toEqual([]);
    const events = readEvents(await readFile(at("lost", log)));
    const stepsOf = (tag: string) => events.filter((e) => e.tag === tag).map((e) => e.step);
    expect(stepsOf("loss/total")).toEqual(all);
    expect(stepsOf("psnr/validation")).toEqual([4, 8, 12]);
  });

  it("that is lost again at once does not keep a signal waiting", async () => {
    const child = start([...RUN, "--out", "again"], { PCONV_FAULTS: "lose@6x99" });
    let [told, ended] = ["", false];
    child.stderr!.on("data", (chunk: Buffer) => {
      told += chunk.toString();
      // After the third, five seconds pass.
      if (ended || count(told, /opening it again/g) < 3) return;
      child.kill("SIGTERM");
      ended = true;
    });
    const { code } = await finish(child);
    expect(code).toBe(process.platform === "win32" ? null : 143);
    expect(await checkpoints("again")).toEqual([stepName(4)]);
    expect((await train("--resume", "--out", "again")).code).toBe(0);
    await expectSameRun("again", "bare");
  });
});

describe("a device without room", () => {
  it("trains with gradient checkpointing, says so once, and gives the same bits", async () => {
    const { code, stderr } = await withFaults("memory@1", ...RUN, "--out", "less");
    expect(code, stderr).toBe(0);
    expect(count(stderr, /training with --gradient-checkpointing/g)).toBe(1);
    const files = ["model.safetensors", "optimizer.safetensors"];
    for (const file of files) {
      const [got, want] = await Promise.all(["less", "bare"].map((run) => readFile(at(run, stepName(STEPS), file))));
      expect(got.equals(want), file).toBe(true);
    }
    expect(JSON.parse(await readFile(at("less", "config.json"), "utf8"))).toMatchObject({
      gradientCheckpointing: true,
    });
  });

  it("goes on after a shortage that passes", async () => {
    const { code, stderr } = await withFaults("memory@6", ...RUN, "--out", "passing");
    expect(code, stderr).toBe(0);
    expect(stderr).toContain("step 6: the device has no more room; opening it again and going on after step 4");
    await expectSameRun("passing", "bare");
  });

  it("ends with the figures and what would help, and leaves nothing behind", async () => {
    const before = await everything();
    const child = start([...RUN, "--batch-size", "3", "--out", "never"], { PCONV_MEMORY_LIMIT: "0.75" });
    const { code, stderr } = await finish(child);
    expect(code, stderr).toBe(2);
    expect(stderr).toMatch(
      /^GPU memory: expected a step of --image-size 32 --batch-size 3 --width 0.1 --depth 3 --precision f32 to fit with --gradient-checkpointing, got no room beyond 0.\d MiB: expected buffers of at most 0.8 MiB in all, got \d.\d MiB\nhelp: use a smaller --batch-size/m,
    );
    expect(await everything()).toBe(before);
  });
});

describe.skipIf(process.platform === "win32")("a device that hangs", () => {
  it("ends the run with the last checkpoint whole, and is no hindrance to the next", async () => {
    const { code, stderr } = await withFaults("hang@7", ...RUN, "--watchdog", "2", "--out", "hung");
    // A real adapter's driver resets the device itself; it is lost then, and opened again.
    if (!stderr.includes("software")) expect(code, stderr).toBe(0);
    else {
      expect(code, stderr).toBe(2);
      expect(stderr).toContain(
        "GPU: expected the device to complete something in 2 s (--watchdog), got nothing: it has hung",
      );
      expect(await checkpoints("hung")).toEqual([stepName(4)]);
      expect(await verifyChecksums(at("hung", stepName(4)), "-")).toBe(true);
      expect((await train("--resume", "--out", "hung")).code).toBe(0);
    }
    await expectSameRun("hung", "bare");
  });

  it("does not keep a second signal waiting", async () => {
    const child = start([...RUN, "--watchdog", "0", "--out", "twice"], { PCONV_FAULTS: "hang@7" });
    const end = finish(child);
    await logged("twice", 6);
    child.kill("SIGINT");
    await new Promise((resolve) => setTimeout(resolve, 300));
    if (child.exitCode === null) {
      child.kill("SIGINT");
      await end;
      expect(child.signalCode).toBe("SIGINT");
    }
    expect((await train("--resume", "--out", "twice")).code).toBe(0);
    await expectSameRun("twice", "bare");
  });
});

describe.skipIf(process.platform === "win32")("signals", () => {
  it.each([
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const)("%s saves a checkpoint and exits with %i", async (signal, exit) => {
    const child = start([...SMALL, ...DRAWN, "--steps", "5000", "--out", signal]);
    const end = finish(child);
    await logged(signal, 3);
    child.kill(signal);
    const { code, stderr } = await end;
    expect(code, stderr).toBe(exit);
    const last = (await logLines(signal)).at(-1)!["step"] as number;
    expect(await checkpoints(signal)).toEqual([stepName(last)]);
    expect(await readdir(at(signal))).not.toContain("run.lock");
  });
});
