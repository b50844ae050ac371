/** The processes of an MPI job as a {@link ProcessGroup}. Node only. */
import { UserError } from "../../errors.js";
import type { ProcessGroup } from "../../optim/processGroup.js";
import { type Launch, launchOf } from "./launcher.js";
import { loadMpi, type MpiLibrary, TEXT_BYTES } from "./library.js";

/** MPI_THREAD_SERIALIZED: any thread may call, one at a time. */
const SERIALIZED = 2;
/** Entries of one call; MPI counts in 32-bit integers, and some transports copy a message whole. */
const MOST_ENTRIES = 1 << 26;

/** Processes joined by MPI. One at most in a process: MPI can be initialised once only. */
export class MpiGroup implements ProcessGroup {
  /** Calls are made in this order, one at a time: every rank must make the same ones in the same order. */
  private last: Promise<void> = Promise.resolve();

  private constructor(
    private readonly mpi: MpiLibrary,
    readonly rank: number,
    readonly size: number,
    private readonly chunk: number,
  ) {}

  /**
   * Joins the processes that were started with this one.
   * @param options.launch what the launcher says, from the environment by default
   * @param options.chunk entries of one MPI call at most
   * @returns null when this process was started alone: nothing is loaded then
   * @throws {UserError} when MPI is missing, or is not the one of the launcher
   */
  static async join(
    options: { readonly launch?: Launch | null; readonly chunk?: number } = {},
  ): Promise<MpiGroup | null> {
    const { launch = launchOf(), chunk = MOST_ENTRIES } = options;
    if (launch === null) return null;
    const mpi = await loadMpi(launch.by);
    const { world, errorsReturn } = mpi.handles;
    const number = new Int32Array(1);
    check(mpi, "MPI_Init_thread", mpi.initThread(null, null, SERIALIZED, number));
    if (number[0] < SERIALIZED) {
      const help = "use an MPI that was built with thread support";
      throw new UserError(mpi.version, "expected calls from several threads to be allowed, got an MPI without", help);
    }
    check(mpi, "MPI_Comm_set_errhandler", mpi.setErrorHandler(world, errorsReturn));
    check(mpi, "MPI_Comm_size", mpi.commSize(world, number));
    const size = number[0];
    check(mpi, "MPI_Comm_rank", mpi.commRank(world, number));
    const group = new MpiGroup(mpi, number[0], size, chunk);
    if (size !== launch.size) {
      await group.leave();
      throw mismatch(mpi, launch, size);
    }
    return group;
  }

  /** Name and version of the MPI library, and where it was found. */
  get description(): string {
    return `${this.mpi.version} (${this.mpi.path})`;
  }

  /**
   * @inheritDoc
   * @throws {Error} when MPI reports one; the job cannot go on then.
   */
  allReduce(values: Float32Array): Promise<void> {
    const { world, float, sum, inPlace } = this.mpi.handles;
    return this.inChunks(values, (part) =>
      this.call("MPI_Allreduce", this.mpi.allReduce, inPlace, part, part.length, float, sum, world),
    );
  }

  /** @inheritDoc */
  broadcast(bytes: Uint8Array, root: number): Promise<void> {
    const { world, byte } = this.mpi.handles;
    return this.inChunks(bytes, (part) =>
      this.call("MPI_Bcast", this.mpi.broadcast, part, part.length, byte, root, world),
    );
  }

  /** @inheritDoc */
  barrier(): Promise<void> {
    return this.queue(() => this.call("MPI_Barrier", this.mpi.barrier, this.mpi.handles.world));
  }

  /** Waits for what is under way and ends MPI; nothing may be called after it. Every rank must call it. */
  async leave(): Promise<void> {
    await this.last;
    check(this.mpi, "MPI_Finalize", this.mpi.finalize());
  }

  /** Ends the processes of all ranks at once, this one among them, whatever they are doing. */
  abort(exitCode: number): never {
    this.mpi.abort(this.mpi.handles.world, exitCode);
    process.exit(exitCode); // an MPI whose abort returns
  }

  private inChunks<T extends Float32Array | Uint8Array>(values: T, run: (part: T) => Promise<void>): Promise<void> {
    return this.queue(async () => {
      for (let at = 0; at < values.length; at += this.chunk) await run(values.subarray(at, at + this.chunk) as T);
    });
  }

  private queue(run: () => Promise<void>): Promise<void> {
    const done = this.last.then(run);
    this.last = done.catch(() => undefined); // whoever asked for it hears of it
    return done;
  }

  /** Calls a function on another thread, so that this one goes on meanwhile. Its arguments live until it returns. */
  private async call(name: string, f: MpiLibrary["barrier"], ...args: unknown[]): Promise<void> {
    const code = await new Promise<number>((resolve, reject) => {
      f.async(...args, (error: Error | null, result: number) => (error ? reject(error) : resolve(result)));
    });
    check(this.mpi, name, code);
  }
}

function check(mpi: MpiLibrary, call: string, code: unknown): void {
  if (code === 0) return;
  const text = Buffer.alloc(TEXT_BYTES);
  const length = new Int32Array(1);
  mpi.errorString(code, text, length);
  throw new Error(`${call}: ${text.toString("utf8", 0, length[0])} (${mpi.version})`);
}

/** The launcher of one MPI and the library of another: each process is then alone. */
function mismatch(mpi: MpiLibrary, { by, size }: Launch, found: number): UserError {
  const launcher = by === "Slurm" ? "srun" : `the launcher (${by})`;
  const help =
    by === "Slurm"
      ? "pass --mpi=pmix or --mpi=pmi2 to srun (srun --mpi=list shows which it has), or name the MPI that was built for it with PCONV_MPI_LIBRARY"
      : `use the mpirun that belongs to ${mpi.path}, or name the launcher's library with PCONV_MPI_LIBRARY=/path/to/libmpi.so`;
  return new UserError(launcher, `expected an MPI of ${size} processes as it has started, got ${found} in ${mpi.version} (${mpi.path})`, help); // prettier-ignore
}
