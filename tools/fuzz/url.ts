/** Addresses, and servers that misbehave: each case is what a server on this machine sends, byte by byte. */
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { createHash } from "node:crypto";
import { deflateSync, gzipSync } from "node:zlib";
import { UserError } from "../../src/errors.js";
import { readBytes } from "../../src/io/files.js";
import { writeSafetensors } from "../../src/io/safetensors.js";
import { readWeights } from "../../src/io/weights.js";
import type { Rng } from "../../src/pconv/rng.js";
import { chance, concat, latin1, mutateBytes, mutateList, pick, randomBytes, utf8 } from "./bytes.js";
import { Broken, type FuzzFormat } from "./case.js";

/** Patience with servers in ms; most cases do not need it. */
const TIMEOUT_MS = 120;
const MAX_BYTES = 2 ** 20;
const SECRET = "S3CRET";

const FILE = writeSafetensors([["a", { dtype: "F32", shape: [64], values: new Float32Array(64).fill(0.5) }]]);
const DIGEST = createHash("sha256").update(FILE).digest("hex");

/** More than is wanted, packed once and twice. */
const ZEROS = gzipSync(Buffer.alloc(2 ** 24));
const BOMBS = [ZEROS, gzipSync(ZEROS)];

/** How a case's server ends an answer, and the address that is asked for. */
interface Script {
  /** Behind the server's origin, or a whole address. */
  readonly address: string;
  /** `close` the connection, `reset` it, `keep` it open and be silent, or `drip` a byte now and then. */
  readonly ending: "close" | "reset" | "keep" | "drip";
}

let server: Server | undefined;
let origin = "";
let answers: readonly Uint8Array[] = [];
let ending: Script["ending"] = "close";
let asked = 0;

function serve(socket: Socket): void {
  socket.on("error", () => undefined); // the other side may end it as it likes
  socket.once("data", () => {
    const answer = answers[Math.min(asked++, answers.length - 1)];
    if (ending === "close") socket.end(answer);
    else if (ending === "reset") socket.write(answer, () => socket.resetAndDestroy());
    else {
      socket.write(answer);
      const drip = setInterval(() => void (ending === "drip" && socket.writable && socket.write("x")), 20);
      socket.on("close", () => clearInterval(drip));
    }
  });
}

const REDIRECTS = ["/file", "file:///etc/passwd", "ftp://x/y", "data:,x", "javascript:1", "//[::1", "http://", "/\u0000", "http://u:p@127.0.0.1:1/", "http://127.0.0.1:1/", "\u009b[2J", "/".repeat(5000), "?a", "..%2f..%2f", "https://127.0.0.1:1/"]; // prettier-ignore
const STATUS = [...Array<string>(16).fill("200 OK"), "201 Created", "204 No Content", "206 Partial Content", "301 Moved", "302 Found", "304 Not Modified", "307 x", "404 Not Found", "500 \x1b[2J\x9b", "999 ?", "100 Continue", "101 Switching", "0 x", "abc"]; // prettier-ignore

function answer(rng: Rng): Uint8Array {
  let body: Uint8Array = chance(0.3, rng) ? mutateBytes(FILE, rng) : FILE;
  const headers: string[] = [];
  const encoding = rng.integer(0, 11);
  if (encoding < 3) {
    headers.push(`content-encoding: ${pick(["gzip", "gzip, gzip", "deflate", "br", "zstd", "identity", "x"], rng)}`);
    body = pick([gzipSync(body), deflateSync(body), ...BOMBS, body], rng);
  }
  const chunked = chance(0.25, rng);
  if (chunked) {
    headers.push("transfer-encoding: chunked");
    const size = pick(["", "0", "-1", "FFFFFFFFFFFFFFFF", "zz", "1;x=y"], rng);
    const first = chance(0.2, rng) ? size : body.length.toString(16);
    body = concat(latin1(`${first}\r\n`), body, latin1(chance(0.8, rng) ? "\r\n0\r\n\r\n" : "\r\n"));
  }
  if (!chunked || chance(0.2, rng)) {
    const lengths = [body.length, body.length, body.length, body.length + 1, body.length - 1, 0, -1, 2 ** 40, 2 ** 64, NaN]; // prettier-ignore
    if (chance(0.85, rng)) headers.push(`content-length: ${pick(lengths, rng)}`);
  }
  const status = pick(STATUS, rng);
  if (status.startsWith("3") || chance(0.05, rng)) headers.push(`location: ${pick(REDIRECTS, rng)}`);
  if (chance(0.1, rng)) headers.push(pick(["x: \x1b[2J", `y: ${"z".repeat(20_000)}`, "no colon", ": empty", "set-cookie: a=b", "content-length: 5"], rng)); // prettier-ignore
  let lines = [`HTTP/1.1 ${status}`, ...headers];
  if (chance(0.15, rng)) lines = mutateList(lines, rng, (line) => `${line}\0`);
  const whole = concat(latin1(`${lines.join("\r\n")}\r\n\r\n`), body);
  return chance(0.1, rng) ? mutateBytes(whole, rng, ["\r\n\r\n", "HTTP/1.1 200 OK", "\n"].map(latin1)) : whole;
}

const PATHS = ["/file", "/a.safetensors", "/..%2f..%2fx", "/%00", "/", "//", "/a/../../b", `/${"n".repeat(300)}`, "/\u001b", "/ü", "/con", "/.", "/a.partial-1-x"]; // prettier-ignore
const WHOLE = ["http://", "http://[", "http://127.0.0.1:0/", "http://127.0.0.1:99999/", "HTTP://u:p@127.0.0.1:1/x", "https://127.0.0.1:1/x", "http://127.0.0.1:1/x", "http://\u0000/"]; // prettier-ignore
const HASHES = [...Array<string>(8).fill(""), `#sha256=${DIGEST}`, `#sha256=${DIGEST.slice(0, 8)}`, "#sha256=00000000", "#x", "#sha256=", "#sha256=zz"]; // prettier-ignore

export const urlFormat: FuzzFormat = {
  name: "url",
  async prepare() {
    const opened = (server = createServer(serve));
    await new Promise<void>((resolve) => opened.listen(0, "127.0.0.1", resolve));
    opened.unref();
    origin = `http://127.0.0.1:${(opened.address() as AddressInfo).port}`;
  },
  make(rng) {
    const address = chance(0.04, rng) ? pick(WHOLE, rng) : pick(PATHS, rng) + pick(["", "", `?token=${SECRET}`], rng) + pick(HASHES, rng); // prettier-ignore
    // Silence costs the time that the reader waits.
    const script: Script = { address, ending: chance(0.02, rng) ? pick(["keep", "drip"] as const, rng) : pick([...Array<"close">(9).fill("close"), "reset"] as const, rng) }; // prettier-ignore
    const files: Record<string, Uint8Array> = { "script.json": utf8(JSON.stringify(script)) };
    const count = pick([1, 1, 1, 2], rng);
    for (let i = 0; i < count; i++) files[`answer-${i}`] = chance(0.03, rng) ? randomBytes(200, rng) : answer(rng);
    return { files };
  },
  async read(folder, { files }) {
    const script = JSON.parse(Buffer.from(files["script.json"]).toString()) as Script;
    answers = Object.keys(files).filter((name) => name.startsWith("answer-")).sort().map((name) => files[name]); // prettier-ignore
    ending = script.ending;
    asked = 0;
    const url = script.address.startsWith("/") ? origin + script.address : script.address;
    const cache = join(folder, "cache");
    const partialName = `.partial-${process.pid}-`;
    const left = async (): Promise<void> => {
      const names = await readdir(cache).catch(() => []);
      await rm(cache, { recursive: true, force: true });
      const tooMuch = names.length > 1 || names.some((name) => name.includes(partialName));
      if (tooMuch) throw new Broken(`left in the cache: ${names.join(", ")}`);
    };
    try {
      await readWeights(await readBytes(url, { folder: cache, timeoutMs: TIMEOUT_MS, maxBytes: MAX_BYTES }), url);
    } catch (error) {
      await left();
      if (error instanceof UserError && error.message.includes(SECRET)) throw new Broken("a secret in a message");
      throw error;
    }
    await left();
  },
  async close() {
    server?.close();
  },
};
