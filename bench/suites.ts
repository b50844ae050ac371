/** What `pconv-bench` can run, as tasks with costs: the command only chooses among them and shows how far it is. */
import type { Gpu } from "../src/gpu/gpu.js";
import { openGpu } from "../src/gpu/node.js";
import { profile } from "../src/gpu/timing.js";
import type { ConvBackend } from "../src/kernels/conv/backend.js";
import type { TuneOptions } from "../src/kernels/conv/tuning.js";
import { compileTimes } from "./compile.js";
import { blank, countOperations, failed, judge, measureGroup, type Subject } from "./measure.js";
import { makeNetwork, NETWORK_MAX_ERROR, type NetworkCase } from "./network.js";
import type { Output } from "./output.js";
import type { Peaks } from "./peak.js";
import { PEERS, PeerProcess } from "./peerProcess.js";
import { comparePeers, type Comparison, geometricMean, peerMeans, summarizePeers } from "./peerSuite.js";
import { choose, type Choice, type Group } from "./plan.js";
import { compileRow, networkRow, profileRow, tableHeader } from "./report.js";
import { alternate } from "./sampling.js";
import { multiplications, REAL_SHAPES, SHAPES } from "./shapes.js";
import { type Case, type Pass, PASSES } from "./workload.js";

/** What all tasks share. */
export interface Bench {
  readonly gpu: Gpu;
  readonly peaks: Peaks;
  readonly repeat?: number | undefined;
  readonly out: Output;
  /** How convolutions are tuned before they are timed; a backend that was asked for is not. */
  readonly tuning: TuneOptions;
}

export interface Task {
  /** For the progress line. */
  readonly name: string;
  /** Rough seconds on a slow adapter; only the ETA depends on it. */
  readonly cost: number;
  run(bench: Bench): Promise<void>;
}

/** Multiply-adds a second that a software adapter of two cores does, in convolutions and in others' convolutions. */
const SLOW_RATE = 5e9;
const SLOW_PEER_RATE = 0.4e9;

const caseCost = (c: Case): number => 0.5 + (c.pass && c.kernel.startsWith("pconv") ? Math.max(1, (4 * multiplications(c.layer)) / SLOW_RATE) : 0); // prettier-ignore

/** Partial over plain, by pass and hole share: geometric means over the shapes that were measured. */
function holesTask(): Task {
  const run = async ({ out }: Bench) => {
    const related = out.measured.filter((m) => m.toPlain !== undefined);
    const means = [...new Set(related.map((m) => m.pass))].flatMap((pass) =>
      [...new Set(related.map((m) => m.holes))].map((holes) => {
        const of = related.filter((m) => m.pass === pass && m.holes === holes);
        return { pass, holes, toPlain: geometricMean(of.map((m) => m.toPlain!)), shapes: of.map((m) => m.shape) };
      }),
    );
    out.words("", "partial over plain, geometric means over the shapes:");
    for (const { pass, holes, toPlain, shapes } of means) {
      const words = `  ${pass!.padEnd(8)} holes ${100 * holes!} %: ${toPlain?.toFixed(3)} (${shapes.join(", ")})`;
      out.summary({ summary: "toPlain", pass, holes, geometricMean: toPlain, shapes }, words);
    }
  };
  return { name: "ratios", cost: 0.1, run };
}

/** Kernels over shapes or layers. */
export function kernelTasks(choice: Choice): Task[] {
  const groups = choose(choice);
  const shapes = [...new Set(groups.map(([c]) => c.shape))];
  const measure = groups.map((group: Group, i): Task => {
    const [{ kernel, shape, pass }] = group;
    return {
      name: `${kernel} ${shape} ${pass}`,
      cost: group.reduce((sum, c) => sum + caseCost(c), 0),
      run: async ({ gpu, peaks, repeat, out, tuning: found }) => {
        const tuning = choice.backend === undefined ? found : undefined;
        if (i === 0) out.words(tableHeader(shapes));
        else if (groups[i - 1][0].shape !== shape) gpu.trim(); // buffers of the last shape fit no other
        for (const line of await measureGroup(gpu, group, peaks, { repeat, tuning })) out.line(line);
      },
    };
  });
  return choice.holes ? [...measure, holesTask()] : measure;
}

/** Ours against the peers, plain convolutions; `folder` is where they are installed. */
export function peerTasks(
  folder: string,
  choice: {
    readonly shape?: string | undefined;
    readonly pass?: string | undefined;
    readonly backend?: ConvBackend | undefined;
  },
): Task[] {
  const shapes = choice.shape === undefined ? REAL_SHAPES : [choice.shape];
  const passes = PASSES.filter((pass) => choice.pass === undefined || choice.pass === pass);
  const comparisons: Comparison[] = [];
  let peers: Parameters<typeof comparePeers>[2] = [];

  const start: Task = {
    name: "starting the peers",
    cost: 5,
    run: async ({ out }) => {
      const processes = PEERS.map((peer) => new PeerProcess(peer, folder));
      peers = await Promise.all(
        processes.map(async (process) => ({
          process,
          identity: await process.open().catch((e: unknown) => e as Error),
        })),
      );
      out.words("", "peers (plain convolution without bias, the same operands, in turns):");
      for (const { process, identity } of peers) {
        const { impl } = process.peer;
        if (identity instanceof Error) out.words(`  ${impl}: did not start: ${identity.message}`);
        else out.words(`  ${impl} ${identity.version} on ${identity.adapter ?? "an adapter that it does not name"}`);
      }
      out.words(tableHeader(shapes));
    },
  };
  const pairs = shapes.flatMap((shape) => passes.map((pass): [string, Pass] => [shape, pass]));
  const compare = pairs.map(([shape, pass]): Task => {
    const layer = SHAPES.get(shape)!;
    return {
      name: `peers ${shape} ${pass}`,
      cost: 5 + (pass === "dw" ? 5 : 12) * (multiplications(layer) / SLOW_PEER_RATE / (pass === "dw" ? 1 : 4)),
      run: async ({ gpu, peaks, repeat, out, tuning: found }) => {
        const tuning = choice.backend === undefined ? found : undefined;
        const comparison = await comparePeers(gpu, { shape, layer, pass, backend: choice.backend }, peers, peaks, {
          repeat,
          tuning,
        });
        comparisons.push(comparison);
        for (const line of comparison.lines) out.line(line);
        const { fastest } = comparison;
        if (fastest) out.words(`  ${shape} ${pass}: ${fastest.ratio.toFixed(2)}x the fastest peer, ${fastest.impl}`);
      },
    };
  });
  const end: Task = {
    name: "ratios",
    cost: 0.1,
    run: async ({ out }) => {
      for (const { process } of peers) process.close();
      for (const mean of peerMeans(comparisons, REAL_SHAPES)) out.summary({ summary: "overFastestPeer", ...mean });
      out.words(...summarizePeers(comparisons, REAL_SHAPES));
    },
  };
  return [start, ...compare, end];
}

const nameOf = (o: NetworkCase) =>
  `${o.size}x${o.size} n${o.batch} w${o.width} d${o.depth}${o.pass === "step" ? (o.vgg === null ? " no-vgg" : " vgg") : ""}`;

/** One network: time, check, floor, memory; on a device of its own, so that its peak is its own. */
function networkTask(o: NetworkCase, seen: (microsecondsPerPixel: number) => void = () => undefined): Task {
  const relative = o.batch * (o.size / 256) ** 2 * o.width ** 2;
  return {
    name: `U-Net ${o.pass} ${nameOf(o)}`,
    cost: 2 + relative * (o.pass === "forward" ? 8 : o.vgg === null ? 40 : 120),
    run: async ({ peaks, repeat, out, tuning }) => {
      const gpu = await openGpu();
      const subject: Subject = { kernel: "unet", shape: nameOf(o), pass: o.pass, holes: o.holes };
      try {
        const network = await makeNetwork(gpu, o, tuning);
        const [times] = await alternate([network], repeat);
        if (times instanceof Error) throw times;
        const peakBytes = gpu.memory().peak;
        const counted = await countOperations(gpu, () => network.run());
        const check = await network.check();
        // A network's check has a tolerance of its own; within it, it counts as right.
        const right = check.maxError <= NETWORK_MAX_ERROR[o.pass];
        const line = judge(subject, { flops: network.flops, bytes: 0 }, times, right ? { ...check, maxError: 0 } : check, peaks, gpu.adapter.name); // prettier-ignore
        const microsecondsPerPixel = (times.medianMs * 1000) / (o.batch * o.size * o.size);
        const floorMs = network.flops.needed / peaks.gflops / 1e6;
        if (line.error === undefined) seen(microsecondsPerPixel);
        const none = { gigabytesPerSecond: null, shareOfCopy: null, speedUp: null };
        const maxError = Number.isNaN(check.maxError) ? null : check.maxError;
        const more = { maxError, peakBytes, floorMs, overFloor: times.medianMs / floorMs, microsecondsPerPixel };
        out.line({ ...line, ...none, ...counted, ...more }, networkRow);
        await network.free();
      } catch (error) {
        out.line(failed(subject, gpu.adapter.name, `failed: ${(error as Error).message}`), networkRow);
      } finally {
        gpu.close();
      }
    },
  };
}

export interface NetworkChoice {
  readonly width: number;
  readonly depth: number;
  readonly stepSize: number;
  readonly vggPath?: string | undefined;
}

const HOLES = 0.25;

const heading = (...lines: string[]): Task => ({ name: lines[0], cost: 0.01, run: async ({ out }) => out.words("", ...lines) }); // prettier-ignore

/** The U-Net forward at 512x512 and a training step with VGG. */
export function networkTasks({ width, depth, stepSize, vggPath }: NetworkChoice): Task[] {
  const vgg = vggPath === undefined ? "random" : { path: vggPath };
  const common = { batch: 1, width, depth, holes: HOLES };
  return [
    heading(
      "whole network, a centre hole of 25 %. floor: needed operations at the FMA peak. The check of forward: what stands in",
      "holes changes nothing; of a step: the loss along its gradient against the gradient's length, by differences.",
    ),
    networkTask({ ...common, size: 512, pass: "forward", vgg: null }),
    networkTask({ ...common, size: stepSize, pass: "step", vgg }),
  ];
}

export const SWEEP_SIZES = [128, 256, 512, 1024];
export const SWEEP_BATCHES = [1, 2, 4, 8];

/** Time per pixel over sizes and batches, forward and step. */
export function sweepTasks({ width, depth, vggPath }: Omit<NetworkChoice, "stepSize">): Task[] {
  const common = { width, depth, holes: HOLES };
  const vgg = vggPath === undefined ? null : { path: vggPath };
  const cases = [
    ...SWEEP_SIZES.map((size) => ({ size, batch: 1 })),
    ...SWEEP_BATCHES.slice(1).map((batch) => ({ size: SWEEP_SIZES[0], batch })),
  ];
  return [
    heading("cost over size and batch"),
    ...(["forward", "step"] as const).flatMap((pass) => {
      const costs: number[] = [];
      const end: Task = {
        name: "flatness",
        cost: 0.01,
        run: async ({ out }) => {
          const ratio = costs.length > 1 ? Math.max(...costs) / Math.min(...costs) : null;
          const words = `  ${pass}: largest over smallest time per pixel ${ratio === null ? "-" : ratio.toFixed(2)}`;
          out.summary({ summary: "timePerPixel", pass, largestOverSmallest: ratio }, words);
        },
      };
      return [...cases.map((c) => networkTask({ ...common, ...c, pass, vgg }, (us) => costs.push(us))), end];
    }),
  ];
}

/** First runs of every kernel, without the driver's cache. */
export function compileTasks(): Task[] {
  const run = async ({ gpu, out }: Bench) => {
    out.words(
      "",
      "compile times, the driver's cache off: first run less second, of what no row above had made",
      compileRow(),
    );
    await compileTimes(({ kernel, pass, holes, compileMs, kernels }) => {
      const line = blank({ kernel, shape: null, pass: `compile ${pass}`, holes }, gpu.adapter.name);
      out.line({ ...line, medianMs: compileMs, minMs: compileMs, count: kernels.length }, () =>
        compileRow(kernel, pass, holes, compileMs, kernels),
      );
    });
  };
  return [{ name: "compile times", cost: 60, run }];
}

/** Where a training step's time goes. */
export function profileTasks({ width, depth, stepSize, vggPath }: NetworkChoice): Task[] {
  const vgg = vggPath === undefined ? ("random" as const) : { path: vggPath };
  const o: NetworkCase = { size: stepSize, batch: 1, width, depth, holes: HOLES, pass: "step", vgg };
  const run = async ({ out, tuning }: Bench) => {
    const gpu = await openGpu();
    try {
      const network = await makeNetwork(gpu, o, tuning);
      await network.run(); // compiles
      const { kernels, deviceMs, wallMs } = await profile(gpu, () => network.run());
      const by = deviceMs === null ? "this adapter has no timestamps: dispatches only" : `${deviceMs.toFixed(1)} ms on the device`; // prettier-ignore
      out.words("", `a training step of ${nameOf(o)}: ${wallMs.toFixed(1)} ms, ${by}`, profileRow());
      for (const k of kernels) {
        const share = k.ms === null || deviceMs === null ? undefined : k.ms / deviceMs;
        const line = blank({ kernel: k.kernel, shape: nameOf(o), pass: "profile", holes: o.holes }, gpu.adapter.name);
        const more = { medianMs: k.ms, minMs: k.ms, count: k.count, ...(share === undefined ? {} : { share }) };
        out.line({ ...line, ...more }, () => profileRow(k, share));
      }
      await network.free();
    } finally {
      gpu.close();
    }
  };
  return [{ name: "profile of a training step", cost: 150, run }];
}
