/** What pconv-train refuses, and that it writes nothing then. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import {
  at,
  everything,
  finish,
  logLines,
  SMALL,
  start,
  stepName,
  train,
  useTrainFolder,
} from "../support/trainProgram.js";

useTrainFolder();

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
      /^--image-size: expected an integer from 8 to 16384, got 0$/,
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
      "a factor of no term",
      [...base, "--no-vgg", "--loss-weights", "style=1"],
      /^--loss-weights: expected term=factor with a term of valid, hole, .*, got style=1$/,
    ],
    [
      "a negative factor",
      [...base, "--no-vgg", "--loss-weights", "hole=-1"],
      /^--loss-weights: expected a factor of 0 or above for hole, got -1$/,
    ],
    [
      "a factor of a term that needs VGG",
      [...base, "--no-vgg", "--loss-weights", "hole=2", "styleOut=1"],
      /^--loss-weights: expected factors of terms that the loss has, got one of styleOut, which needs VGG$/,
    ],
    [
      "VGG and no VGG",
      [...base, "--no-vgg", "--vgg-path", "vgg.safetensors"],
      /^--no-vgg: expected only one of .* got both$/,
    ],
    ["neither", base, /^--vgg-path: expected VGG weights for the perceptual and style terms of the loss, got none$/],
    [
      "more steps than can be counted",
      [...SMALL, ...out, "--no-vgg", "--epochs", "9007199254740991"],
      /^--epochs: expected at most 9007199254740991 steps in all, got 9007\d+$/,
    ],
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
      "another name",
      ["--resume", "--out", "given", "--name", "x"],
      /^--name x: expected no --name as the run was started/,
    ],
    [
      "another loss",
      ["--resume", "--out", "given", "--vgg-path", "vgg.safetensors"],
      /^--vgg-path vgg.safetensors: expected --no-vgg/,
    ],
    ["too large", [...base, "--no-vgg", "--image-size", "16384"], /^--image-size: expected images of at most \d+ MiB/],
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
    // Programs that go on with one run get it one after the other: else they would refuse for each other.
    const goingOn = cases.filter(([, args]) => args.includes("--resume"));
    const others = cases.filter((c) => !goingOn.includes(c));
    const worker = async (queue: (typeof cases)[number][]) => {
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
    await Promise.all([worker(goingOn), worker(others), worker(others)]);
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
        /given.step-00000002: expected a network of 20, 40, 76 channels/,
      ],
      ["config.json", () => "[1", /config.json: expected a JSON object/],
      [join(stepName(2), "state.json"), () => "{}", /state.json: expected \d+ bytes as they were written, got 2/],
      [
        join(stepName(2), "optimizer.safetensors"),
        (t) => t.slice(0, -1) + "!",
        /optimizer.safetensors: expected the bytes that were written .*\nhelp: the only checkpoint is damaged/,
      ],
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
