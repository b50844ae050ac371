/** Starting programs under the MPI launchers of this machine. */
import { spawn, spawnSync } from "node:child_process";

export interface Mpi {
  readonly name: "Open MPI" | "MPICH";
  readonly launcher: string;
  readonly options: readonly string[];
}

/** Debian's names where both are installed, and the plain one, which is either. */
const CANDIDATES = ["mpirun.openmpi", "mpirun.mpich", "mpirun"];

function found(launcher: string): Mpi | null {
  const { stdout, error } = spawnSync(launcher, ["--version"], { encoding: "utf8" });
  if (error) return null;
  // Tests run more ranks than there are cores.
  return /Open MPI|OpenRTE/.test(stdout)
    ? { name: "Open MPI", launcher, options: ["--oversubscribe", "--bind-to", "none", "--quiet"] }
    : { name: "MPICH", launcher, options: [] };
}

const all = CANDIDATES.flatMap((launcher) => found(launcher) ?? []);
/** The MPIs of this machine, each once. */
export const MPIS: readonly Mpi[] = all.filter(({ name }, i) => all.findIndex((other) => other.name === name) === i);
if (MPIS.length === 0)
  console.warn("no mpirun here: what trains on several ranks is not tested (apt-get install openmpi-bin)");

/** What is needed to start as root, as in a container, and nothing that an outer launcher has said. */
const environment = (): NodeJS.ProcessEnv => ({
  ...process.env,
  OMPI_ALLOW_RUN_AS_ROOT: "1",
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
});

/** Starts a Node program on some ranks. */
export function startRanks({ launcher, options }: Mpi, ranks: number, args: readonly string[], cwd?: string) {
  return spawn(launcher, [...options, "-n", String(ranks), process.execPath, ...args], { cwd, env: environment() });
}
