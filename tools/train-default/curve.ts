/** What the phases' logs say about the training as a whole. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { lineChart } from "../../guides/chart.js";
import type { Phase } from "./recipe.js";

/** Logged losses that a point of the curve is the mean of. */
const WINDOW = 15;

interface LogLine {
  readonly step: number;
  readonly terms?: Readonly<Record<string, number>>;
  readonly validation?: { readonly psnr: number };
}

/** A phase as its log has it. */
export interface PhaseLog {
  readonly phase: Phase;
  readonly lines: readonly LogLine[];
}

export async function readLog(phase: Phase, run: string): Promise<PhaseLog> {
  const text = await readFile(join(run, "log.jsonl"), "utf8");
  return { phase, lines: text.trim().split("\n").map((line) => JSON.parse(line) as LogLine) }; // prettier-ignore
}

/** Pictures of the phases before each one, and of all. */
function pictures(logs: readonly PhaseLog[]): number[] {
  const ends = [0];
  for (const { phase } of logs) ends.push(ends[ends.length - 1] + phase.steps * phase.batchSize);
  return ends;
}

/** Mean L1 in the holes over the pictures seen, as SVG. */
export function trainingCurve(logs: readonly PhaseLog[]): string {
  const starts = pictures(logs);
  const series = logs.map(({ phase, lines }, i) => {
    const hole = lines.flatMap(({ step, terms }) => (terms ? [[step, terms["hole"]] as const] : []));
    const points: [number, number][] = [];
    for (let at = 0; at + WINDOW <= hole.length; at += WINDOW) {
      const part = hole.slice(at, at + WINDOW);
      const mean = part.reduce((sum, [, v]) => sum + v, 0) / WINDOW;
      points.push([(starts[i] + part[WINDOW - 1][0] * phase.batchSize) / 1000, mean]);
    }
    return { name: phase.name, points };
  });
  return lineChart({ title: `L1 in the holes, means of ${WINDOW} logged steps`, x: "thousand pictures", y: "L1" }, series.filter((s) => s.points.length > 0), { log: true }); // prettier-ignore
}

/** A table of the phases, as Markdown. */
export function phaseTable(logs: readonly PhaseLog[]): string {
  const rows = logs.map(({ phase, lines }) => {
    const last = lines.findLast((line) => line.validation)?.validation?.psnr;
    const seen = (phase.steps * phase.batchSize).toLocaleString("en");
    return `| ${phase.name} | ${phase.steps} | ${phase.batchSize} | ${phase.imageSize} | ${seen} | ${last?.toFixed(2) ?? "-"} |`;
  });
  const head = "| phase | steps | batch | size | pictures | validation PSNR, dB |";
  return [head, "|---|---|---|---|---|---|", ...rows].join("\n");
}
