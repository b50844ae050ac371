/** The last state of a run that is known to be good: what is saved, and what training goes back to when a device fails. */
import { UserError } from "../../src/errors.js";
import { isDiskFull } from "../../src/io/files.js";
import { mebibytes } from "../../src/mebibytes.js";
import type { RunFolder } from "../../src/io/runFolder.js";
import type { Trainer } from "../../src/pconv/trainer.js";
import type { Reporter } from "./reporter.js";
import { type Snapshot, takeSnapshot } from "./snapshot.js";
import type { StopSignal } from "./stop.js";
import type { RunState } from "./stored.js";

/** Once a device has failed it may again: from then on a state is kept in memory this often, between checkpoints too. */
const COPY_SECONDS = 60;
/** How often, and how long, the end of a run waits for room on the disk. */
const ROOM_TRY_SECONDS = 5;
const ROOM_SECONDS = 900;

export class KeptState {
  /** What the disk has: a checkpoint, or of a new run nothing, as long as it has made no step. */
  private written: Snapshot;
  private copied = performance.now();
  /** Set once a device has failed. */
  frail = false;

  constructor(
    private readonly folder: RunFolder,
    private readonly reporter: Reporter,
    /** What to go on from; a run that has made no checkpoint yet keeps its beginning. */
    public snapshot: Snapshot,
  ) {
    this.written = snapshot;
  }

  /** Whether the state after a step is on the disk. */
  isSaved(step: number): boolean {
    return this.written.state.step === step;
  }

  /** Copies the state to memory where it is time to. */
  async copy(trainer: Trainer, state: RunState): Promise<void> {
    if (this.frail && performance.now() - this.copied >= COPY_SECONDS * 1000) await this.take(trainer, state);
  }

  private async take(trainer: Trainer, state: RunState): Promise<void> {
    this.snapshot = await takeSnapshot(trainer, state, this.folder.checkpointPath(state.step));
    this.copied = performance.now();
  }

  /**
   * Writes a checkpoint. A full disk is said, and leaves it to the next one.
   * @returns whether it was written
   * @throws {UserError} for anything else that hinders it
   */
  async save(trainer: Trainer, state: RunState): Promise<boolean> {
    await this.take(trainer, state);
    return this.write();
  }

  /** Writes what is kept, where it is not on the disk. @returns false for a full disk */
  async write(): Promise<boolean> {
    const { snapshot } = this;
    if (snapshot === this.written) return true;
    const { state, files } = snapshot;
    try {
      await this.folder.saveCheckpoint(state.step, files, state.best?.step ?? state.step);
    } catch (error) {
      if (!isDiskFull(error)) throw error;
      this.reporter.full("checkpoint", error);
      return false;
    }
    this.written = snapshot;
    this.reporter.room("checkpoint");
    return true;
  }

  /**
   * Writes the last checkpoint of a run that ends: waits a while for a disk that is full, unless a signal says to end.
   * @throws {UserError} when it stays full
   */
  async saveLast(trainer: Trainer, state: RunState, stop: StopSignal): Promise<void> {
    await this.take(trainer, state);
    const until = performance.now() + ROOM_SECONDS * 1000;
    for (let waits = 0; !(await this.write()); waits++) {
      if (stop.signal !== null || performance.now() >= until) throw this.noRoom();
      if (waits === 0) this.reporter.message(`waiting up to ${ROOM_SECONDS / 60} min for room for the last checkpoint`);
      await stop.wait(ROOM_TRY_SECONDS);
    }
  }

  private noRoom(): UserError {
    const bytes = Object.values(this.snapshot.files).reduce((sum, file) => sum + file.length, 0);
    const { step } = this.written.state;
    const last = step > 0 ? `the last whole one is ${this.folder.checkpointPath(step)}` : "there is none yet";
    return new UserError(
      this.folder.checkpointPath(this.snapshot.state.step),
      `expected room for a checkpoint of ${mebibytes(bytes)}, got a full disk; ${last}`,
      "free some space, and go on with --resume",
    );
  }
}
