#!/usr/bin/env node
/** `npm run fuzz`: hands spoilt files to the readers, and counts what they do. For contributors. */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Command, Option } from "commander";
import { printable, UserError } from "../../src/errors.js";
import { wholeMebibytes } from "../../src/mebibytes.js";
import { integer, runCommand } from "../command.js";
import { Progress } from "../progress.js";
import { type CampaignResult, runCampaign } from "./campaign.js";
import type { FuzzFormat, Verdict } from "./case.js";
import { FORMATS } from "./formats.js";
import { Judge, loadCase, makeCase, writeCase } from "./judge.js";

interface Options {
  readonly format: string;
  readonly runs: number;
  readonly seed: number;
  readonly timeout: number;
  readonly memory: number;
  readonly out: string;
  readonly replay?: string;
  readonly json?: true;
}

/** What a kept case says of itself. */
interface Kept {
  readonly format: string;
  readonly seed: number;
  readonly index: number;
}

const ALL = "all";
const CASE = "case.json";

async function run(o: Options): Promise<void> {
  if (o.replay !== undefined) return replay(o.replay);
  const results: CampaignResult[] = [];
  for (const format of FORMATS.filter(({ name }) => o.format === ALL || o.format === name)) {
    results.push(await campaign(format, o));
    if (o.json) console.log(JSON.stringify(results.at(-1)));
  }
  if (!o.json) for (const line of table(results)) console.log(line);
  const failed = results.some(({ faults, leaks }) => faults.length + leaks.length > 0);
  if (failed) process.exitCode = 1;
}

async function campaign(format: FuzzFormat, o: Options): Promise<CampaignResult> {
  const progress = new Progress(o.runs);
  const failed: Verdict[] = [];
  progress.at(format.name);
  try {
    const result = await runCampaign({
      format: format.name,
      seed: o.seed,
      runs: o.runs,
      timeoutMs: 1000 * o.timeout,
      memoryBytes: o.memory * 2 ** 20,
      child: new URL("./child.js", import.meta.url),
      onVerdict: (verdict) => {
        progress.advance(1);
        if (verdict.outcome !== "accepted" && verdict.outcome !== "refused") failed.push(verdict);
      },
    });
    if (failed.length > 0) await format.prepare();
    for (const verdict of failed) {
      const folder = await keep(format, o, verdict);
      console.error(`${format.name} ${verdict.index}: ${verdict.outcome}: ${printable(verdict.detail.split("\n")[0])}`);
      console.error(`  kept: npm run fuzz -- --replay ${folder}`);
    }
    for (const leak of result.leaks) console.error(`${format.name}: leak: ${leak}`);
    return result;
  } finally {
    progress.stop();
    await format.close?.();
  }
}

/** Keeps a case that went wrong, as files to look at and to replay. */
async function keep(format: FuzzFormat, { out, seed }: Options, verdict: Verdict): Promise<string> {
  const folder = join(out, `${format.name}-${seed}-${verdict.index}`);
  await rm(folder, { recursive: true, force: true });
  await writeCase(join(folder, "input"), makeCase(format, seed, verdict.index));
  await mkdir(folder, { recursive: true });
  const kept: Kept & Verdict = { format: format.name, seed, ...verdict };
  await writeFile(join(folder, CASE), `${JSON.stringify(kept, null, 2)}\n`);
  return folder;
}

/** Reads one kept case in this process, where a debugger can be. */
async function replay(folder: string): Promise<void> {
  const text = await readFile(join(folder, CASE), "utf8").catch((cause: unknown) => {
    throw new UserError(folder, `expected a kept case, got no ${CASE}`, "pass a folder of fuzz-failures/", { cause });
  });
  const { format: name, seed, index } = JSON.parse(text) as Kept;
  const format = FORMATS.find((f) => f.name === name);
  if (!format) throw new UserError(folder, `expected a case of a known format, got ${name}`, "see --help");
  const judge = await Judge.open(format);
  try {
    const { outcome, ms, detail } = await judge.judge(index, await loadCase(join(folder, "input")));
    console.log(`${name} ${index} of seed ${seed}: ${outcome} in ${ms.toFixed(0)} ms\n${detail}`);
    if (outcome === "crash") process.exitCode = 1;
  } finally {
    await judge.close();
  }
}

const COLUMNS = ["format", "cases", "accepted", "refused", "crash", "hang", "memory", "leak", "slowest", "peak", "time"]; // prettier-ignore

function table(results: readonly CampaignResult[]): string[] {
  const rows = results.map(({ format, runs, counts: c, leaks, slowestMs, peakBytes, seconds }) => [
    format,
    ...[runs, c.accepted, c.refused, c.crash, c.hang, c.memory, leaks.length].map(String),
    `${slowestMs.toFixed(0)} ms`,
    wholeMebibytes(peakBytes),
    `${seconds.toFixed(0)} s`,
  ]);
  const widths = COLUMNS.map((name, i) => Math.max(name.length, ...rows.map((row) => row[i].length)));
  return [COLUMNS, ...rows].map((row) => row.map((v, i) => (i === 0 ? v.padEnd(widths[i]) : v.padStart(widths[i]))).join("  ")); // prettier-ignore
}

const names = FORMATS.map(({ name }) => name);
const command = new Command("fuzz")
  .description(
    "Hands spoilt copies of valid files to the readers of this library, in a process of their own. Each must be read, or refused with " +
      "one of the library's errors, within a time and a memory; cases that are not are kept. The same seed, the same cases.",
  )
  .addOption(new Option("--format <name>", "what to spoil").choices([...names, ALL]).default(ALL))
  .option("--runs <n>", "cases of each format", integer(1), 1000)
  .option("--seed <n>", "of the cases", integer(0), 1)
  .option("--timeout <seconds>", "of one case", integer(1), 10)
  .option("--memory <mib>", "of the process that reads", integer(64), 1024)
  .option("--out <dir>", "where cases that went wrong are kept", "fuzz-failures")
  .option("--replay <dir>", "reads one kept case again, in this process")
  .option("--json", "a line of JSON for each format on stdout")
  .option("--debug", "show stack traces")
  .action(run);

await runCommand(command);
