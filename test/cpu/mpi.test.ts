/** Who is told by which launcher that it is one of several, and which library that one's MPI is looked for in. */
import { describe, expect, test } from "vitest";
import { MpiGroup } from "../../src/io/mpi/group.js";
import { launchOf } from "../../src/io/mpi/launcher.js";
import { libraryNames, loadMpi } from "../../src/io/mpi/library.js";

// What each launcher sets, as printed by `mpirun -n 4 env` and the like; the rest of their variables is left out.
const OPEN_MPI = {
  OMPI_COMM_WORLD_RANK: "3",
  OMPI_COMM_WORLD_SIZE: "4",
  OMPI_COMM_WORLD_LOCAL_RANK: "1",
  OMPI_COMM_WORLD_LOCAL_SIZE: "2",
  PMIX_RANK: "3",
};
const HYDRA = { PMI_RANK: "2", PMI_SIZE: "4", MPI_LOCALRANKID: "0", MPI_LOCALNRANKS: "2" };
const SRUN = { SLURM_PROCID: "5", SLURM_STEP_NUM_TASKS: "8", SLURM_LOCALID: "1", SLURM_NTASKS: "8" };

describe("launchOf", () => {
  test("reads what Open MPI, MPICH and Slurm say", () => {
    expect(launchOf(OPEN_MPI)).toEqual({ by: "Open MPI", rank: 3, size: 4, localRank: 1, localSize: 2 });
    expect(launchOf(HYDRA)).toEqual({ by: "MPICH", rank: 2, size: 4, localRank: 0, localSize: 2 });
    expect(launchOf({ ...SRUN, PMIX_RANK: "5" })).toEqual({
      by: "Slurm",
      rank: 5,
      size: 8,
      localRank: 1,
      localSize: null,
    });
    expect(launchOf(SRUN)?.size).toBe(8);
    // srun --mpi=pmi2 speaks as Hydra does, and knows of local ranks by its own name.
    expect(launchOf({ ...SRUN, PMI_RANK: "5", PMI_SIZE: "8" })).toMatchObject({ by: "MPICH", rank: 5, localRank: 1 });
    // Open MPI's mpirun inside of a Slurm job.
    expect(launchOf({ ...SRUN, ...OPEN_MPI })).toMatchObject({ by: "Open MPI", rank: 3, size: 4 });
  });

  test("is null for a process that is alone", () => {
    expect(launchOf({})).toBeNull();
    expect(launchOf({ PMI_RANK: "0", PMI_SIZE: "1" })).toBeNull();
    expect(launchOf({ OMPI_COMM_WORLD_RANK: "0", OMPI_COMM_WORLD_SIZE: "1" })).toBeNull();
    // A batch script, and a shell in an allocation of several tasks.
    expect(launchOf({ SLURM_PROCID: "0", SLURM_NTASKS: "8" })).toBeNull();
    expect(launchOf({ SLURM_PROCID: "0", SLURM_STEP_NUM_TASKS: "1" })).toBeNull();
    expect(launchOf({ OMPI_COMM_WORLD_RANK: "zero", OMPI_COMM_WORLD_SIZE: "2" })).toBeNull();
  });
});

describe("the library", () => {
  test("is the launcher's own first, or the one that is named", () => {
    expect(libraryNames("Open MPI", {})[0]).toBe("libmpi.so.40");
    expect(libraryNames("Slurm", {})[0]).toBe("libmpi.so.40");
    expect(libraryNames("MPICH", {})[0]).toBe("libmpich.so.12");
    expect(libraryNames("MPICH", { PCONV_MPI_LIBRARY: "/opt/mpi/libmpi.so" })).toEqual(["/opt/mpi/libmpi.so"]);
    expect(libraryNames("MPICH", { PCONV_MPI_LIBRARY: "" }).length).toBeGreaterThan(1);
  });

  test("says what to do where it is missing, or is none", async () => {
    const missing = loadMpi("Open MPI", { PCONV_MPI_LIBRARY: "/nowhere/libmpi.so.40" });
    await expect(missing).rejects.toThrow(
      /expected an MPI library to load, got none of \/nowhere\/libmpi\.so\.40\nhelp: install/,
    );
  });

  test.runIf(process.platform === "linux" && process.report !== undefined)(
    "is refused when it is another library",
    async () => {
      const other = loadMpi("Open MPI", { PCONV_MPI_LIBRARY: "libm.so.6" });
      await expect(other).rejects.toThrow(/libm\.so\.6: expected an MPI library, got one without MPI's functions/);
    },
  );

  test("is not looked for by a process that is alone", async () => {
    expect(await MpiGroup.join({ launch: null })).toBeNull();
  });
});
