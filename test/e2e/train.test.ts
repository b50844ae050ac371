/** pconv-train as users start it: what it writes, what it refuses, and that interruptions change nothing. */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { access, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readPicture } from "../../src/io/imageFile.js";
import { writeMaskPng } from "../../src/io/png.js";
import { readSafetensors, writeSafetensors } from "../../src/io/safetensors.js";
import { deadLeaves } from "../../src/pconv/deadLeaves.js";
import { LOSS_TERMS } from "../../src/pconv/loss.js";
import { generateMask } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";
import { readEvents } from "../cpu/eventReader.js";
import { tinyVggState } from "../support/tinyVgg.js";

const PROGRAM = fileURLToPath(new URL("../../dist/tools/pconv-train.js", import.meta.url));
const SMALL = ["--image-size", "32", "--width", "0.1", "--depth", "3"];
const STEPS = 12;

let dir: string;
const at = (...parts: string[]) => join(dir, ...parts);

interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  /** Without what Dawn and the Vulkan loader print. */
  readonly stderr: string;
}

function start(args: readonly string[], env: Readonly<Record<string, string>> = {}): ChildProcess {
  return spawn(process.execPath, [PROGRAM, ...args], { cwd: dir, env: { ...process.env, ...env } });
}

function finish(child: ChildProcess): Promise<Finished> {
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  return new Promise((resolve) => {
    child.on("close", (code) => {
      const ours = stderr.split("\n").filter((line) => !/^(Warning: |\s+at |$)/.test(line));
      resolve({ code, stdout, stderr: ours.map((line) => `${line}\n`).join("") });
    });
  });
}

const train = (...args: string[]) => finish(start(args));

/** Names and contents of everything in the folder. */
async function everything(): Promise<string> {
  const hash = createHash("sha256");
  for (const entry of (await readdir(dir, { recursive: true, withFileTypes: true })).filter((e) => e.isFile())) {
    const path = join(entry.parentPath, entry.name);
    hash.update(path).update(await readFile(path));
  }
  return hash.digest("hex");
}

const checkpoints = async (run: string) => (await readdir(at(run))).filter((name) => name.startsWith("step-")).sort();
const stepName = (step: number) => `step-${String(step).padStart(8, "0")}`;

async function logLines(run: string): Promise<Record<string, unknown>[]> {
  const text = await readFile(at(run, "log.jsonl"), "utf8").catch(() => "");
  return text.split("\n").slice(0, -1).map((line) => JSON.parse(line) as Record<string, unknown>); // prettier-ignore
}

/** Resolves once the run has logged `steps` steps. */
async function logged(run: string, steps: number): Promise<void> {
  while ((await logLines(run).catch(() => [])).length < steps) await new Promise((resolve) => setTimeout(resolve, 5));
}

const tensors = async (run: string, step: number, file: string) =>
  readSafetensors(await readFile(at(run, stepName(step), file)), file).tensors;

/** Fails unless the two runs logged the same lines and ended with the same bits. */
async function expectSameRun(got: string, want: string): Promise<void> {
  for (const file of [
    "log.jsonl",
    ...["model.safetensors", "optimizer.safetensors", "state.json"].map((name) => join(stepName(STEPS), name)),
  ]) {
    expect((await readFile(at(got, file))).equals(await readFile(at(want, file))), `${got}: ${file}`).toBe(true);
  }
}

async function makeFiles(): Promise<void> {
  for (const name of ["images", "masks", "empty", "text", "uniform", "pixel"]) await mkdir(at(name));
  for (let i = 0; i < 5; i++) {
    const { width, height, pixels } = deadLeaves(48, 40, Rng.of(5, i));
    const bytes = Uint8Array.from(pixels, (v) => Math.round(255 * v));
    const picture = sharp(bytes, { raw: { width, height, channels: 3 } });
    await (i % 2 === 0
      ? picture.png().toFile(at("images", `${i}.png`))
      : picture.jpeg().toFile(at("images", `${i}.jpg`)));
    await writeMaskPng(at("masks", `${i}.png`), generateMask(64, 64, Rng.of(6, i)));
  }
  const whole = await readFile(at("images", "1.jpg"));
  await writeFile(at("images", "truncated.jpg"), whole.subarray(0, whole.length >> 1));
  await writeMaskPng(at("masks", "allHole.png"), { width: 8, height: 8, values: new Uint8Array(64) });
  await writeMaskPng(at("uniform", "hole.png"), { width: 8, height: 8, values: new Uint8Array(64) });
  await writeMaskPng(at("uniform", "valid.png"), { width: 8, height: 8, values: new Uint8Array(64).fill(1) });
  await writeFile(at("text", "a.png"), "this is no picture");
  await sharp({ create: { width: 1, height: 1, channels: 3, background: "#c04020" } }).png().toFile(at("pixel", "a.png")); // prettier-ignore
  await writeFile(at("vgg.safetensors"), writeSafetensors(tinyVggState()));
  const header = Buffer.alloc(10);
  header.writeBigUInt64LE(2n ** 60n);
  await writeFile(at("hugeHeader.safetensors"), header);
  // A pickle that asks for os.system("exit"): protocol 2, GLOBAL, text, TUPLE1, REDUCE, STOP.
  await writeFile(at("hostile.pth"), Buffer.from("\x80\x02cos\nsystem\nX\x04\0\0\0exit\x85R.", "latin1"));
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "pconv-train-"));
  await makeFiles();
});
afterAll(() => rm(dir, { recursive: true, force: true }));

/** All six terms, pictures and masks from folders with a broken file in each, validation. */
const FOLDERS = [
  "--train",
  "images",
  "--masks",
  "masks",
  "--validation",
  "images",
  "--vgg-path",
  "vgg.safetensors",
  "--batch-size",
  "2",
];
const DRAWN = ["--no-vgg"];
const INTERVALS = ["--steps", String(STEPS), "--save-every", "2"];

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
      const first = !(await access(at(out, "config.json")).then(() => true, () => false)); // prettier-ignore
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

  it.skipIf(process.platform === "win32")(
    "SIGTERM at start-up exits with 143 and leaves nothing that cannot be resumed",
    async () => {
      const child = start([...SMALL, ...DRAWN, ...INTERVALS, "--out", "early"]);
      const end = finish(child);
      await new Promise((resolve) => setTimeout(resolve, 350));
      child.kill("SIGTERM");
      const { code } = await end;
      expect([143, null]).toContain(code); // null: before Node had read the program
      const resumed = await train("--resume", "--out", "early");
      if (
        await access(at("early")).then(
          () => true,
          () => false,
        )
      )
        await expectSameRun("early", "drawn"); // prettier-ignore
      else expect(resumed.code).toBe(2);
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

  it("finetuning keeps the encoder's running statistics and trains the weights", async () => {
    const before = await tensors("drawn", STEPS, "model.safetensors");
    const after = await tensors("finetune", STEPS, "model.safetensors");
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
});

describe("refusals: two lines, exit 2, nothing written", () => {
  const out = ["--out", "refused"];
  const base = [...SMALL, "--steps", "2", ...out];
  const cases: [what: string, args: string[], first: RegExp, env?: Record<string, string>][] = [
    [
      "missing folder",
      [...base, "--no-vgg", "--train", "nowhere"],
      /^nowhere: expected a folder of pictures, got no such folder$/,
    ],
    [
      "no pictures",
      [...base, "--no-vgg", "--train", "empty"],
      /^empty: expected a folder with pictures .* got one without$/,
    ],
    [
      "a file as folder",
      [...base, "--no-vgg", "--train", "vgg.safetensors"],
      /expected a folder of pictures, got a file$/,
    ],
    ["missing validation", [...base, "--no-vgg", "--validation", "nowhere"], /^nowhere: /],
    [
      "batch size 0",
      [...base, "--no-vgg", "--batch-size", "0"],
      /^--batch-size: expected an integer of at least 1, got 0$/,
    ],
    [
      "image size 0",
      [...base, "--no-vgg", "--image-size", "0"],
      /^--image-size: expected an integer of at least 8, got 0$/,
    ],
    ["no number", [...base, "--no-vgg", "--lr", "fast"], /^--lr: expected a number above 0, got fast$/],
    [
      "unknown option",
      [...base, "--no-vgg", "--batchsize", "2"],
      /^--batchsize: expected an option of pconv-train, got an unknown one$/,
    ],
    ["no value", [...SMALL, "--no-vgg", "--out"], /^--out: expected a value after it, got none$/],
    ["no choice", [...base, "--no-vgg", "--stage", "third"], /^--stage: expected one of train, finetune, got third$/],
    ["an argument", [...base, "--no-vgg", "images"], /^pconv-train: expected 0 arguments .* got 1$/],
    [
      "VGG and no VGG",
      [...base, "--no-vgg", "--vgg-path", "vgg.safetensors"],
      /^--no-vgg: expected only one of .* got both$/,
    ],
    ["neither", base, /^--vgg-path: expected VGG weights for the perceptual and style terms of the loss, got none$/],
    ["steps and epochs", [...base, "--no-vgg", "--epochs", "2"], /^--epochs: expected only one of/],
    [
      "finetune from nothing",
      [...base, "--no-vgg", "--stage", "finetune"],
      /^--stage finetune: expected the weights of the first stage, got none$/,
    ],
    ["nothing to resume", ["--resume", ...out], /^refused: expected a run to resume, got no config.json there$/],
    ["a name that is a path", [...SMALL, "--no-vgg", "--name", "../up"], /^--name: expected a name without slashes/],
    [
      "an existing run",
      [...SMALL, "--no-vgg", "--out", "given"],
      /^given: expected a folder without a run, got one with config.json$/,
    ],
    [
      "a file in the way",
      [...SMALL, "--no-vgg", "--out", "vgg.safetensors"],
      /^vgg.safetensors: expected a place that can be written to/,
    ],
    [
      "another width",
      ["--resume", "--out", "given", "--width", "0.5"],
      /^--width 0.5: expected --width 0.1 as the run was started/,
    ],
    [
      "another stage",
      ["--resume", "--out", "given", "--stage", "finetune"],
      /^--stage finetune: expected --stage train/,
    ],
    [
      "another loss",
      ["--resume", "--out", "given", "--vgg-path", "vgg.safetensors"],
      /^--vgg-path vgg.safetensors: expected --no-vgg/,
    ],
    ["too large", [...base, "--no-vgg", "--image-size", "100000"], /^--image-size: expected images of at most \d+ MiB/],
    [
      "weights of another width",
      [...base, "--no-vgg", "--width", "0.2", "--checkpoint", join("given", stepName(2))],
      /expected a network of 12, 24, 52 channels .* got 8, 12, 24$/,
    ],
    ["hostile weights", [...base, "--no-vgg", "--checkpoint", "hostile.pth"], /^hostile.pth: /],
    [
      "huge header",
      [...base, "--vgg-path", "hugeHeader.safetensors"],
      /^hugeHeader.safetensors: expected a header of at most 2 bytes/,
    ],
    [
      "no adapter",
      [...base, "--no-vgg"],
      /^openGpu: expected a WebGPU adapter, got none$/,
      { VK_DRIVER_FILES: "/nonexistent.json" },
    ],
  ];

  beforeAll(async () => {
    expect((await train(...SMALL, "--no-vgg", "--steps", "2", "--out", "given")).code).toBe(0);
  });

  it("each with its reason", async () => {
    const before = await everything();
    const queue = [...cases];
    const worker = async () => {
      for (let next = queue.shift(); next; next = queue.shift()) {
        const [what, args, first, env] = next;
        if (what === "no adapter" && process.platform !== "linux") continue;
        const { code, stdout, stderr } = await finish(start(args, env));
        const lines = stderr.trimEnd().split("\n");
        expect({ what, code, stdout, count: lines.length }, stderr).toEqual({ what, code: 2, stdout: "", count: 2 });
        expect(lines[0], what).toMatch(first);
        expect(lines[1], what).toMatch(/^help: \S/);
      }
    };
    await Promise.all([worker(), worker(), worker()]);
    expect(await everything()).toBe(before);
  });

  it("folders without a usable file, with a warning for each", async () => {
    const before = await everything();
    for (const [option, folder, files] of [
      ["--train", "text", 1],
      ["--masks", "uniform", 2],
    ] as const) {
      // prettier-ignore
      const { code, stderr } = await train(...base, "--no-vgg", option, folder);
      expect(code, stderr).toBe(2);
      expect(stderr.match(/^warning: skipped /gm)).toHaveLength(files);
      expect(stderr).toMatch(
        new RegExp(`^${folder}: expected at least one usable file, got ${files} that cannot be used\nhelp: .*\n$`, "m"),
      );
    }
    expect(await everything()).toBe(before);
  });

  it("a resumed run whose files were edited or damaged", async () => {
    const edits: [file: string, edit: (text: string) => string, first: RegExp][] = [
      [
        "config.json",
        (t) => t.replace('"width": 0.1', '"width": "thin"'),
        /config.json: expected "width" to be a number above 0 and up to 8, got "thin"/,
      ],
      ["config.json", (t) => t.replace('"seed"', '"sead"'), /config.json: expected only known keys, got "sead"/],
      [
        "config.json",
        (t) => t.replace('"width": 0.1', '"width": 0.3'),
        /given: expected a network of 20, 40, 76 channels/,
      ],
      ["config.json", () => "[1", /config.json: expected a JSON object/],
      [
        join(stepName(2), "state.json"),
        () => "{}",
        /state.json: expected "step" to be an integer of at least 0, got nothing/,
      ],
      [join(stepName(2), "optimizer.safetensors"), (t) => t.slice(0, 1000), /optimizer.safetensors: expected a header/],
    ];
    for (const [file, edit, first] of edits) {
      const original = await readFile(at("given", file));
      await writeFile(at("given", file), Buffer.from(edit(original.toString("latin1")), "latin1"));
      const before = await everything();
      const { code, stderr } = await train("--resume", "--out", "given", "--steps", "3");
      expect(code, stderr).toBe(2);
      expect(stderr.split("\n")).toHaveLength(3);
      expect(stderr).toMatch(first);
      expect(await everything()).toBe(before);
      await writeFile(at("given", file), original);
    }
    await writeFile(
      at("given", "log.jsonl"),
      `null\nwritten by hand\n${await readFile(at("given", "log.jsonl"), "utf8")}{"step":3,"ep`,
    );
    const { code, stderr } = await train("--resume", "--out", "given", "--steps", "3");
    expect(code, stderr).toBe(0);
    expect(stderr).toContain("dropped 2 lines");
    expect((await logLines("given")).map((line) => line["step"])).toEqual([1, 2, 3]);
  });
});
