/** Processes joined by the MPIs of this machine; skipped where there is none. */
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { MPIS, startRanks } from "../support/mpi.js";
import { finish } from "../support/trainProgram.js";

const PROGRAM = fileURLToPath(new URL("../support/mpiProgram.mjs", import.meta.url));

describe.each(MPIS)("$name", (mpi) => {
  test.each([2, 3])(
    "%i ranks sum and broadcast, in messages that are cut, while the event loop goes on",
    async (size) => {
      const { code, stdout, stderr } = await finish(startRanks(mpi, size, [PROGRAM]));
      expect(code, stderr).toBe(0);
      const lines = stdout.trim().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>); // prettier-ignore
      expect(lines.map(({ rank }) => rank).sort()).toEqual([...Array(size).keys()]);
      const total = (size * (size + 1)) / 2;
      for (const line of lines) {
        expect(line).toMatchObject({
          size,
          first: total,
          last: 2499 * total,
          part: [1, 1, size, size, size, 1, 1, 1, 1, 1],
          byte: 2500 % 251,
          large: (size * (size - 1)) / 2,
          ticks: true,
        });
        expect(line["library"]).toContain(mpi.name);
      }
    },
  );

  test.runIf(process.platform === "linux")("joining takes no memory from a heap that cannot grow", async () => {
    const { code, stdout, stderr } = await finish(startRanks(mpi, 2, [PROGRAM, "full heap"]));
    expect(code, stderr).toBe(0);
    expect(stdout.trim().split("\n")).toEqual(["0", "0"]);
  });

  test("a rank that aborts ends all, also those that wait for it", async () => {
    const { code } = await finish(startRanks(mpi, 2, [PROGRAM, "abort"]));
    expect(code).toBe(7);
  });
});

test.runIf(MPIS.length === 2)("a library of another MPI than the launcher's is refused", async () => {
  const [first, second] = MPIS;
  const names = { "Open MPI": "libmpi.so.40", MPICH: "libmpich.so.12" };
  process.env["PCONV_MPI_LIBRARY"] = names[second.name];
  try {
    const { code, stderr } = await finish(startRanks(first, 2, [PROGRAM]));
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/expected an MPI of 2 processes as it has started, got 1 in/);
  } finally {
    delete process.env["PCONV_MPI_LIBRARY"];
  }
});
