/** Progress with the time that is left, on stderr: a bar in a terminal, now and then a line elsewhere. */
import { SingleBar } from "cli-progress";
import { printable } from "../src/errors.js";
import { duration } from "./train/reporter.js";

/** Milliseconds between two lines when stderr is not a terminal. */
const LINE_MS = 5000;
/** Milliseconds until the first of them: shorter work prints none. */
const FIRST_LINE_MS = 2000;

export class Progress {
  private readonly bar: SingleBar | null;
  private readonly started = performance.now();
  private lastLine = this.started - (LINE_MS - FIRST_LINE_MS);
  private done = 0;
  private what = "";

  /**
   * @param total how much work there is, in any unit that is proportional to time
   * @param quiet true where another process shows how far it all is
   */
  constructor(
    private readonly total: number,
    private readonly quiet = false,
  ) {
    const format = "[{bar}] {percentage}% | ETA {left} | {what}";
    this.bar =
      process.stderr.isTTY && !quiet
        ? new SingleBar({ stream: process.stderr, format, barsize: 30, clearOnComplete: true, gracefulExit: false })
        : null;
    this.bar?.start(total, 0, { left: "-", what: "" });
  }

  /** Says what is being done now. */
  at(what: string): void {
    this.what = printable(what); // mostly a file's name, which others may have given
    this.bar?.update({ what: this.what });
    this.bar?.render(); // the work itself may leave no time to
  }

  /** Counts finished work. */
  advance(amount: number): void {
    this.done = Math.min(this.total, this.done + amount);
    if (this.total === 0) return; // nothing to do, and no time to foretell
    const now = performance.now();
    const left = duration((((now - this.started) / this.done) * (this.total - this.done)) / 1000);
    this.bar?.update(this.done, { left });
    if (this.bar || this.quiet || now - this.lastLine < LINE_MS) return;
    this.lastLine = now;
    console.error(`${Math.floor((100 * this.done) / this.total)} % | ETA ${left} | ${this.what}`);
  }

  /** Prints a line on stdout without tearing the bar. */
  print(line: string): void {
    if (this.bar) process.stderr.write("\r\x1b[K");
    console.log(line);
  }

  stop(): void {
    this.bar?.stop();
  }
}
