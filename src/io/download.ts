/** Files by URL: downloaded once into the user's cache folder, whole or not at all. Node only. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { cacheFolder } from "#software-adapter";
import { UserError } from "../errors.js";
import { quote } from "./byteReader.js";

/** How far a download has come. */
export interface DownloadProgress {
  /** File name. */
  readonly name: string;
  /** Bytes so far. */
  readonly received: number;
  /** Bytes in all; null where the server does not say. */
  readonly total: number | null;
}

/** Options of {@link cachedDownload}. */
export interface DownloadOptions {
  /** Called after each piece. */
  readonly onProgress?: ((progress: DownloadProgress) => void) | undefined;
  /** Refuses larger files; default 4 GiB. */
  readonly maxBytes?: number;
  /** Refuses servers that send nothing, or less than 1 KiB of the file, for so long; default 30,000 ms. */
  readonly timeoutMs?: number;
  /** Where files are kept; default `downloads` in the user's cache folder (`$XDG_CACHE_HOME/pconv-webgpu`, `~/.cache/...`). */
  readonly folder?: string;
}

const MAX_BYTES = 2 ** 32;
const TIMEOUT_MS = 30_000;
const MAX_REDIRECTS = 10;
/** Of less in the time above, a file of megabytes would take weeks: some servers mean to hold on to those who ask. */
const SIGN_OF_LIFE_BYTES = 1024;
/** A download that has not grown for so long is not going on. */
const ABANDONED_MS = 3_600_000;

interface Wanted {
  /** Without its fragment. */
  readonly url: URL;
  /** For messages: no user name, password or query, which may be secret. */
  readonly shown: string;
  /** Hexadecimal digits that the file's SHA-256 begins with; null: any file will do. */
  readonly sha256: string | null;
  readonly name: string;
}

const byHand = "or download the file by hand, in a browser or on another machine, and pass its path";

function parse(text: string): Wanted {
  let url: URL;
  try {
    url = new URL(text);
  } catch (cause) {
    throw new UserError(quote(text), "expected an address on the web, got something else", "check the URL", { cause });
  }
  const shown = url.origin + url.pathname;
  let sha256: string | null = null;
  if (url.hash !== "") {
    const digits = /^#sha256=([0-9a-f]{8,64})$/i.exec(url.hash)?.[1];
    if (digits === undefined) {
      const problem = `expected #sha256= and 8 to 64 hexadecimal digits at the end, got ${quote(url.hash)}`;
      throw new UserError(shown, problem, "give the digits that the file's SHA-256 begins with, or leave it out");
    }
    sha256 = digits.toLowerCase();
  }
  if (url.username !== "" || url.password !== "") {
    throw new UserError(shown, "expected a URL without user name and password, got them", `leave them out, ${byHand}`);
  }
  url.hash = "";
  const name = basename(url.pathname).replace(/[^\w.-]+/g, "_").slice(-80); // prettier-ignore
  return { url, shown, sha256, name: name === "" || /^\.+$/.test(name) ? "file" : name };
}

/**
 * The path of the file at `url`, which is downloaded unless the cache has it. A fragment `#sha256=HEX` (8 to 64 digits that the
 * digest begins with) is checked, also for what the cache has. Redirects are followed to http and https, from https only to
 * https unless there is a digest to check. A file without a digest stays in the cache as it first was.
 *
 * @throws {UserError} no connection, a refusal, a file that is too large, cut off, or has another digest; no cache folder
 */
export async function cachedDownload(url: string, options: DownloadOptions = {}): Promise<string> {
  const wanted = parse(url);
  const folder = options.folder ?? join(cacheFolder(), "downloads");
  const key = createHash("sha256").update(wanted.url.href).digest("hex").slice(0, 16);
  const path = join(folder, `${key}-${wanted.name}`);
  if (await isFile(path)) {
    if (wanted.sha256 === null || (await digestOf(path)).startsWith(wanted.sha256)) return path;
    // It stays until another one is there in its place: the digest may be mistyped.
  }
  const partial = `${path}.partial-${process.pid}-${Math.random().toString(36).slice(2, 8)}`;
  try {
    await mkdir(folder, { recursive: true });
    await removeAbandoned(folder);
    await downloadTo(partial, wanted, options);
    await rename(partial, path);
  } catch (cause) {
    await rm(partial, { force: true }).catch(() => undefined); // the first error is the one to report
    if (cause instanceof UserError || !(cause instanceof Error && "code" in cause)) throw cause;
    const problem = `expected room for the file in ${folder}, got ${cause.message}`;
    throw new UserError(wanted.shown, problem, `free some space, or set XDG_CACHE_HOME to another folder, ${byHand}`, {
      cause,
    });
  }
  return path;
}

/** Removes what interrupted downloads left: nothing writes to them any more. */
async function removeAbandoned(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!/\.partial-\d+-\w+$/.test(name)) continue;
    const path = join(folder, name);
    const found = await stat(path).catch(() => null); // another process may have finished it
    if (found && Date.now() - found.mtimeMs > ABANDONED_MS) await rm(path, { force: true });
  }
}

const isFile = (path: string): Promise<boolean> =>
  stat(path).then(
    (found) => found.isFile(),
    () => false,
  );

async function digestOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(path)) hash.update(piece as Uint8Array);
  return hash.digest("hex");
}

/** Aborts what waits for a server that has gone silent. */
class Patience {
  private readonly controller = new AbortController();
  private timer: NodeJS.Timeout | undefined;
  private bytes = 0;
  /** Whether some of the file has come. */
  reached = false;
  /** Rejects when patience ends. */
  readonly ended = new Promise<never>((_, reject) => {
    this.signal.addEventListener("abort", () => reject(new Error("aborted")), { once: true });
  });

  constructor(private readonly ms: number) {
    this.ended.catch(() => undefined); // where nothing waits for it
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** There was a sign of life. */
  renew(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.controller.abort(), this.ms);
  }

  /** Some of the file came, which is a sign of life once it is enough. */
  received(bytes: number): void {
    this.reached = true;
    this.bytes += bytes;
    if (this.bytes < SIGN_OF_LIFE_BYTES) return;
    this.bytes = 0;
    this.renew();
  }

  /** Nothing more is wanted: what is still coming is cut off, or it would keep the process alive until it has come. */
  stop(): void {
    clearTimeout(this.timer);
    this.controller.abort();
  }
}

async function downloadTo(partial: string, wanted: Wanted, o: DownloadOptions): Promise<void> {
  const { timeoutMs = TIMEOUT_MS } = o;
  const patience = new Patience(timeoutMs);
  const fail = (problem: string, help: string, cause?: unknown): never => {
    throw new UserError(wanted.shown, problem, help, { cause });
  };
  const connected = async <T>(work: Promise<T>): Promise<T> => {
    try {
      // Not by the signal alone: where a packed answer is damaged from the start, fetch's body neither ends nor hears of it.
      return await Promise.race([work, patience.ended]);
    } catch (cause) {
      const little = patience.reached ? `less than ${SIGN_OF_LIFE_BYTES} bytes in` : "nothing for";
      const silent = patience.signal.aborted ? `${little} ${timeoutMs / 1000} s` : `no connection (${reason(cause)})`;
      return fail(`expected the file from this address, got ${silent}`, `check the network and the address, ${byHand}`, cause); // prettier-ignore
    }
  };
  patience.renew();
  try {
    const response = await follow(wanted, patience, connected, fail);
    await store(response, partial, { wanted, options: o, patience, connected, fail });
  } finally {
    patience.stop();
  }
}

type Connected = <T>(work: Promise<T>) => Promise<T>;
type Fail = (problem: string, help: string, cause?: unknown) => never;

/** fetch hides why it failed in its cause. */
function reason(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  if (!(cause instanceof Error)) return String(cause);
  const { code } = cause as NodeJS.ErrnoException;
  return code !== undefined && !cause.message.includes(code) ? `${code} ${cause.message}`.trim() : cause.message;
}

async function follow(wanted: Wanted, patience: Patience, connected: Connected, fail: Fail): Promise<Response> {
  let { url } = wanted;
  for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
    // Compressed on the way, its length would not be the file's.
    const headers = { "accept-encoding": "identity", "user-agent": "pconv-webgpu" };
    const response = await connected(fetch(url, { redirect: "manual", signal: patience.signal, headers }));
    patience.renew();
    const { status, statusText } = response;
    if (status === 200) return response;
    void response.body?.cancel().catch(() => undefined);
    const location = response.headers.get("location");
    if (status < 300 || status > 399 || location === null) {
      fail(`expected the file, got HTTP ${status} ${statusText}`.trim(), `check the address, ${byHand}`);
    }
    const next = URL.canParse(location, url) ? new URL(location, url) : null;
    const web = next !== null && ["http:", "https:"].includes(next.protocol);
    if (!web || (url.protocol === "https:" && next.protocol === "http:" && wanted.sha256 === null)) {
      fail(`expected a redirect to https, got one to ${quote(location)}`, `add #sha256=... to the URL, ${byHand}`);
    }
    url = next!;
  }
  return fail(`expected at most ${MAX_REDIRECTS} redirects, got more`, `check the address, ${byHand}`);
}

async function store(
  response: Response,
  partial: string,
  context: { wanted: Wanted; options: DownloadOptions; patience: Patience; connected: Connected; fail: Fail },
): Promise<void> {
  const { wanted, options, patience, connected, fail } = context;
  const { maxBytes = MAX_BYTES, onProgress } = options;
  const encoded = response.headers.get("content-encoding") ?? "identity";
  const stated = Number(response.headers.get("content-length") ?? NaN);
  const total = Number.isSafeInteger(stated) && encoded === "identity" ? stated : null;
  const tooLarge = (bytes: string) => fail(`expected at most ${maxBytes} bytes, got ${bytes}`, "check the address");
  if (total !== null && total > maxBytes) tooLarge(`${total}`);
  if (!response.body) fail("expected the file, got an empty answer", `check the address, ${byHand}`);

  const hash = createHash("sha256");
  const file = await open(partial, "wx");
  const reader = response.body!.getReader();
  let received = 0;
  try {
    for (;;) {
      const { done, value } = await connected(reader.read());
      if (done) break;
      patience.received(value.length);
      received += value.length;
      if (received > maxBytes) tooLarge("more");
      hash.update(value);
      await file.writeFile(value);
      onProgress?.({ name: wanted.name, received, total });
    }
    await file.sync();
  } finally {
    void reader.cancel().catch(() => undefined); // what is still coming is not wanted
    await file.close();
  }
  if (total !== null && received !== total) {
    fail(`expected ${total} bytes, got ${received}: the connection broke off`, `try again, ${byHand}`);
  }
  const digest = hash.digest("hex");
  if (wanted.sha256 !== null && !digest.startsWith(wanted.sha256)) {
    fail(
      `expected a file whose SHA-256 begins with ${wanted.sha256}, got ${digest}`,
      "it is another file than the one that was meant, or was changed on the way: do not use it; check the address",
    );
  }
}
