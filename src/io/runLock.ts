/**
 * A run's folder belongs to one process at a time: `run.lock` in it says to which. Node only.
 *
 * The file is made in one step, so that of two processes one gets it. It is left behind by a process that is killed: then its
 * process number is free, or another program's, which the time of that one's start tells. What runs on another computer (or in
 * another container) cannot be looked at; it gives a sign of life every few seconds by touching the file, and counts as ended
 * when none has come for {@link SILENT_SECONDS}.
 */
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { readFileSync, readlinkSync, rmSync } from "node:fs";
import { link, open, readFile, rm, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { UserError } from "../errors.js";
import { fileError } from "./files.js";

export const LOCK = "run.lock";

const BEAT_SECONDS = 10;
/** Long beside a beat: a network drive may stall, and a process that compiles kernels does nothing else for seconds. */
const SILENT_SECONDS = 180;
/** Between two looks at a lock that another process is removing. */
const TURN_MS = 20;
/** Characters; hosts' names have at most 253. */
const MAX_WORD = 300;

/** What the file says of the process that holds it. */
interface Holder {
  /** Of this lock alone. */
  readonly token: string;
  readonly pid: number;
  /** When the process began, in the system's own words; null where the system does not tell. */
  readonly started: string | null;
  readonly host: string;
  /** Of this start of the system, and of this container's process numbers; null where the system has none. */
  readonly boot: string | null;
  readonly space: string | null;
}

function orNull<T>(read: () => T): T | null {
  try {
    return read();
  } catch {
    return null;
  }
}

/** When a process began, as a text to compare; null where that cannot be told. Clock jumps do not change it on Linux. */
function startOf(pid: number): string | null {
  return orNull(() => {
    if (process.platform === "win32") return null;
    if (process.platform !== "linux")
      return execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8" }).trim() || null;
    // Field 22 of proc(5): ticks since the system's start. The second field, a name, may hold spaces and brackets.
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\)/s, "").trim().split(" ");
    return fields[19];
  });
}

function self(): Holder {
  return {
    token: randomUUID(),
    pid: process.pid,
    started: startOf(process.pid),
    host: hostname(),
    boot: orNull(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()),
    space: orNull(() => readlinkSync("/proc/self/ns/pid")),
  };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "EPERM"; // another user's
  }
}

/** What a lock's file says; null for one that no process of ours wrote whole. */
function parse(text: string): Holder | null {
  return orNull(() => {
    const found = JSON.parse(text) as Partial<Record<keyof Holder, unknown>>;
    const { pid, started, boot, space } = found;
    // Not whole where it is longer than any that we write: the host's name comes into a message.
    const word = (value: unknown) => (typeof value === "string" ? value.slice(0, MAX_WORD) : null);
    if (!Number.isSafeInteger(pid) || (pid as number) < 1) return null;
    const token = word(found.token) ?? "";
    return { token, pid: pid as number, started: word(started), host: word(found.host) ?? "?", boot: word(boot), space: word(space) }; // prettier-ignore
  });
}

/** Seconds since the lock was touched, by the clock of the disk that it lies on. */
async function silence(dir: string, touched: number): Promise<number> {
  const probe = join(dir, `${LOCK}.${randomUUID()}.partial`);
  await (await open(probe, "wx")).close();
  try {
    return ((await stat(probe)).mtimeMs - touched) / 1000;
  } finally {
    await rm(probe, { force: true });
  }
}

/** Whether the process that wrote a lock has certainly ended; else what is known of it. */
async function holderOf(dir: string, text: string, touched: number): Promise<{ ended: boolean; what: string }> {
  const holder = parse(text);
  const me = self();
  if (holder?.host === me.host) {
    if (holder.boot !== me.boot) return { ended: true, what: "of before the restart" };
    if (holder.space === me.space) {
      const what = `process ${holder.pid}`;
      if (!isAlive(holder.pid)) return { ended: true, what };
      const start = startOf(holder.pid);
      // A process that is only stopped (Ctrl-Z) is silent, and goes on some day: where starts can be told, they decide.
      if (start !== null && holder.started !== null) return { ended: start !== holder.started, what };
    }
  }
  const quiet = await silence(dir, touched);
  const where = holder ? `process ${holder.pid} on ${holder.host}` : "another process";
  return { ended: quiet > SILENT_SECONDS, what: `${where}, whose last sign of life came ${Math.max(0, Math.round(quiet))} s ago` }; // prettier-ignore
}

/** The right to write to a run's folder, from {@link take} until {@link release} or the end of the process. */
export class RunLock {
  private readonly beats: NodeJS.Timeout;
  private taken = false;

  private constructor(
    private readonly path: string,
    private readonly text: string,
  ) {
    this.beats = setInterval(() => void this.beat(), BEAT_SECONDS * 1000);
    this.beats.unref();
    process.on("exit", this.release);
  }

  /**
   * Takes the lock of a folder that exists.
   * @throws {UserError} when another process has it, or the folder cannot be written to.
   */
  static async take(dir: string): Promise<RunLock> {
    const path = join(dir, LOCK);
    const text = `${JSON.stringify(self())}\n`;
    try {
      while (!(await create(path, text))) {
        const found = await Promise.all([readFile(path, "utf8"), stat(path)]).catch((cause: unknown) => {
          if ((cause as NodeJS.ErrnoException).code === "ENOENT") return null; // released just now
          throw cause;
        });
        if (found === null) continue;
        const { ended, what } = await holderOf(dir, found[0], found[1].mtimeMs);
        if (!ended) {
          throw new UserError(
            dir,
            `expected a run that nothing else works on, got one that ${what} works on`,
            `wait for it or stop it; remove ${path} if it has ended`,
          );
        }
        if (!(await remove(dir, path, found[0]))) await new Promise((done) => setTimeout(done, TURN_MS));
      }
    } catch (cause) {
      throw fileError(path, "write", cause);
    }
    return new RunLock(path, text);
  }

  /**
   * Makes sure that the lock is still this process's.
   * @throws {UserError} when another process has taken the run over, which it can where somebody has removed the file.
   */
  check(): void {
    if (!this.taken) return;
    throw new UserError(
      this.path,
      "expected the lock of this process, got another's: something else works on this run now",
      "let that go on; this one ends here",
    );
  }

  /** Gives the folder free; only what this process wrote is removed. */
  readonly release = (): void => {
    clearInterval(this.beats);
    process.off("exit", this.release);
    orNull(() => {
      if (readFileSync(this.path, "utf8") === this.text) rmSync(this.path);
    });
  };

  private async beat(): Promise<void> {
    try {
      const file = await open(this.path, "r+");
      try {
        if ((await file.readFile("utf8")) !== this.text) this.taken = true;
        // The same bytes again: the time of the file is then the disk's, whatever this computer's clock says.
        else await file.write(this.text, 0);
      } finally {
        await file.close();
      }
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === "ENOENT") await create(this.path, this.text).catch(() => false);
      // A disk that is full or not there for a while takes nothing over; the next beat tries again.
    }
  }
}

/** Makes the lock's file with its text in one step. @returns false where there is one */
async function create(path: string, text: string): Promise<boolean> {
  const own = `${path}.${randomUUID()}.partial`;
  try {
    const file = await open(own, "wx");
    try {
      await file.writeFile(text);
    } finally {
      await file.close();
    }
    return await link(own, path).then(() => true, (cause: unknown) => afterLink(path, text, cause)); // prettier-ignore
  } finally {
    await rm(own, { force: true });
  }
}

function afterLink(path: string, text: string, cause: unknown): false | Promise<boolean> {
  const { code } = cause as NodeJS.ErrnoException;
  // ENOENT: who holds the lock has tidied up, and taken our file for a leftover.
  if (code === "EEXIST" || code === "ENOENT") return false;
  if (code === "EPERM" || code === "ENOTSUP" || code === "EOPNOTSUPP") return createWithoutLinks(path, text);
  throw cause;
}

/** Some file systems have no links; there the text comes a moment after the name. */
async function createWithoutLinks(path: string, text: string): Promise<boolean> {
  const file = await open(path, "wx").catch((cause: unknown) => {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return null;
    throw cause;
  });
  await file?.writeFile(text);
  await file?.close();
  return file !== null;
}

/**
 * Removes the lock with this text. One process at a time does: with two, the second could take away what the first has made in its place.
 * @returns false where another is at it
 */
async function remove(dir: string, path: string, text: string): Promise<boolean> {
  const turn = `${path}.removal.partial`;
  const mine = await open(turn, "wx").catch((cause: unknown) => {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return null;
    throw cause;
  });
  if (!mine) {
    // It lasts for milliseconds, unless a process is killed in them.
    const made = await stat(turn).catch(() => null);
    if (made && (await silence(dir, made.mtimeMs)) > SILENT_SECONDS) await rm(turn, { force: true });
    return false;
  }
  try {
    await mine.close();
    // What stands there now cannot become another's: nobody makes a lock where there is one.
    if ((await readFile(path, "utf8").catch(() => null)) === text) await rm(path, { force: true });
    return true;
  } finally {
    await rm(turn, { force: true });
  }
}
