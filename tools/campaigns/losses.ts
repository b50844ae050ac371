/** `npm run campaign -- losses`: a run that loses its device over and over must end as one that does not. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Rng } from "../../src/pconv/rng.js";
import { differences, finalFiles, TINY, train } from "./program.js";

const STEPS = 200;
const RUN = [...TINY, "--steps", String(STEPS), "--save-every", "10"];

export interface LossesResult {
  readonly campaign: "losses";
  readonly command: string;
  readonly seed: number;
  /** Steps at whose start the device was destroyed. */
  readonly lostAt: readonly number[];
  /** How often the run said that it opened a device again. */
  readonly reopened: number;
  readonly different: readonly string[];
  readonly seconds: number;
}

export async function losses(count: number, seed: number): Promise<LossesResult> {
  const began = performance.now();
  const dir = await mkdtemp(join(tmpdir(), "pconv-losses-"));
  try {
    await train(dir, [...RUN, "--out", "undisturbed"]);
    const lostAt = [...Rng.of(seed).permutation(STEPS)].slice(0, count).map((i) => i + 1).sort((a, b) => a - b); // prettier-ignore
    const faults = lostAt.map((step) => `lose@${step}`).join();
    const { stderr } = await train(dir, [...RUN, "--out", "lost"], { PCONV_FAULTS: faults });
    const reopened = stderr.match(/opening it again/g)?.length ?? 0;
    const different = differences(await finalFiles(join(dir, "lost")), await finalFiles(join(dir, "undisturbed")));
    const seconds = Math.round((performance.now() - began) / 1000);
    return { campaign: "losses", command: `pconv-train ${RUN.join(" ")}`, seed, lostAt, reopened, different, seconds };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
