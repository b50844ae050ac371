/** Where a run's numbers go: log.jsonl, TensorBoard, standard output as JSON, and a progress bar or lines on standard error. */
import { SingleBar } from "cli-progress";
import type { UserError } from "../../src/errors.js";
import { isDiskFull } from "../../src/io/files.js";
import { EventWriter } from "../../src/io/tensorboard.js";
import type { RunFolder } from "../../src/io/runFolder.js";
import { LOSS_TERMS } from "../../src/pconv/loss.js";
import type { StepReport } from "../../src/pconv/trainer.js";

/** Seconds between two progress lines when standard error is not a terminal, and between two writes of the TensorBoard log. */
const LINE_SECONDS = 10;

/** Speed is that since the oldest of so many marks, which are made a while apart: what happened hours ago says little. */
const MARKS = 12;

/** `1 h 02 min`, `3 min 05 s` or `12 s`. */
export function duration(seconds: number): string {
  const s = Math.round(seconds);
  const two = (n: number) => String(n).padStart(2, "0");
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
  return s >= 60 ? `${Math.floor(s / 60)} min ${two(s % 60)} s` : `${s} s`;
}

export interface ReporterOptions {
  readonly json: boolean;
  /** The step after which this start of the run goes on, and the last one. */
  readonly first: number;
  readonly total: number;
  /** Whether the norm of the gradients is logged. */
  readonly gradNorm: boolean;
  readonly batchSize: number;
  readonly stepsPerEpoch: number;
}

export class Reporter {
  private bar: SingleBar | null;
  private shown = { loss: "-", speed: "-", left: "-" };
  private lastLine = performance.now();
  private at: number;
  /** Steps taken in this start, how long of it was not training, and how far both were at some times of the clock. */
  private done = 0;
  private pausedMs = 0;
  private marks = [{ atMs: performance.now(), done: 0, pausedMs: 0 }];
  /** The last step that was logged, and what was measured or shown: when a device is lost, steps are made again. */
  private logged: number;
  private readonly told = new Set<string>();
  /** What the disk had no room for. */
  private readonly waiting = new Set<string>();

  private constructor(
    private readonly run: RunFolder,
    private readonly events: EventWriter,
    private readonly o: ReporterOptions,
  ) {
    this.at = this.logged = o.first;
    // Curves of an interrupted run end at its last checkpoint.
    events.sessionStart(o.first + 1);
    this.bar = process.stderr.isTTY
      ? new SingleBar({
          stream: process.stderr,
          format: "step {value}/{total} [{bar}] loss {loss} | {speed} images/s | ETA {left}",
          barsize: 24,
          hideCursor: true,
          gracefulExit: false,
          clearOnComplete: true,
        })
      : null;
    this.bar?.start(o.total, o.first, this.shown);
  }

  /** @throws {UserError} when the run's folder cannot be written to */
  static async open(run: RunFolder, o: ReporterOptions): Promise<Reporter> {
    return new Reporter(run, new EventWriter(await run.eventsPath()), o);
  }

  /** Progress messages that must not tear the bar. */
  message(text: string): void {
    this.bar?.stop();
    console.error(text);
    this.bar?.start(this.o.total, this.at, this.shown);
  }

  /** Runs something that is not training, so that it does not count in images/s. */
  async pause<T>(work: () => Promise<T>): Promise<T> {
    const start = performance.now();
    try {
      return await work();
    } finally {
      this.pausedMs += performance.now() - start;
    }
  }

  /**
   * Writes something. A full disk does not end the run: it is said once, and what was not written waits for room, which
   * {@link close} asks for once more.
   * @returns whether it was written
   * @throws {UserError} for what else may hinder it
   */
  private write(work: () => void): boolean {
    try {
      work();
      return true;
    } catch (error) {
      if (!isDiskFull(error)) throw error;
      this.full("log", error);
      return false;
    }
  }

  /** Says that the disk is full, unless it was full before. `what` waits for room from now on. */
  full(what: string, error: UserError): void {
    if (this.waiting.size === 0)
      this.message(
        `warning: ${error.where}: ${error.problem}; training goes on, and what is not written waits for room`,
      );
    this.waiting.add(what);
  }

  /** Something was written; says so where it had waited, and nothing else waits. */
  room(what: string): void {
    if (this.waiting.delete(what) && this.waiting.size === 0)
      this.message("the disk has room again: what waited is written");
  }

  private flush(): void {
    const written = this.write(() => {
      this.run.flushLog();
      this.events.flush();
    });
    if (written) this.room("log");
  }

  /** Counts a step, and logs it where there is a report of it, unless it was logged before. */
  step(step: number, report: StepReport | null): void {
    const now = performance.now();
    this.done++;
    this.at = step;
    const [from] = this.marks;
    const trainingMs = Math.max(1e-6, now - from.atMs - (this.pausedMs - from.pausedMs));
    const stepMs = trainingMs / (this.done - from.done);
    const imagesPerSecond = (1000 * this.o.batchSize) / stepMs;
    const left = duration(((stepMs + this.pausedMs / this.done) / 1000) * (this.o.total - step));
    const mark = { atMs: now, done: this.done, pausedMs: this.pausedMs };
    // Kernels compile during the first step: it says nothing about the others.
    if (this.done === 1) this.marks = [mark];
    else if (now - this.marks[this.marks.length - 1].atMs >= LINE_SECONDS * 1000) this.marks.push(mark);
    if (this.marks.length > MARKS) this.marks.shift();
    this.shown = { ...this.shown, speed: imagesPerSecond.toPrecision(3), left };
    if (report && step > this.logged) this.log(report, imagesPerSecond);
    this.logged = Math.max(this.logged, step);
    this.bar?.update(step, this.shown);
    if (now - this.lastLine < LINE_SECONDS * 1000) return;
    this.lastLine = now;
    this.flush();
    if (!this.bar)
      console.error(
        `step ${step}/${this.o.total} loss ${this.shown.loss} | ${this.shown.speed} images/s | ETA ${left}`,
      );
  }

  private log(report: StepReport, imagesPerSecond: number): void {
    const { step, loss, lr, lossScale, skipped } = report;
    const scaling = lossScale === undefined ? {} : { lossScale, skipped };
    // Of a step that half precision skipped it is not finite.
    const norm = this.o.gradNorm && Number.isFinite(report.gradNorm) ? { gradNorm: report.gradNorm } : {};
    const epoch = Math.floor((step - 1) / this.o.stepsPerEpoch) + 1;
    // All six, whatever the run leaves out; what is left out adds nothing to the loss.
    const terms = Object.fromEntries(LOSS_TERMS.map((name) => [name, report.terms[name] ?? 0]));
    // The log holds nothing that depends on the clock: a resumed run writes the same lines.
    this.write(() => this.run.log({ step, epoch, loss, terms, lr, ...norm, ...scaling }));
    if (this.o.json)
      console.log(JSON.stringify({ step, epoch, loss, terms, lr, ...norm, ...scaling, imagesPerSecond }));
    const wallSeconds = Date.now() / 1000;
    this.events.scalar("loss/total", loss, step, wallSeconds);
    for (const [name, value] of Object.entries(report.terms))
      this.events.scalar(`loss/${name}`, value, step, wallSeconds);
    this.events.scalar("learningRate", lr, step, wallSeconds);
    if (norm.gradNorm !== undefined) this.events.scalar("gradNorm", report.gradNorm, step, wallSeconds);
    if (lossScale !== undefined) this.events.scalar("lossScale", lossScale, step, wallSeconds);
    this.events.scalar("imagesPerSecond", imagesPerSecond, step, wallSeconds);
    this.shown.loss = loss.toPrecision(4);
  }

  /** A measured value beside the losses, such as the validation PSNR. */
  measure(step: number, name: "validation" | "test", psnr: number, images: number): void {
    if (this.isTold(`${name} ${step}`)) return;
    this.write(() => this.run.log({ step, [name]: { psnr, images } }));
    this.events.scalar(`psnr/${name}`, psnr, step, Date.now() / 1000);
    this.message(`step ${step}: ${name} PSNR ${psnr.toFixed(2)} dB over ${images} image${images === 1 ? "" : "s"}`);
  }

  image(step: number, png: Uint8Array, width: number, height: number): void {
    if (!this.isTold(`image ${step}`)) this.events.image("samples", png, width, height, step, Date.now() / 1000);
    this.flush();
  }

  /** Whether this was told before; now it was. */
  private isTold(what: string): boolean {
    const told = this.told.has(what);
    this.told.add(what);
    return told;
  }

  /** Ends the bar and gives the terminal back; messages are printed as lines from now on. */
  stop(): void {
    this.bar?.stop();
    this.bar = null;
  }

  /** @throws {UserError} when the last lines and events cannot be written. */
  close(): void {
    this.stop();
    try {
      this.run.flushLog();
    } finally {
      this.events.close();
    }
    this.room("log");
  }
}
