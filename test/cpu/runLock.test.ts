/** One process to a run's folder: who holds it, who has ended, and who is too far away to tell. */
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { RunLock } from "../../src/io/runLock.js";

let dir: string;
let path: string;
const taken: RunLock[] = [];
const take = async () => {
  const lock = await RunLock.take(dir);
  taken.push(lock);
  return lock;
};
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "pconv-runLock-"));
  path = join(dir, "run.lock");
});
afterEach(async () => {
  for (const lock of taken.splice(0)) lock.release();
  await rm(dir, { recursive: true, force: true });
});

/** What a lock of this process says, with changes, as if another one had written it. */
async function leave(changes: object): Promise<void> {
  const lock = await RunLock.take(dir);
  const own = JSON.parse(await readFile(path, "utf8")) as object;
  lock.release();
  await writeFile(path, JSON.stringify({ ...own, token: "another", ...changes }));
}

/** Makes the lock's last sign of life so many seconds old. */
const silentFor = (seconds: number) => utimes(path, Date.now() / 1000 - seconds, Date.now() / 1000 - seconds);

const REFUSED =
  /expected a run that nothing else works on, got one that process (\d+)(.*) works on\nhelp: wait for it .*; remove .*run.lock/;

describe("RunLock", () => {
  it("gives a folder to one of many, and leaves nothing behind", async () => {
    const tries = await Promise.allSettled(Array.from({ length: 20 }, take));
    expect(tries.filter((t) => t.status === "fulfilled")).toHaveLength(1);
    for (const t of tries) if (t.status === "rejected") expect(String(t.reason)).toMatch(REFUSED);
    expect(await readdir(dir)).toEqual(["run.lock"]);
    taken[0].release();
    expect(await readdir(dir)).toEqual([]);
    await take();
  });

  it("takes over from a process that has ended", async () => {
    await leave({ pid: 2 ** 22 + 1 }); // above Linux's largest
    await take();
    expect(await readFile(path, "utf8")).toContain(`"pid":${process.pid}`);
    expect(await readdir(dir)).toEqual(["run.lock"]);
  });

  it.skipIf(process.platform === "win32")(
    "takes over where another program has the number of an ended process",
    async () => {
      await leave({ started: "12345" });
      await take();
    },
  );

  it.skipIf(process.platform !== "linux")(
    "takes over after a restart of the computer, whatever has the number now",
    async () => {
      await leave({ boot: "an earlier start" });
      await take();
    },
  );

  it("twenty that find an ended one: one takes over", async () => {
    // The steps of the twenty interleave in another way each time.
    for (let i = 0; i < 20; i++) {
      await leave({ pid: 2 ** 22 + 1 });
      const tries = await Promise.allSettled(Array.from({ length: 20 }, take));
      expect(tries.filter((t) => t.status === "fulfilled")).toHaveLength(1);
      taken.pop()?.release();
    }
  });

  it("takes over where a process was killed while it did", async () => {
    await leave({ pid: 2 ** 22 + 1 });
    const turn = `${path}.removal.partial`;
    await writeFile(turn, "");
    const waiting = take();
    await new Promise((done) => setTimeout(done, 100));
    expect(await readdir(dir)).toContain("run.lock.removal.partial"); // it may be at it still
    await utimes(turn, Date.now() / 1000 - 200, Date.now() / 1000 - 200);
    await waiting;
    expect(await readdir(dir)).toEqual(["run.lock"]);
  });

  const far: [where: string, changes: object, host: string][] = [
    ["on another computer", { host: "elsewhere" }, "elsewhere"],
  ];
  if (process.platform === "linux") far.push(["in another container", { space: "pid:[1]" }, hostname()]);
  it.each(far)("believes a process %s as long as it gives signs of life", async (_, changes, host) => {
    await leave(changes);
    await silentFor(100);
    const refusal = await take().then(() => "none", String);
    const [, , what] = REFUSED.exec(refusal) ?? [];
    expect(what).toMatch(new RegExp(`^ on ${host}, whose last sign of life came (99|100|101|102) s ago$`));
    await silentFor(200);
    await take();
  });

  it("refuses a lock that says nothing, until it is old", async () => {
    await writeFile(path, "");
    await expect(take()).rejects.toThrow(/got one that another process, whose last sign of life came 0 s ago works on/);
    await silentFor(200);
    await take();
  });

  it("removes no lock but its own", async () => {
    const lock = await take();
    await writeFile(path, "somebody else's");
    lock.release();
    expect(await readFile(path, "utf8")).toBe("somebody else's");
  });

  it.skipIf(process.platform === "win32" || process.getuid?.() === 0)(
    "says that a folder cannot be written to",
    async () => {
      const { chmod } = await import("node:fs/promises");
      await chmod(dir, 0o555);
      await expect(take()).rejects.toThrow(/run.lock: expected a place that can be written to, got EACCES/);
      await chmod(dir, 0o755);
    },
  );
});
