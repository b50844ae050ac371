#!/usr/bin/env node
/** `npm run scale`: measures training on a few ranks of this machine, and predicts many ranks on named networks. */
import { spawn } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { Command, InvalidArgumentError } from "commander";
import { UserError } from "../../src/errors.js";
import { openGpu } from "../../src/gpu/node.js";
import { MpiGroup } from "../../src/io/mpi/group.js";
import { above, integer, runCommand } from "../../tools/command.js";
import { Progress } from "../../tools/progress.js";
import { writeDrawing } from "../drawing.js";
import { type Case, type Figures, measure } from "./measure.js";
import { allReduceSeconds, fitLink, INTERCONNECTS, networkStep, predict, type Reduction } from "./model.js";
import { RANKS, scalingSvg, SIZE, STEP_SECONDS } from "./plot.js";

/** Between device and host, each way: what PCIe 4.0 x16 (32 GB/s nominal) leaves after copies. An assumption, not measured here. */
const HOST_BYTES_PER_SECOND = 12e9;
const ALONE = 0;

interface Options extends Omit<Case, "linkBytesPerSecond"> {
  readonly measure?: true;
  readonly link?: number;
  readonly ranks: readonly number[];
  readonly repeat: number;
  readonly launcher: string;
  readonly out?: string;
  readonly from?: string;
  readonly plot?: string;
}

function rankList(text: string): number[] {
  const ranks = text.split(",").map((part) => (part === "none" ? ALONE : Number(part)));
  if (ranks.some((n) => !Number.isInteger(n) || n < 0))
    throw new InvalidArgumentError(`expected numbers such as none,1,2,4, got ${text}`);
  return ranks;
}

const command = new Command("scale")
  .description(
    "Measures the steps of a small network and MPI's sums on some ranks of this machine, and predicts the paper's network on 2 to 512 " +
      "ranks from nominal figures of networks. Ranks that share a processor also share its speed: what counts here is the share " +
      "of the exchange that is hidden, not the step's time.",
  )
  .option("--ranks <list>", "numbers of ranks to measure; none is a start without the launcher", rankList, [
    ALONE,
    1,
    2,
    4,
  ])
  .option("--repeat <n>", "measure each so often, in turns; the median counts", integer(1), 1)
  .option("--launcher <command>", "what starts ranks, with its options", "mpirun --bind-to none")
  .option("--image-size <pixels>", "side of the pictures", integer(8), 64)
  .option("--width <factor>", "of the network", above(0, 8), 0.25)
  .option("--depth <levels>", "of the network", integer(1, 12), 5)
  .option("--batch-size <images>", "on each rank", integer(1), 1)
  .option("--steps <n>", "steps that are measured", integer(1), 20)
  .option(
    "--link <MB/s>",
    "let sums take as long as over a link of so many MB/s, without using the processor",
    above(0),
  )
  .option("--out <file>", "keep the measurements as JSON lines")
  .option("--from <file>", "use these instead of measuring")
  .option("--plot <file>", "draw the predictions, as .svg or .png")
  .option("--measure", "as one of the ranks that a launcher has started: measure, and print one line of JSON")
  .option("--debug", "show stack traces")
  .action((o: Options) => (o.measure ? measureHere(o) : run(o)));

async function measureHere({ imageSize, width, depth, batchSize, steps, link }: Options): Promise<void> {
  const group = await MpiGroup.join();
  const gpu = await openGpu();
  const figures = await measure(gpu, group, {
    imageSize,
    width,
    depth,
    batchSize,
    steps,
    linkBytesPerSecond: link === undefined ? null : link * 1e6,
  });
  if ((group?.rank ?? 0) === 0) console.log(JSON.stringify(figures));
  await group?.leave();
  gpu.close();
}

/** Starts this program on some ranks, and reads the line of the first. */
async function started(ranks: number, o: Options): Promise<Figures> {
  const own = [process.execPath, fileURLToPath(import.meta.url), "--measure"];
  for (const name of ["image-size", "width", "depth", "batch-size", "steps"] as const) {
    const key = name.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase()) as keyof Options;
    own.push(`--${name}`, String(o[key]));
  }
  if (o.link !== undefined) own.push("--link", String(o.link));
  const [program, ...args] = ranks === ALONE ? own : [...o.launcher.split(/\s+/), "-n", String(ranks), ...own];
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", (cause) =>
      reject(new UserError("--launcher", `expected a program that starts, got ${cause.message}`, "install MPI, such as Debian's openmpi-bin, or name its mpirun")),
    ); // prettier-ignore
    child.on("close", resolve);
  });
  const line = stdout.split("\n").find((text) => text.startsWith("{"));
  if (code === 0 && line !== undefined) return JSON.parse(line) as Figures;
  const last = stderr.trim().split("\n").slice(-4).join("\n");
  throw new UserError(
    `${program} on ${ranks} ranks`,
    `expected measurements, got status ${code}: ${last}`,
    "see what it says above",
  );
}

async function measured(o: Options): Promise<{ launched: number; figures: Figures }[]> {
  const all: { launched: number; figures: Figures }[] = [];
  const progress = new Progress(o.repeat * o.ranks.length);
  try {
    for (let i = 0; i < o.repeat; i++) {
      for (const launched of o.ranks) {
        progress.at(launched === ALONE ? "alone" : `${launched} ranks`);
        all.push({ launched, figures: await started(launched, o) });
        progress.advance(1);
      }
    }
  } finally {
    progress.stop();
  }
  return all;
}

async function run(o: Options): Promise<void> {
  const lines =
    o.from === undefined
      ? await measured(o)
      : (await readFile(o.from, "utf8"))
          .trim()
          .split("\n")
          .map((line) => JSON.parse(line) as { launched: number; figures: Figures });
  if (o.out !== undefined) await writeFile(o.out, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  report(lines);
  if (o.plot !== undefined) await writeDrawing(o.plot, scalingSvg(HOST_BYTES_PER_SECOND));
}

const ms = (value: number): string => value.toFixed(1).padStart(8);
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1];

function report(lines: readonly { launched: number; figures: Figures }[]): void {
  const { adapter, cores, imageSize, width, depth, batchSize, parameterBytes } = lines[0].figures;
  const library = lines.find(({ figures }) => figures.library !== null)?.figures.library ?? "no MPI";
  console.log(`${adapter}, ${cores} cores; ${library}`);
  console.log(`U-Net of width ${width} and ${depth} levels at ${imageSize}x${imageSize}, batch ${batchSize}, ${(parameterBytes / 1e6).toFixed(2)} MB of gradients`); // prettier-ignore
  console.log("ranks    step ms, one bucket   buckets   sums ms   device waits   hidden");
  const of = (launched: number) => lines.filter((line) => line.launched === launched).map(({ figures }) => figures);
  for (const launched of [...new Set(lines.map((line) => line.launched))]) {
    const some = of(launched);
    const whole = median(some.map((f) => f.whole.stepMs));
    const name = (launched === ALONE ? "none" : String(launched)).padEnd(8);
    const parts = some.flatMap(({ overlapped }) => overlapped ?? []);
    if (parts.length === 0) {
      console.log(`${name} ${ms(whole).padStart(20)}`);
      continue;
    }
    const [step, reducing, waiting] = (["stepMs", "reducingMs", "waitingMs"] as const).map((key) => median(parts.map((p) => p[key]))); // prettier-ignore
    const hidden = `${Math.round(100 * Math.max(0, 1 - waiting / reducing))} %`;
    console.log(`${name} ${ms(whole).padStart(20)}  ${ms(step)}  ${ms(reducing)}       ${ms(waiting)}   ${hidden.padStart(6)}`); // prettier-ignore
  }
  reportOverhead(of(ALONE), of(1));
  reportSums(lines.map(({ figures }) => figures));
  reportPredictions();
}

/** What a launcher costs a single rank, by the median and by the fastest of all steps. */
function reportOverhead(alone: readonly Figures[], one: readonly Figures[]): void {
  if (alone.length === 0 || one.length === 0) return;
  const more = (of: (figures: readonly Figures[]) => number) => (100 * (of(one) / of(alone) - 1)).toFixed(1);
  const middle = more((figures) => median(figures.map((f) => f.whole.stepMs)));
  const fastestStep = more((figures) => Math.min(...figures.map((f) => f.whole.fastestMs)));
  console.log(`one rank under the launcher against none: median step ${middle} %, fastest step ${fastestStep} %`);
}

/** Of repeated measurements, each message's fastest. */
const fastest = (repeats: readonly Figures[]): Reduction[] =>
  repeats[0].reductions.map(({ bytes }, i) => ({ bytes, seconds: Math.min(...repeats.map((f) => f.reductions[i].seconds)) })); // prettier-ignore

/** The fit to the fewest ranks, and how well it tells what more ranks take. */
function reportSums(all: readonly Figures[]): void {
  const numbers = [...new Set(all.filter(({ reductions }) => reductions.length > 0).map(({ ranks }) => ranks))].sort((a, b) => a - b); // prettier-ignore
  const some = numbers.map((ranks) => ({ ranks, reductions: fastest(all.filter((f) => f.ranks === ranks)) }));
  if (some.length === 0) return;
  const link = fitLink(some[0].ranks, some[0].reductions);
  console.log(`fit to ${some[0].ranks} ranks: latency ${(1e6 * link.latencySeconds).toFixed(0)} us, ${(link.bytesPerSecond / 1e9).toFixed(2)} GB/s`); // prettier-ignore
  console.log("bytes        ranks   measured ms   the fit says");
  for (const { ranks, reductions } of some) {
    for (const { bytes, seconds } of reductions) {
      console.log(`${String(bytes).padEnd(12)} ${String(ranks).padStart(5)}  ${(1e3 * seconds).toFixed(3).padStart(12)}   ${(1e3 * allReduceSeconds(ranks, bytes, link)).toFixed(3).padStart(12)}`); // prettier-ignore
    }
  }
}

function reportPredictions(): void {
  console.log(`predicted efficiency in percent, the paper's network at ${SIZE}x${SIZE}, by ranks:`);
  console.log(`step ms  ${RANKS.map((n) => String(n).padStart(4)).join("")}`);
  for (const link of INTERCONNECTS) {
    console.log(`${link.name} (${link.source})`);
    for (const seconds of STEP_SECONDS) {
      const step = networkStep(seconds, SIZE);
      const row = RANKS.map((n) => String(Math.round(100 * predict(step, n, link, HOST_BYTES_PER_SECOND).efficiency)).padStart(4)); // prettier-ignore
      console.log(`${String(1000 * seconds).padEnd(8)} ${row.join("")}`);
    }
  }
}

await runCommand(command);
