/** Finding and loading the machine's MPI, and the few of its functions that are used, by name. Node only. */
import { UserError } from "../../errors.js";
import type { Launch } from "./launcher.js";

/** A C function; `async` runs it on another thread. */
interface CFunction {
  (...args: unknown[]): unknown;
  async(...args: unknown[]): void;
}

interface Library {
  func(definition: string): CFunction;
  /** Address of a variable. */
  symbol(name: string): bigint;
}

/** Constants that each MPI defines for itself: addresses in Open MPI, numbers in MPICH and what is compatible with it. */
interface Handles {
  /** C type of a handle. */
  readonly type: "void *" | "int";
  readonly world: bigint | number;
  readonly float: bigint | number;
  readonly byte: bigint | number;
  readonly sum: bigint | number;
  readonly errorsReturn: bigint | number;
  /** Stands for the send buffer in collectives that work in place. */
  readonly inPlace: bigint;
}

/** An MPI library that is loaded. */
export interface MpiLibrary {
  readonly handles: Handles;
  /** What the library calls itself, one line. */
  readonly version: string;
  readonly path: string;
  readonly initThread: CFunction;
  readonly commRank: CFunction;
  readonly commSize: CFunction;
  readonly setErrorHandler: CFunction;
  readonly errorString: CFunction;
  readonly allReduce: CFunction;
  readonly broadcast: CFunction;
  readonly barrier: CFunction;
  readonly abort: CFunction;
  readonly finalize: CFunction;
}

/** MPI goes deep on the stack: MPICH crashes with koffi's 128 KiB. */
const ASYNC_STACK_BYTES = 4 << 20;
/**
 * For UCX, which carries the messages of many an MPI. It patches the C library's brk, and tries that out by moving the break up and down
 * by a page: where V8's code lies right above the heap, only the move down succeeds, and takes memory that is in use. It also handles
 * SIGSEGV, with which V8 implements WebAssembly. MPI.jl and Slurm set the same (UCX issues 3831, 4001).
 */
const UCX_DEFAULTS = { UCX_MEM_EVENTS: "no", UCX_ERROR_SIGNALS: "SIGILL,SIGBUS,SIGFPE" };
/** Above MPI_MAX_LIBRARY_VERSION_STRING (8192 in MPICH) and MPI_MAX_ERROR_STRING of every MPI. */
export const TEXT_BYTES = 16384;

const OPEN_MPI = ["libmpi.so.40", "libmpi.40.dylib"];
const MPICH = ["libmpich.so.12", "libmpi.so.12", "libmpi_cray.so.12", "libmpi.12.dylib"];
const EITHER = ["libmpi.so", "libmpi.dylib"];

const INSTALL =
  "install the MPI that its mpirun belongs to (Debian: apt-get install libopenmpi3, or libmpich12), or name the library with PCONV_MPI_LIBRARY=/path/to/libmpi.so";

/** Names under which the launcher's library may be found, the likeliest first. */
export function libraryNames(by: Launch["by"], env: Readonly<Record<string, string | undefined>>): readonly string[] {
  const given = env["PCONV_MPI_LIBRARY"];
  if (given !== undefined && given !== "") return [given];
  return by === "MPICH" ? [...MPICH, ...EITHER, ...OPEN_MPI] : [...OPEN_MPI, ...EITHER, ...MPICH];
}

interface Loader {
  load: (name: string, o: { global: boolean }) => Library;
}

/** @throws {UserError} when koffi, an optional dependency, is not there. */
async function loader(by: Launch["by"]): Promise<Loader> {
  const { default: koffi } = await import("koffi").catch((cause: unknown) => {
    const help = "npm install koffi, or start one process without mpirun";
    const text = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
    throw new UserError(`${by} launcher`, `expected the package koffi, which calls MPI, got ${text}`, help, { cause });
  });
  if ((koffi.config().async_stack_size ?? 0) < ASYNC_STACK_BYTES) {
    try {
      koffi.config({ async_stack_size: ASYNC_STACK_BYTES });
    } catch (cause) {
      const help = `call MpiGroup.join before it is used, or koffi.config({ async_stack_size: ${ASYNC_STACK_BYTES} }) at its start`;
      throw new UserError(`${by} launcher`, "expected koffi to be unused so far, got one that has loaded a library", help, { cause }); // prettier-ignore
    }
  }
  return koffi;
}

/**
 * Loads the MPI of the launcher that started this process.
 * @throws {UserError} when there is none, or it is no MPI
 */
export async function loadMpi(by: Launch["by"], env = process.env): Promise<MpiLibrary> {
  const { load } = await loader(by);
  Object.assign(process.env, { ...UCX_DEFAULTS, ...process.env });
  const names = libraryNames(by, env);
  for (const name of names) {
    let library: Library;
    try {
      // Open MPI's plugins look for its symbols among those of the whole process.
      library = load(name, { global: true });
    } catch {
      continue;
    }
    return bind(library, name);
  }
  throw new UserError(`${by} launcher`, `expected an MPI library to load, got none of ${names.join(", ")}`, INSTALL);
}

function bind(library: Library, path: string): MpiLibrary {
  try {
    const handles = handlesOf(library);
    const h = handles.type;
    const getVersion = library.func("int MPI_Get_library_version(void *text, void *length)");
    const text = Buffer.alloc(TEXT_BYTES);
    const length = new Int32Array(1);
    getVersion(text, length);
    return {
      handles,
      path,
      version: firstLine(text.toString("latin1", 0, length[0])),
      initThread: library.func("int MPI_Init_thread(void *argc, void *argv, int required, void *provided)"),
      commRank: library.func(`int MPI_Comm_rank(${h} comm, void *rank)`),
      commSize: library.func(`int MPI_Comm_size(${h} comm, void *size)`),
      setErrorHandler: library.func(`int MPI_Comm_set_errhandler(${h} comm, ${h} handler)`),
      errorString: library.func("int MPI_Error_string(int code, void *text, void *length)"),
      allReduce: library.func(`int MPI_Allreduce(void *send, void *receive, int n, ${h} type, ${h} op, ${h} comm)`),
      broadcast: library.func(`int MPI_Bcast(void *buffer, int n, ${h} type, int root, ${h} comm)`),
      barrier: library.func(`int MPI_Barrier(${h} comm)`),
      abort: library.func(`int MPI_Abort(${h} comm, int code)`),
      finalize: library.func("int MPI_Finalize()"),
    };
  } catch (cause) {
    throw new UserError(path, "expected an MPI library, got one without MPI's functions", INSTALL, { cause });
  }
}

/** MPICH's line is "MPICH Version: 4.0.2" with tabs; Open MPI's goes on after a comma. */
const firstLine = (text: string): string =>
  text
    .split(/[\n\0]/)[0]
    .split(",")[0]
    .replaceAll(/\s+/g, " ")
    .trim();

function handlesOf(library: Library): Handles {
  const address = (name: string): bigint | null => {
    try {
      return library.symbol(name);
    } catch {
      return null;
    }
  };
  const world = address("ompi_mpi_comm_world");
  if (world === null) {
    // mpi.h of MPICH, whose binary interface Intel MPI, MVAPICH and Cray MPICH share (the MPICH ABI initiative, 2013).
    return {
      type: "int",
      world: 0x44000000,
      float: 0x4c00040a,
      byte: 0x4c00010d,
      sum: 0x58000003,
      errorsReturn: 0x54000001,
      inPlace: 0xffffffffffffffffn,
    };
  }
  return {
    type: "void *",
    world,
    float: library.symbol("ompi_mpi_float"),
    byte: library.symbol("ompi_mpi_byte"),
    sum: library.symbol("ompi_mpi_op_sum"),
    errorsReturn: library.symbol("ompi_mpi_errors_return"),
    inPlace: 1n,
  };
}
