#!/usr/bin/env node
/** `pconv-bench`: how fast the kernels are on this adapter, against its own limits, and whether they are right. */
import { Command } from "commander";
import { measure } from "../bench/measure.js";
import { measurePeaks } from "../bench/peak.js";
import { choose, type Choice, KERNELS } from "../bench/plan.js";
import { header, peakLines, tableRow } from "../bench/report.js";
import { describeShape, multiplications, SHAPES } from "../bench/shapes.js";
import { type Case, PASSES, VARIANTS } from "../bench/workload.js";
import { openGpu } from "../src/gpu/node.js";
import { integer, runCommand } from "./command.js";
import { Progress } from "./progress.js";

interface Options extends Choice {
  readonly repeat?: number;
  readonly json?: true;
}

/** Rough seconds of a case on a slow adapter: drawing and checking, and a few passes. Only the ETA depends on it. */
const cost = (c: Case): number =>
  0.7 + (c.variant === null ? 0 : multiplications(c.layer) / (c.variant === "simple" ? 0.15e9 : 0.6e9));
const PEAK_COST = 5;

const command = new Command("pconv-bench")
  .description(
    "Measures the kernels on this adapter: time, GFLOP/s, shares of the multiply-add peak and copy bandwidth that are " +
      "measured in the same run, and the largest error against the float64 reference on fresh inputs after the timing.",
  )
  .option("--kernel <name>", `one kernel: ${KERNELS.join(", ")}`)
  .option("--shape <name>", `one shape: ${[...SHAPES.keys()].join(", ")}`)
  .option("--pass <name>", `one pass: ${PASSES.join(", ")}`)
  .option("--variant <name>", `version of the convolution kernels: ${VARIANTS.join(", ")} (default: tile)`)
  .option("--repeat <n>", "samples per case (default: 3 to 25, fewer where they take seconds)", integer(1))
  .option("--json", "one JSON line per measurement on stdout, the peaks first")
  .option("--debug", "show stack traces")
  .addHelpText(
    "after",
    `
Shapes:
${[...SHAPES].map(([name, s]) => `  ${name.padEnd(6)} ${describeShape(s)}`).join("\n")}

JSON fields: kernel, shape, pass, impl ("ours"), variant, holes (share 0..1 of a partial convolution, null for the plain
one), medianMs, minMs, gflops, shareOfPeak, gigabytesPerSecond, shareOfCopy, maxError (relative to the largest entry),
checked and entries (how many of how many were compared), speedUp (over the CPU reference, whose time is scaled up from
the checked entries), adapter, and error where the measurement was rejected.

Exit status: 0, 1 when a result is wrong or faster than the adapter can compute, 2 for wrong options or no adapter.
Close other programs first: whatever else runs makes the numbers worse.`,
  )
  .action(run);

async function run(options: Options): Promise<void> {
  const cases = choose(options);
  const gpu = await openGpu();
  try {
    const costs = cases.map(cost);
    const progress = new Progress(costs.reduce((a, b) => a + b, PEAK_COST));
    let rejected = 0;
    try {
      progress.at("the adapter's peaks");
      const peaks = await measurePeaks(gpu);
      progress.advance(PEAK_COST);
      const shapes = [...new Set(cases.map((c) => c.shape))];
      if (options.json) for (const line of peakLines(gpu.adapter.name, peaks)) progress.print(JSON.stringify(line));
      else progress.print(header(gpu.adapter.name, peaks, shapes));
      for (const [i, c] of cases.entries()) {
        progress.at(`${c.kernel} ${c.shape} ${c.pass}`);
        if (i > 0 && cases[i - 1].shape !== c.shape) gpu.trim(); // buffers of the last shape fit no other
        const line = await measure(gpu, c, peaks, options.repeat);
        if (line.error !== undefined) rejected++;
        progress.print(options.json ? JSON.stringify(line) : tableRow(line));
        progress.advance(costs[i]);
      }
    } finally {
      progress.stop();
    }
    if (rejected > 0) {
      console.error(`${rejected} of ${cases.length} measurements were rejected; their lines say why`);
      process.exitCode = 1;
    }
  } finally {
    gpu.close();
  }
}

await runCommand(command);
