#!/usr/bin/env node
/** `npm run ablations`: what parts of the method are worth, on equal numbers of pictures; the numbers of docs/ablations.md. */
import { execFile } from "node:child_process";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Command } from "commander";
import { writeDrawing } from "../../bench/drawing.js";
import { lineChart } from "../../guides/chart.js";
import { UserError } from "../../src/errors.js";
import type { BinQuality } from "../../src/pconv/evaluate.js";
import { integer, runCommand } from "../command.js";
import { lastCheckpoint, trainPhase } from "./phase.js";

interface Options {
  readonly photos: string;
  readonly masks: string;
  readonly testPhotos: string;
  readonly testMasks: string;
  readonly vggPath: string;
  readonly steps: number;
  readonly limit?: number;
  readonly out: string;
}

/** Small pictures at the scale of the evaluation: a run takes minutes on two cores. */
const COMMON = [
  ...["--image-size", "64", "--min-crop", "0.25", "--batch-size", "8", "--depth", "6", "--drawn-masks", "0.5"],
  ...["--lr", "2e-3", "--lr-schedule", "cosine", "--lr-warmup", "50", "--ema", "0.99", "--clip-grad-norm", "1"],
  ...["--log-every", "20"],
] as const;

/** What sets a run apart; the first is what the others are compared with, the second shows what chance alone does. */
const VARIANTS: readonly { readonly name: string; readonly what: string; readonly options: readonly string[] }[] = [
  { name: "base", what: "ratio, batch norm over valid pixels, no VGG terms, width 0.25", options: [] },
  { name: "seed", what: "the same with another seed", options: ["--seed", "2"] },
  { name: "no-ratio", what: "without the ratio sum(1)/sum(M)", options: ["--no-ratio"] },
  { name: "bn-all", what: "batch norm over all pixels", options: ["--bn-statistics", "all"] },
  { name: "width-0.125", what: "half as wide", options: ["--width", "0.125"] },
  { name: "width-0.5", what: "twice as wide", options: ["--width", "0.5"] },
  { name: "harmonic", what: "added to a smooth interpolation", options: ["--base", "harmonic"] },
  { name: "vgg", what: "with the perceptual and style terms", options: ["--vgg"] },
];

interface Measured {
  readonly name: string;
  readonly what: string;
  readonly bins: readonly BinQuality[];
}

const PCONV = fileURLToPath(new URL("../pconv.js", import.meta.url));

/** Evaluates a run, once: the answer is kept in its folder. */
async function measure(run: string, o: Options): Promise<BinQuality[]> {
  const path = join(run, "evaluation.json");
  if (!(await stat(path).catch(() => null))) {
    const options = [
      "--images",
      o.testPhotos,
      "--masks",
      o.testMasks,
      "--weights",
      await lastCheckpoint(run),
      "--json",
    ];
    const limit = o.limit === undefined ? [] : ["--limit", String(o.limit)];
    const { stdout } = await promisify(execFile)(process.execPath, [PCONV, "evaluate", ...options, ...limit]).catch(
      (cause: unknown) => {
        throw new UserError(run, `expected pconv evaluate to finish, got ${String(cause)}`, "see above", { cause });
      },
    );
    await writeFile(path, stdout);
  }
  return (JSON.parse(await readFile(path, "utf8")) as { bins: BinQuality[] }).bins;
}

function table(measured: readonly Measured[]): string {
  const names = measured[0].bins.map(({ bin }) => bin);
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const rows = measured.map(({ what, bins }) =>
    line([what, ...bins.map(({ psnr, ssim }) => `${psnr?.toFixed(2)} / ${ssim?.toFixed(4)}`)]),
  );
  return [line(["PSNR, dB / SSIM by hole ratio", ...names]), line(["---", ...names.map(() => "---")]), ...rows].join(
    "\n",
  );
}

/** PSNR of each variant less that of the first, over the bins. */
function chart([base, ...others]: readonly Measured[]): string {
  const middle = (bin: string) => bin.split("-").reduce((sum, v) => sum + Number(v) / 2, 0);
  const series = others.map(({ name, bins }) => ({
    name,
    points: bins.map(({ bin, psnr }, i): [number, number] => [middle(bin), (psnr ?? NaN) - (base.bins[i].psnr ?? NaN)]),
  }));
  return lineChart({ title: "PSNR against the base run", x: "hole ratio", y: "dB" }, series);
}

async function run(o: Options): Promise<void> {
  await mkdir(o.out, { recursive: true });
  const measured: Measured[] = [];
  for (const { name, what, options } of VARIANTS) {
    const folder = join(o.out, name);
    const vgg = options.includes("--vgg");
    const width = options.includes("--width") ? [] : ["--width", "0.25"];
    console.error(`${name}: ${what}`);
    await trainPhase(folder, [
      ...["--train", o.photos, "--masks", o.masks, "--steps", String(o.steps), "--save-every", String(o.steps)],
      ...(vgg ? ["--vgg-path", o.vggPath] : ["--no-vgg"]),
      ...[...COMMON, ...width, ...options.filter((option) => option !== "--vgg")],
    ]);
    measured.push({ name, what, bins: await measure(folder, o) });
  }
  await writeFile(join(o.out, "ablations.json"), `${JSON.stringify(measured)}\n`);
  await writeDrawing(join(o.out, "ablations.png"), chart(measured));
  console.log(table(measured));
  console.log(`chart: ${join(o.out, "ablations.png")}`);
}

const command = new Command("ablations")
  .description(
    "Trains small networks that differ in one thing each, evaluates them, and writes a table and a chart. Goes on where it was stopped.",
  )
  .requiredOption("--photos <dir>", "folder of training photos")
  .requiredOption("--masks <dir>", "folder of training masks, white = hole")
  .requiredOption("--test-photos <dir>", "folder of photos to evaluate on")
  .requiredOption("--test-masks <dir>", "folder of masks to evaluate with, white = hole")
  .requiredOption("--vgg-path <file>", "VGG16 or VGG19 weights, or auto")
  .option("--steps <n>", "of each run", integer(1), 600)
  .option("--limit <n>", "only the first n photos of the evaluation", integer(1))
  .option("--out <dir>", "folder of the runs", "runs/ablations")
  .option("--debug", "show stack traces")
  .action(run);

await runCommand(command);
