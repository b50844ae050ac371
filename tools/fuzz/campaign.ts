/** Many cases of one format in processes that may crash, hang and fill the memory. */
import { fork, type ChildProcess } from "node:child_process";
import { readFile } from "node:fs/promises";
import type { Holdings, Outcome, Verdict } from "./case.js";
import type { Report, Request } from "./child.js";
import { wholeMebibytes } from "../../src/mebibytes.js";

export interface CampaignOptions {
  readonly format: string;
  readonly seed: number;
  readonly runs: number;
  /** Of one case; more is a hang. */
  readonly timeoutMs: number;
  /** Of the process that reads; more is a fault of the case that it read. */
  readonly memoryBytes: number;
  /** The module of the process; another one in tests. */
  readonly child: URL;
  readonly onVerdict?: (verdict: Verdict) => void;
}

/** What a format's readers did with the cases of a seed. */
export interface CampaignResult {
  readonly format: string;
  readonly seed: number;
  readonly runs: number;
  readonly counts: Readonly<Record<Outcome, number>>;
  /** What grew in a process although it had read enough to know what it keeps, in words. */
  readonly leaks: readonly string[];
  /** Crashes, hangs and cases that took too much memory. */
  readonly faults: readonly Verdict[];
  /** How often each kind of refusal came, the most frequent first. */
  readonly refusals: readonly (readonly [kind: string, count: number])[];
  readonly seconds: number;
  readonly slowestMs: number;
  /** Largest resident set that was seen. */
  readonly peakBytes: number;
  /** Of the process that read most cases: after its warm-up, and at the end. */
  readonly held: { readonly first: Holdings; readonly last: Holdings } | null;
}

/** Resident memory may grow by so much between warm-up and end: allocators keep what they had, and heaps breathe. */
const RSS_SLACK = 96 * 2 ** 20;
const HELD_SLACK = 24 * 2 ** 20;
const POLL_MS = 50;
/** Of the time between two looks at most so much counts: a computer that slept, or a stopped job, is no hang. */
const LONGEST_LOOK_MS = 1000;
/** Cases after which what a process holds is taken for what it always holds. */
const WARM_UP_SHARE = 0.2;

/** Resident bytes of another process; null where the system does not tell. */
async function residentBytes(pid: number): Promise<number | null> {
  const text = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  const kilobytes = /^VmRSS:\s+(\d+) kB/m.exec(text)?.[1];
  return kilobytes === undefined ? null : Number(kilobytes) * 1024;
}

/** Runs all cases; a process that is lost costs the case that it was at. */
export async function runCampaign(o: CampaignOptions): Promise<CampaignResult> {
  const started = performance.now();
  const counts: Record<Outcome, number> = { accepted: 0, refused: 0, crash: 0, hang: 0, memory: 0 };
  const refusals = new Map<string, number>();
  const faults: Verdict[] = [];
  const spans: { first: Holdings; last: Holdings }[] = [];
  let [slowestMs, peakBytes, next] = [0, 0, 0];
  const count = (verdict: Verdict): void => {
    counts[verdict.outcome]++;
    slowestMs = Math.max(slowestMs, verdict.ms);
    if (verdict.outcome === "refused") refusals.set(verdict.detail, (refusals.get(verdict.detail) ?? 0) + 1);
    else if (verdict.outcome !== "accepted") faults.push(verdict);
    next = verdict.index + 1;
    o.onVerdict?.(verdict);
  };
  while (next < o.runs) {
    const watched = await runChild(o, next, count);
    peakBytes = Math.max(peakBytes, watched.peakBytes);
    const [first, last] = watched.held;
    if (first && last) spans.push({ first, last });
    if (watched.lost) count(watched.lost);
  }
  spans.sort((a, b) => b.last.cases - a.last.cases);
  return {
    format: o.format,
    seed: o.seed,
    runs: o.runs,
    counts,
    leaks: spans.flatMap(leaksOf),
    faults,
    refusals: [...refusals].sort(([, a], [, b]) => b - a),
    seconds: (performance.now() - started) / 1000,
    slowestMs,
    peakBytes,
    held: spans[0] ?? null,
  };
}

function leaksOf({ first, last }: { first: Holdings; last: Holdings }): string[] {
  const over = `in ${last.cases - first.cases} cases`;
  const leaks: string[] = [];
  if (last.rssBytes > first.rssBytes + RSS_SLACK) leaks.push(`RSS ${wholeMebibytes(first.rssBytes)} to ${wholeMebibytes(last.rssBytes)} ${over}`); // prettier-ignore
  if (last.heldBytes > first.heldBytes + HELD_SLACK) leaks.push(`heap ${wholeMebibytes(first.heldBytes)} to ${wholeMebibytes(last.heldBytes)} ${over}`); // prettier-ignore
  if (last.files > first.files + 2) leaks.push(`open files ${first.files} to ${last.files} ${over}`);
  if (last.handles > first.handles + 2) leaks.push(`handles ${first.handles} to ${last.handles} ${over}`);
  return leaks;
}

interface Watched {
  /** The case that ended the process; null when it read them all. */
  readonly lost: Verdict | null;
  readonly held: readonly Holdings[];
  readonly peakBytes: number;
}

/** Lets a new process read the cases from `first` on. */
async function runChild(o: CampaignOptions, first: number, onVerdict: (verdict: Verdict) => void): Promise<Watched> {
  const child = fork(o.child, {
    execArgv: ["--expose-gc", "--max-old-space-size=512"],
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  const held: Holdings[] = [];
  let stderr = "";
  child.stderr!.on("data", (text: Buffer) => (stderr = (stderr + text.toString()).slice(-2000)));
  let [index, silentMs, looked, peakBytes, done] = [first, 0, performance.now(), 0, false];
  let why: "hang" | "memory" | null = null;
  const end = (outcome: "hang" | "memory"): void => {
    why ??= outcome;
    child.kill("SIGKILL");
  };
  child.on("message", (report: Report) => {
    silentMs = 0;
    if ("begun" in report) index = report.begun;
    else if ("verdict" in report) {
      index = report.verdict.index + 1;
      onVerdict(report.verdict);
    } else if ("held" in report) held.push(report.held);
    else done = true;
  });
  const watch = setInterval(() => {
    silentMs += Math.min(performance.now() - looked, LONGEST_LOOK_MS);
    looked = performance.now();
    if (silentMs > o.timeoutMs) end("hang");
    void residentBytes(child.pid!).then((bytes) => {
      peakBytes = Math.max(peakBytes, bytes ?? 0);
      if (bytes !== null && bytes > o.memoryBytes) end("memory");
    });
  }, POLL_MS);
  const warmUp = Math.ceil((o.runs - first) * WARM_UP_SHARE);
  const request: Request = { format: o.format, seed: o.seed, first, end: o.runs, warmUp };
  child.send(request);
  try {
    const [code, signal] = await ended(child);
    const how = signal === null ? `exit code ${code}` : String(signal);
    const lost: Verdict = {
      index,
      outcome: why ?? "crash",
      ms: silentMs,
      detail: `the process ended (${how}) ${stderr}`.trim(),
    };
    return { lost: done ? null : lost, held, peakBytes };
  } finally {
    clearInterval(watch);
  }
}

const ended = (child: ChildProcess): Promise<[number | null, NodeJS.Signals | null]> =>
  new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve([code, signal]));
  });
