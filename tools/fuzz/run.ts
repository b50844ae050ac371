/** The folder of a training run, as `pconv-train --resume` reads it. */
import { writeSafetensors } from "../../src/io/safetensors.js";
import { checksumsOf } from "../../src/io/checksums.js";
import type { Rng } from "../../src/pconv/rng.js";
import { trainCommand } from "../train/command.js";
import { invocation } from "../train/options.js";
import { findStart } from "../train/start.js";
import { chance, mutateBytes, pick, utf8 } from "./bytes.js";
import { Broken, type FuzzFormat } from "./case.js";
import { mutateJson } from "./json.js";

const STEP = "step-00000002";
const STATE = { step: 2, best: { step: 2, score: 21.5, of: "photos" }, interval: { sum: 1.5, count: 2 }, due: false };
const LOG = [1, 2, 3].map((step) => `${JSON.stringify({ step, loss: 0.5 })}\n`).join("");

const call = (dir: string) => invocation(trainCommand().parse(["--resume", "--out", dir], { from: "user" }));

export const configFormat: FuzzFormat = {
  name: "config",
  async prepare() {},
  make(rng) {
    // What a new run without any option writes.
    const config: object = { ...call("runs/x").options, vggPath: null, steps: 5 };
    const weights = writeSafetensors([["a", { dtype: "F32", shape: [1], values: Float32Array.of(1) }]]);
    const checkpoint = spoilt(
      { "model.safetensors": weights, "optimizer.safetensors": weights, "state.json": utf8(JSON.stringify(STATE)) },
      rng,
    );
    const sums = checksumsOf(checkpoint);
    const files: Record<string, Uint8Array> = {
      "config.json": chance(0.6, rng) ? utf8(mutateJson(config, rng)) : utf8(JSON.stringify(config)),
      "log.jsonl": chance(0.3, rng) ? mutateBytes(utf8(LOG), rng, ['{"step":', "\n", "null", "1e999"].map(utf8)) : utf8(LOG), // prettier-ignore
    };
    const name = chance(0.1, rng) ? pick(["step-99999999999999999999", "step-00000000", "step-2", "step-00000003", "step-00000002.partial", "\u001b[2J"], rng) : STEP; // prettier-ignore
    for (const [file, bytes] of Object.entries(checkpoint)) files[`${name}/${file}`] = bytes;
    if (chance(0.8, rng)) files[`${name}/checksums.json`] = spoiltSums(sums, rng);
    if (chance(0.1, rng)) files["run.lock"] = utf8(mutateJson({ token: "x", pid: 1, started: null, host: "x", boot: null, space: null }, rng)); // prettier-ignore
    if (chance(0.05, rng)) files["config.json"] = mutateBytes(files["config.json"], rng);
    return { files };
  },
  async read(folder) {
    const warnings: string[] = [];
    const { o, folder: run, state } = await findStart(call(folder), (text) => warnings.push(text));
    try {
      await run!.truncateLog(state.step);
    } finally {
      run!.release();
    }
    const bad = warnings.find((text) => /\p{Cc}/u.test(text));
    if (bad !== undefined) throw new Broken(`a warning with control characters: ${JSON.stringify(bad)}`);
    const numbers = Object.values(o).filter((v) => typeof v === "number");
    if (!numbers.every(Number.isFinite)) throw new Broken("an option that is not finite");
    if (Object.getPrototypeOf(o) !== Object.prototype) throw new Broken("options with another prototype");
  },
};

/** A checkpoint's files, some of them spoilt; its checksums come afterwards, or nothing would get past them. */
function spoilt(files: Record<string, Uint8Array>, rng: Rng): Record<string, Uint8Array> {
  const kind = rng.integer(0, 3);
  if (kind === 0) return { ...files, "state.json": utf8(mutateJson(STATE, rng)) };
  const name = pick(Object.keys(files), rng);
  return kind === 1 ? { ...files, [name]: mutateBytes(files[name], rng) } : files;
}

function spoiltSums(sums: Uint8Array, rng: Rng): Uint8Array {
  const kind = rng.integer(0, 9);
  if (kind === 0) return mutateBytes(sums, rng);
  return kind === 1 ? utf8(mutateJson(JSON.parse(Buffer.from(sums).toString()) as object, rng)) : sums;
}
