/** Where a run's numbers go: log.jsonl, TensorBoard, standard output as JSON, and a progress bar or lines on standard error. */
import { hostname } from "node:os";
import { SingleBar } from "cli-progress";
import { EventWriter } from "../../src/io/tensorboard.js";
import type { RunFolder } from "../../src/io/runFolder.js";
import type { StepReport } from "../../src/pconv/trainer.js";

/** Seconds between two progress lines when standard error is not a terminal. */
const LINE_SECONDS = 10;

/** `1 h 02 min`, `3 min 05 s` or `12 s`. */
export function duration(seconds: number): string {
  const s = Math.round(seconds);
  const two = (n: number) => String(n).padStart(2, "0");
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
  return s >= 60 ? `${Math.floor(s / 60)} min ${two(s % 60)} s` : `${s} s`;
}

export class Reporter {
  private readonly events: EventWriter;
  private readonly bar: SingleBar | null;
  private readonly started = performance.now();
  private lastLine = performance.now();
  private done = 0;
  private pausedMs = 0;

  constructor(
    private readonly run: RunFolder,
    private readonly o: { readonly json: boolean; readonly first: number; readonly total: number; readonly batchSize: number; readonly stepsPerEpoch: number },
  ) {
    this.events = new EventWriter(run.path(`events.out.tfevents.${Math.floor(Date.now() / 1000)}.${hostname()}.v2`));
    // Curves of an interrupted run end at its last checkpoint.
    this.events.sessionStart(o.first + 1);
    this.bar = process.stderr.isTTY
      ? new SingleBar({
          stream: process.stderr,
          format: "step {value}/{total} [{bar}] loss {loss} | {speed} images/s | ETA {left}",
          hideCursor: true,
          gracefulExit: false,
          clearOnComplete: false,
        })
      : null;
    this.bar?.start(o.total, o.first, { loss: "-", speed: "-", left: "-" });
  }

  /** Progress messages that must not tear the bar. */
  message(text: string): void {
    this.bar?.stop();
    console.error(text);
    if (this.bar) this.bar.start(this.o.total, this.o.first + this.done, { loss: "-", speed: "-", left: "-" });
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

  step(report: StepReport): void {
    this.done++;
    const elapsed = (performance.now() - this.started) / 1000;
    const imagesPerSecond = (this.done * this.o.batchSize) / Math.max(1e-9, elapsed - this.pausedMs / 1000);
    const epoch = Math.floor((report.step - 1) / this.o.stepsPerEpoch) + 1;
    const { step, loss, terms, lr } = report;
    // The log holds nothing that depends on the clock: a resumed run writes the same lines.
    this.run.log({ step, epoch, loss, terms, lr });
    if (this.o.json) console.log(JSON.stringify({ step, epoch, loss, terms, lr, imagesPerSecond }));
    const now = Date.now() / 1000;
    this.events.scalar("loss/total", loss, step, now);
    for (const [name, value] of Object.entries(terms)) this.events.scalar(`loss/${name}`, value, step, now);
    this.events.scalar("imagesPerSecond", imagesPerSecond, step, now);
    const left = duration((elapsed / this.done) * (this.o.total - step));
    const shown = { loss: loss.toPrecision(4), speed: imagesPerSecond.toPrecision(3), left };
    if (this.bar) this.bar.update(step, shown);
    else if (performance.now() - this.lastLine > LINE_SECONDS * 1000) {
      this.lastLine = performance.now();
      console.error(`step ${step}/${this.o.total} loss ${shown.loss} | ${shown.speed} images/s | ETA ${left}`);
    }
  }

  /** A measured value beside the losses, such as the validation PSNR. */
  measure(step: number, name: "validation" | "test", psnr: number, images: number): void {
    this.run.log({ step, [name]: { psnr, images } });
    if (this.o.json) console.log(JSON.stringify({ step, [name]: { psnr, images } }));
    this.events.scalar(`psnr/${name}`, psnr, step, Date.now() / 1000);
    this.message(`step ${step}: ${name} PSNR ${psnr.toFixed(2)} dB over ${images} images`);
  }

  image(step: number, png: Uint8Array, width: number, height: number): void {
    this.events.image("samples", png, width, height, step, Date.now() / 1000);
    this.events.flush();
  }

  close(): void {
    this.bar?.stop();
    this.events.close();
  }
}
