/** Whether this process is one of several that an MPI launcher started. Reads the environment only. Node only. */

/** One of the processes that were started together. */
export interface Launch {
  /** Which family of launchers: its library is looked for first. */
  readonly by: "Open MPI" | "MPICH" | "Slurm";
  readonly rank: number;
  /** At least 2. */
  readonly size: number;
  /** Number among the processes of this host, and how many those are; null where the launcher does not say. */
  readonly localRank: number | null;
  readonly localSize: number | null;
}

type Environment = Readonly<Record<string, string | undefined>>;

function count(env: Environment, ...names: string[]): number | null {
  for (const name of names) {
    const text = env[name]?.trim() ?? "";
    if (/^\d+$/.test(text)) return Number(text);
  }
  return null;
}

/**
 * What `mpirun`, `mpiexec` or `srun` says about this process; null when it was started alone. One process started by a launcher is
 * alone too: it has nobody to talk to, and needs no MPI.
 */
export function launchOf(env: Environment = process.env): Launch | null {
  const found = openMpi(env) ?? hydra(env) ?? slurm(env);
  return found !== null && found.size > 1 ? found : null;
}

function openMpi(env: Environment): Launch | null {
  const rank = count(env, "OMPI_COMM_WORLD_RANK");
  const size = count(env, "OMPI_COMM_WORLD_SIZE");
  if (rank === null || size === null) return null;
  const localRank = count(env, "OMPI_COMM_WORLD_LOCAL_RANK");
  return { by: "Open MPI", rank, size, localRank, localSize: count(env, "OMPI_COMM_WORLD_LOCAL_SIZE") };
}

/** MPICH and its relatives (Intel MPI, MVAPICH, Cray), whose launcher is Hydra, and `srun --mpi=pmi2`. */
function hydra(env: Environment): Launch | null {
  const rank = count(env, "PMI_RANK");
  const size = count(env, "PMI_SIZE");
  if (rank === null || size === null) return null;
  const localRank = count(env, "MPI_LOCALRANKID", "SLURM_LOCALID");
  return { by: "MPICH", rank, size, localRank, localSize: count(env, "MPI_LOCALNRANKS") };
}

/** `srun --mpi=pmix`, or without MPI support, which is found out when MPI is opened. */
function slurm(env: Environment): Launch | null {
  const rank = count(env, "PMIX_RANK", "SLURM_PROCID");
  const size = count(env, "SLURM_STEP_NUM_TASKS");
  if (rank === null || size === null) return null;
  return { by: "Slurm", rank, size, localRank: count(env, "SLURM_LOCALID"), localSize: null };
}
