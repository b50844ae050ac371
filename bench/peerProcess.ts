/** Other frameworks, each in a process of its own: installing them, starting them, asking them. */
import { type ChildProcess, fork, spawn } from "node:child_process";
import { access } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../src/errors.js";
import type { ConvShape } from "../src/kernels/shape.js";
import type { Sampler } from "./sampling.js";
import type { Operands, Pass } from "./workload.js";

export interface Peer {
  /** Its `impl`, and the name of its module in `bench/peers`. */
  readonly impl: string;
  /** Whether it runs on WebGPU, and its time counts for the ratios. */
  readonly webgpu: boolean;
  readonly passes: readonly Pass[];
}

export const PEERS: readonly Peer[] = [
  { impl: "tfjs", webgpu: true, passes: ["forward", "dx", "dw"] },
  { impl: "jax-js", webgpu: true, passes: ["forward", "dx", "dw"] },
  { impl: "onnxruntime-webgpu", webgpu: true, passes: ["forward"] },
  { impl: "onnxruntime-cpu", webgpu: false, passes: ["forward"] },
];

/** Milliseconds until a request counts as hung. The slowest known, a weight gradient of tfjs, takes 15 s a pass. */
const TIME_LIMIT = 120_000;

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  );

/** `bench/peers` of this package: above the source, or above what was built from it. */
async function peersFolder(): Promise<string> {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const peers = join(folder, "bench", "peers");
    if (await exists(join(peers, "peer.mjs"))) return peers;
    if (folder === dirname(folder)) break;
  }
  throw new UserError(
    "--peers",
    "expected the folder bench/peers, got none",
    "install pconv-webgpu again, or clone it",
  );
}

/**
 * Makes sure that the peers are there, and returns their folder.
 * @param say gets the lines that the user should see
 * @throws {UserError} when npm cannot install them
 */
export async function installPeers(say: (line: string) => void): Promise<string> {
  const folder = await peersFolder();
  // npm writes this file last: a broken off installation has none.
  if (await exists(join(folder, "node_modules", ".package-lock.json"))) return folder;
  say(
    `--peers compares with TensorFlow.js, jax-js and onnxruntime, which are no part of this package.\n` +
      `Installing them once, about 400 MB, from the npm registry into ${folder} (no install scripts run); Ctrl-C stops it.`,
  );
  // Through a shell on Windows, where npm is a script.
  const command = `npm ci --prefix "${folder}" --ignore-scripts --no-audit --no-fund --loglevel=http`;
  const child = spawn(command, { shell: true, stdio: ["ignore", 2, 2] }); // stdout is for results
  const code = await new Promise<number | null>((resolve, reject) => child.once("error", reject).once("exit", resolve));
  if (code === 0) return folder;
  throw new UserError(
    "--peers",
    `expected npm to install the peers, got exit status ${code}`,
    `check the network, and that ${folder} is writable; or run \`npm ci --prefix ${folder} --ignore-scripts\` yourself`,
  );
}

/** What a peer says of itself. */
export interface PeerIdentity {
  /** Null where it cannot be known. */
  readonly adapter: string | null;
  readonly version: string;
}

type Reply = { readonly result: unknown } | { readonly error: string };

/** One peer's process; it is started when it is first asked, and again after a crash or a hang. */
export class PeerProcess {
  private child: ChildProcess | null = null;
  private stderr = "";

  constructor(
    readonly peer: Peer,
    private readonly folder: string,
    private readonly timeLimit = TIME_LIMIT,
  ) {}

  /** Starts the peer if need be. */
  async open(): Promise<PeerIdentity> {
    return (await this.ask({ op: "open" })) as PeerIdentity;
  }

  /** A pass over a layer, ready to be timed. */
  async prepare(layer: ConvShape, pass: Pass, operands: Operands): Promise<Sampler> {
    await this.ask({ op: "prepare", layer, pass, operands });
    return { sample: async (passes) => (await this.ask({ op: "sample", passes })) as number };
  }

  /** The result of the prepared pass for other operands; NHWC or [kh][kw][C][K]. */
  async output(operands: Operands): Promise<Float32Array> {
    return (await this.ask({ op: "output", operands })) as Float32Array;
  }

  /** Forgets the prepared pass. */
  async release(): Promise<void> {
    if (this.child) await this.ask({ op: "free" });
  }

  close(): void {
    this.child?.kill("SIGKILL");
    this.child = null;
  }

  private async start(): Promise<ChildProcess> {
    const child = fork(join(this.folder, "peer.mjs"), [this.peer.impl], {
      serialization: "advanced", // typed arrays as they are
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      execArgv: [],
    });
    this.child = child;
    this.stderr = "";
    child.stderr!.on("data", (text) => (this.stderr = `${this.stderr}${text}`.slice(-2000)));
    await this.answer(child); // it says that it is ready
    return child;
  }

  private async ask(request: Readonly<Record<string, unknown>>): Promise<unknown> {
    const restarted = this.child === null;
    const child = this.child ?? (await this.start());
    if (restarted && request["op"] !== "open") await this.ask({ op: "open" });
    const answer = this.answer(child);
    child.send(request);
    const reply = (await answer) as Reply;
    if ("error" in reply) throw new Error(reply.error);
    return reply.result;
  }

  /** The child's next message; an error when it ends, or says nothing for too long. */
  private answer(child: ChildProcess): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const settle = (error: Error | null, message?: unknown) => {
        clearTimeout(timer);
        child.off("message", onMessage).off("exit", onExit).off("error", onError);
        if (!error) return resolve(message);
        if (this.child === child) this.close();
        reject(error);
      };
      const onMessage = (message: unknown) => settle(null, message);
      const onError = (error: Error) => settle(error);
      const onExit = (code: number | null, signal: string | null) => {
        const lines = this.stderr.trim().split("\n");
        const last = lines.find((line) => /error/i.test(line)) ?? lines[lines.length - 1];
        settle(new Error(`its process ended with ${signal ?? `status ${code}`}${last ? `: ${last.trim()}` : ""}`));
      };
      const timer = setTimeout(
        () => settle(new Error(`did not answer for ${this.timeLimit / 1000} s`)),
        this.timeLimit,
      );
      child.on("message", onMessage).on("exit", onExit).on("error", onError);
    });
  }
}
