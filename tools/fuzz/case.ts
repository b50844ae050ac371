/** What the fuzzer makes, and what becomes of it. */
import type { Rng } from "../../src/pconv/rng.js";

/** One input: files of a folder (often a single one), and links in it. Names are relative, without `..`. */
export interface FuzzCase {
  readonly files: Readonly<Record<string, Uint8Array>>;
  /** Where each symbolic link leads, relative to the folder. */
  readonly links?: Readonly<Record<string, string>>;
}

/** A kind of input: valid ones to start from, ways to spoil them, and the readers that take them. */
export interface FuzzFormat {
  readonly name: string;
  /** Loads or makes what cases start from. Called once in a process, before the others. */
  prepare(): Promise<void>;
  /** The same generator, the same case. */
  make(rng: Rng): FuzzCase;
  /**
   * Hands a case to the readers, which lies in `folder`.
   * @throws what they throw, and {@link Broken} where they took something that they must not
   */
  read(folder: string, input: FuzzCase): Promise<void>;
  /** Frees what {@link prepare} opened. */
  close?(): Promise<void>;
}

/** A promise of the readers that a case showed to be broken, though nothing was thrown. */
export class Broken extends Error {
  override readonly name = "Broken";
}

/**
 * `accepted`: read. `refused`: one of this library's errors, in two lines. The others are faults: `crash` is any other error, or
 * the end of the process; `hang` more time than allowed, `memory` more memory.
 */
export type Outcome = "accepted" | "refused" | "crash" | "hang" | "memory";

/** What became of one case. */
export interface Verdict {
  readonly index: number;
  readonly outcome: Outcome;
  readonly ms: number;
  /** Of a refusal, the reader's words with numbers and names left out; of a fault, what is known of it. */
  readonly detail: string;
}

/** What a process holds at a moment; after a garbage collection where that can be asked for. */
export interface Holdings {
  /** Cases that it has read. */
  readonly cases: number;
  readonly rssBytes: number;
  /** JavaScript's heap and array buffers. */
  readonly heldBytes: number;
  /** Open file descriptors; 0 where the system does not tell. */
  readonly files: number;
  /** Timers, sockets and the like that keep a process alive. */
  readonly handles: number;
}
