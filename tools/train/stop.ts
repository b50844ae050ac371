/** Ctrl-C and its relatives: the first lets the step end and saves, the second exits at once. */
import { constants } from "node:os";

/** 128 plus the signal's number, as shells expect. SIGPIPE stands for a standard output that nobody reads any more. */
const EXIT_CODES = {
  SIGHUP: 129,
  SIGINT: 130,
  SIGPIPE: 141,
  SIGTERM: 143,
  /** What schedulers and mpirun pass on to a job that is to end soon. */
  SIGUSR2: 128 + (constants.signals.SIGUSR2 ?? 12),
} as const;
type StopName = keyof typeof EXIT_CODES;
const NAMES = Object.keys(EXIT_CODES) as StopName[];

/** What a stop needs of the progress display. */
export interface StopDisplay {
  message(text: string): void;
  /** Gives the terminal back. */
  stop(): void;
}

/** Listens from its making until {@link release}. Before {@link trainingStarts} there is nothing to save, and one signal exits. */
export class StopSignal {
  /** The signal that came, or null. */
  signal: StopName | null = null;
  private display: StopDisplay | null = null;
  private wake: () => void = () => undefined;

  /** @param quiet true where another process says what there is to say */
  constructor(private readonly quiet = false) {
    for (const name of NAMES) process.on(name, this.handle);
  }

  trainingStarts(display: StopDisplay): void {
    this.display = display;
  }

  /** Takes over the signal of another rank, given as that one's exit code. */
  follow(exitCode: number): void {
    this.signal = NAMES.find((name) => EXIT_CODES[name] === exitCode) ?? "SIGTERM";
  }

  /** For the process; 0 without a signal. */
  get exitCode(): number {
    return this.signal === null ? 0 : EXIT_CODES[this.signal];
  }

  /** Waits so many seconds, or until a signal comes. */
  wait(seconds: number): Promise<void> {
    if (this.signal !== null) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  release(): void {
    for (const name of NAMES) process.off(name, this.handle);
  }

  private readonly handle = (name: NodeJS.Signals) => {
    const first = this.signal === null;
    if (first) this.signal = name as StopName;
    this.wake();
    if (this.display === null) {
      if (name !== "SIGPIPE" && !this.quiet) console.error(`${name}: stopped before the first step`);
      process.exit(this.exitCode);
    }
    if (first)
      this.display.message(
        `${name === "SIGPIPE" ? "output closed" : name}: saving a checkpoint; once more to exit without`,
      );
    else if (name !== "SIGPIPE") {
      // Writing to a closed terminal fails again and again; only a person or a system asks twice.
      this.display.stop();
      // The system's own way to end: exiting would wait for the device, which may be what hangs.
      this.release();
      process.kill(process.pid, name);
    }
  };
}
