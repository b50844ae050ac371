/** The processes of an MPI job, as the commands use them. Started alone, a command is rank 0 of 1, and no MPI is loaded. */
import { availableParallelism, cpus, hostname } from "node:os";
import { MpiGroup } from "../src/io/mpi/group.js";
import { launchOf } from "../src/io/mpi/launcher.js";
import type { ProcessGroup } from "../src/optim/processGroup.js";
import { takeOwnCard } from "./rankAdapter.js";
import { EndedElsewhere, exitCodeOf, inTurn, printError } from "./command.js";

const HEADER_BYTES = 8;

/** The ranks of a job as seen from one of them. All methods but the getters are called by every rank, in the same order. */
export class Ranks {
  /** Whether the error under way is known to all ranks, which then end in order. */
  private agreed = false;

  constructor(
    private readonly group: (ProcessGroup & Partial<Pick<MpiGroup, "description" | "leave" | "abort">>) | null,
  ) {}

  get rank(): number {
    return this.group?.rank ?? 0;
  }

  get size(): number {
    return this.group?.size ?? 1;
  }

  /** Whether this is the rank that writes and speaks. */
  get first(): boolean {
    return this.rank === 0;
  }

  /** For the trainer; undefined where there is nobody to train with. */
  get processGroup(): ProcessGroup | undefined {
    return this.group ?? undefined;
  }

  /** `Open MPI v4.1.4 (libmpi.so.40)`. */
  get library(): string {
    return this.group?.description ?? "no MPI";
  }

  /** A number of each rank, in their order. */
  async numbers(own: number): Promise<readonly number[]> {
    const all = new Float32Array(this.size);
    all[this.rank] = own;
    await this.group?.allReduce(all);
    return Array.from(all);
  }

  /**
   * Runs work that may fail on some ranks only. It does not use the group itself.
   * @throws on every rank when it failed on any: the first of those throws what it got, the others {@link EndedElsewhere}.
   */
  async together<T>(work: () => Promise<T>): Promise<T> {
    let failure: { readonly error: unknown } | null = null;
    let result: T | undefined;
    try {
      result = await work();
    } catch (error) {
      failure = { error };
    }
    const codes = await this.numbers(failure ? exitCodeOf(failure.error) : 0);
    const speaker = codes.findIndex((code) => code !== 0);
    if (speaker < 0) return result as T;
    this.agreed = true;
    if (speaker === this.rank) throw failure!.error;
    throw new EndedElsewhere(codes[speaker]);
  }

  /** As {@link together}, but the first rank goes ahead: for downloads, which the others then find done. */
  async firstThenOthers<T>(work: () => Promise<T>): Promise<T> {
    const early = await this.together(async () => (this.first ? { result: await work() } : null));
    return this.together(async () => (early ? early.result : await work()));
  }

  /** What the first rank makes, on all ranks. It is carried as JSON. */
  async fromFirst<T>(make: () => Promise<T>): Promise<T> {
    const own = await this.together(async () => (this.first ? await make() : null));
    if (this.size === 1) return own as T;
    const text = await this.carry(Buffer.from(JSON.stringify(own)), 0);
    return this.first ? (own as T) : (JSON.parse(text.toString()) as T);
  }

  /** What every rank has, in their order, on all ranks. It is carried as JSON. */
  async gather<T>(own: T): Promise<T[]> {
    const bytes = Buffer.from(JSON.stringify(own));
    const all: T[] = [];
    for (let rank = 0; rank < this.size; rank++) {
      const carried = await this.carry(bytes, rank);
      all.push(rank === this.rank ? own : (JSON.parse(carried.toString()) as T));
    }
    return all;
  }

  /** Bytes of one rank on all of them; the others' are not looked at. */
  private async carry(own: Uint8Array, root: number): Promise<Buffer> {
    if (this.group === null) return Buffer.from(own);
    const header = new DataView(new ArrayBuffer(HEADER_BYTES));
    header.setFloat64(0, own.length);
    await this.group.broadcast(new Uint8Array(header.buffer), root);
    const bytes = this.rank === root ? Buffer.from(own) : Buffer.alloc(header.getFloat64(0));
    await this.group.broadcast(bytes, root);
    return bytes;
  }

  /** Of a list that all ranks have: what this rank works on. */
  share<T>(all: readonly T[]): T[] {
    return all.filter((_, i) => i % this.size === this.rank);
  }

  /**
   * Runs a command's work, and ends MPI in order. An error that only this rank knows of ends the job: the others may be waiting for
   * it in the middle of anything.
   */
  async run(work: (ranks: Ranks) => Promise<void>): Promise<void> {
    try {
      await work(this);
    } catch (error) {
      const speaks = !(error instanceof EndedElsewhere);
      if (!this.agreed) await inTurn();
      if (speaks && !this.first) console.error(`rank ${this.rank} of ${this.size} on ${hostname()}:`);
      if (this.agreed) await this.group?.leave?.();
      else this.group?.abort?.(printError(error));
      throw error;
    }
    await this.group?.leave?.();
  }
}

/** Joins the other processes of the job, and runs a command's work among them. */
export async function amongRanks(work: (ranks: Ranks) => Promise<void>): Promise<void> {
  const launch = launchOf();
  if (launch) takeOwnCard(launch);
  const group = await MpiGroup.join({ launch }).catch(async (error: unknown) => {
    await inTurn(); // a missing or wrong MPI is found by all
    throw error;
  });
  const ranks = new Ranks(group);
  const [usable, all] = [availableParallelism(), cpus().length];
  if (group && ranks.first && usable < all) {
    console.error(
      `warning: the launcher lets each rank use ${usable} of ${all} processor cores; mpirun --bind-to none lets it use all, which reading pictures and software adapters need`,
    );
  }
  await ranks.run(work);
}
