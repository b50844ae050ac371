#!/usr/bin/env node
/** `pconv-bench`: how fast the kernels are on this adapter, against its own limits and others, and whether they are right. */
import { access } from "node:fs/promises";
import { Command, Option } from "commander";
import { Output } from "../bench/output.js";
import { measurePeaks, type Peaks } from "../bench/peak.js";
import { installPeers } from "../bench/peerProcess.js";
import { KERNELS, LAYER_SIZES } from "../bench/plan.js";
import { peakHeader, peakLines } from "../bench/report.js";
import { checkRooflineName, rooflinePoints, writeRoofline } from "../bench/roofline.js";
import { describeShape, SHAPES } from "../bench/shapes.js";
import {
  compileTasks,
  kernelTasks,
  networkTasks,
  peerTasks,
  profileTasks,
  sweepTasks,
  SWEEP_BATCHES,
  SWEEP_SIZES,
  type Task,
} from "../bench/suites.js";
import { PASSES } from "../bench/workload.js";
import { UserError } from "../src/errors.js";
import { openGpu } from "../src/gpu/node.js";
import { tuningFile } from "../src/gpu/tuningFile.js";
import { fileError } from "../src/io/files.js";
import { isUrl } from "../src/io/url.js";
import { availableBackends, CONV_BACKENDS, type ConvBackend } from "../src/kernels/conv/backend.js";
import { above, integer, path, runCommand } from "./command.js";
import { Progress } from "./progress.js";
import { TUNING_HELP } from "./tuning.js";

interface Options {
  readonly kernel?: string;
  readonly shape?: string;
  readonly pass?: string;
  readonly backend?: ConvBackend;
  readonly layers?: true;
  readonly holes?: true;
  readonly peers?: true;
  readonly network?: true;
  readonly sizes?: true;
  readonly compile?: true;
  readonly profile?: true;
  readonly all?: true;
  readonly width?: number;
  readonly depth?: number;
  readonly stepSize?: number;
  readonly vggPath?: string;
  readonly roofline?: string;
  readonly repeat?: number;
  readonly json?: true;
}

const PEAK_COST = 5;
const STEP_SIZE = 256;
/** The sweep is many networks: a narrow one, and one whose depth the smallest size fits. */
const SWEEP = { width: 0.25, depth: 7 };

const command = new Command("pconv-bench")
  .description(
    "Measures this library on this adapter: time, GFLOP/s, shares of the multiply-add peak and copy bandwidth that are " +
      "measured in the same run, and the largest error against the float64 reference on fresh inputs after the timing.",
  )
  .optionsGroup("What to measure (several may be given; the kernels at shapes A to E if none is):")
  .option("--kernel <name>", "one kernel, at all shapes (names below)")
  .option("--layers", `the convolutions of every U-Net layer at ${LAYER_SIZES.join(" and ")} instead of the shapes`)
  .option("--holes", "convolutions only: plain against partial with hole shares of 0, 25 and 50 %, in turns")
  .option("--peers", "plain convolutions against TensorFlow.js, jax-js and onnxruntime, in turns; installs them once")
  .option("--network", "the U-Net forward at 512x512, and a training step with VGG")
  .option(
    "--sizes",
    `time per pixel of U-Net and step (sizes ${SWEEP_SIZES.join(", ")}; batches ${SWEEP_BATCHES.join(", ")})`,
  ) // prettier-ignore
  .option("--compile", "pipeline compile time of every kernel, the driver's cache off")
  .option("--profile", "where the time of a training step goes, by kernel")
  .option("--all", "all of these")
  .optionsGroup("Choosing among them:")
  .option("--shape <name>", "one shape (names below) or layer, such as enc_3@256")
  .addOption(new Option("--pass <name>", "one pass").choices(PASSES))
  .addOption(
    new Option("--backend <name>", "of the convolutions, instead of the one that the library would take").choices(
      CONV_BACKENDS,
    ),
  ) // prettier-ignore
  .option("--width <x>", `of networks (default: 1, with --sizes ${SWEEP.width})`, above(0, 8))
  .option("--depth <n>", `of networks (default: 8, with --sizes ${SWEEP.depth})`, integer(1, 12))
  .option(
    "--step-size <n>",
    `side of the pictures of --network's and --profile's training step (default: ${STEP_SIZE})`,
    integer(32),
  )
  .option(
    "--vgg-path <file>",
    "weights of the loss network (default: random ones; with --sizes: no loss network)",
    path,
  )
  .option("--repeat <n>", "samples per case (default: 3 to 25, fewer where they take seconds)", integer(1))
  .optionsGroup("Output:")
  .option("--roofline <file>", "also draws what was measured under the adapter's roofline, as .svg or .png")
  .option("--json", "one JSON line per measurement on stdout, the peaks first")
  .option("--debug", "show stack traces")
  .addHelpText(
    "after",
    `
Kernels: ${KERNELS.join(", ")}

Shapes:
${[...SHAPES].map(([name, s]) => `  ${name.padEnd(6)} ${describeShape(s)}`).join("\n")}

JSON fields: kernel, shape, pass, impl ("ours" or the peer), holes (share 0..1 of a partial convolution, null for the plain
one), medianMs, minMs, gflops (textbook operations), shareOfPeak (needed operations), textbookGflop, neededGflop,
countedGflop (what the library counted: direct form, whole tiles), executedGflop (less where Winograd's form ran),
gigabytesPerSecond, shareOfCopy, maxError (relative to the largest entry), checked and entries (how many of how many were
compared), speedUp (over the CPU reference, whose time is scaled up from the checked entries), adapter. Where they apply:
toPlain (partial over plain time), overFastestPeer, peakBytes, floorMs, overFloor, microsecondsPerPixel, count, share, and error where
the measurement was rejected. Lines with "summary" hold what follows from several measurements.

${TUNING_HELP}

Exit status: 0, 1 when a result of this library is wrong or faster than the adapter can compute, 2 for wrong options or no
adapter. Peers that fail or are wrong are named, and change nothing. Close other programs first: whatever else runs makes
the numbers worse.`,
  )
  .action(run);

/** Refuses options that nothing of what runs would look at. */
function refuseIdle(o: Options, reads: Readonly<Record<string, boolean | undefined>>): void {
  for (const [name, read] of Object.entries(reads)) {
    const key = name.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase()) as keyof Options;
    if (o[key] === undefined || read) continue;
    const what = "expected something to measure that it applies to, got none";
    throw new UserError(`--${name}`, what, `leave it out, or see pconv-bench --help`);
  }
}

/** What was asked for. */
async function tasksOf(o: Options): Promise<Task[]> {
  const some = o.peers ?? o.network ?? o.sizes ?? o.compile ?? o.profile ?? false;
  const kernels = !some || o.all || o.kernel !== undefined || o.layers || o.holes;
  const convolutions = kernels || o.peers;
  const networks = o.network || o.sizes || o.profile || o.all;
  refuseIdle(o, {
    shape: convolutions,
    pass: convolutions,
    backend: convolutions,
    width: networks,
    depth: networks,
    "vgg-path": networks,
    "step-size": o.network || o.profile || o.all,
    repeat: convolutions || o.network || o.sizes,
  });
  const network = { width: o.width ?? 1, depth: o.depth ?? 8, stepSize: o.stepSize ?? STEP_SIZE, vggPath: o.vggPath };
  const sweep = { width: o.width ?? SWEEP.width, depth: o.depth ?? SWEEP.depth, vggPath: o.vggPath };
  const tasks: Task[] = [];
  if (kernels) tasks.push(...kernelTasks({ ...o, holes: o.holes ?? o.all }));
  if (o.all) tasks.push(...kernelTasks({ ...o, holes: true, layers: true }));
  if (o.peers || o.all) {
    if (o.shape !== undefined && !SHAPES.has(o.shape)) {
      throw new UserError("--peers", `expected one of the shapes ${[...SHAPES.keys()].join(", ")}, got ${o.shape}`, "leave --shape out"); // prettier-ignore
    }
    tasks.push(...peerTasks(await installPeers((line) => console.error(line)), o));
  }
  if (o.network || o.all) tasks.push(...networkTasks(network));
  if (o.sizes || o.all) tasks.push(...sweepTasks(sweep));
  if (o.compile || o.all) tasks.push(...compileTasks());
  if (o.profile || o.all) tasks.push(...profileTasks(network));
  return tasks;
}

async function run(options: Options): Promise<void> {
  if (options.roofline !== undefined) {
    await checkRooflineName(options.roofline);
  }
  const { vggPath } = options;
  if (vggPath !== undefined && vggPath !== "auto" && !isUrl(vggPath)) {
    // Said before anything is measured: a missing file is no measurement that failed.
    await access(vggPath).catch((cause: unknown) => {
      throw fileError(vggPath, "read", cause);
    });
  }
  const tasks = await tasksOf(options);
  const gpu = await openGpu();
  try {
    const available = availableBackends(gpu);
    if (options.backend !== undefined && !available.includes(options.backend)) {
      const what = `expected a backend that ${gpu.adapter.name} can run, got ${options.backend}`;
      throw new UserError("--backend", what, `it can run ${available.join(", ")}`);
    }
    const progress = new Progress(tasks.reduce((sum, task) => sum + task.cost, PEAK_COST));
    const out = new Output(options.json ?? false, (line) => progress.print(line));
    let peaks: Peaks;
    try {
      progress.at("the adapter's peaks");
      peaks = await measurePeaks(gpu);
      progress.advance(PEAK_COST);
      if (options.json) for (const line of peakLines(gpu.adapter.name, peaks)) progress.print(JSON.stringify(line));
      else out.words(peakHeader(gpu.adapter.name, peaks));
      const store = tuningFile(gpu.adapter);
      const onWarning = (message: string) => console.error(`warning: ${message}`);
      for (const task of tasks) {
        progress.at(task.name);
        const onProgress = (done: number, of: number) => progress.at(`${task.name}, tuning ${done} of ${of}`);
        const tuning = { store, onProgress, onWarning };
        await task.run({ gpu, peaks, repeat: options.repeat, out, tuning });
        progress.advance(task.cost);
      }
    } finally {
      progress.stop();
    }
    if (options.roofline !== undefined) {
      const roof = {
        gflops: peaks.gflops,
        gigabytesPerSecond: peaks.copyGigabytesPerSecond,
        adapter: gpu.adapter.name,
      };
      await writeRoofline(options.roofline, roof, rooflinePoints(out.measured));
    }
    const ours = out.measured.filter((m) => m.impl === "ours");
    const rejected = ours.filter((m) => m.error !== undefined).length;
    if (rejected > 0) {
      console.error(`${rejected} of ${ours.length} measurements were rejected; their lines say why`);
      process.exitCode = 1;
    }
  } finally {
    gpu.close();
  }
}

await runCommand(command);
