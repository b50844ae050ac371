/** Replays the cases of a folder, one by one. */
import type { Gpu } from "../../src/gpu/gpu.js";
import { checkFixture } from "./fixtures.js";
import { adamSteps, gramMatrix, partialConv, pcbActiv, vggFeatures } from "./layers.js";
import { loss, LOSS_OPS } from "./losses.js";
import type { GoldenFolder } from "./manifest.js";
import { compare, type Computed, type GoldenCase } from "./manifest.js";
import { evaluate, type Runs, trainStep } from "./unet.js";

async function compute(
  gpu: Gpu,
  folder: GoldenFolder,
  c: GoldenCase,
  runs: Runs,
): Promise<{ computed: Computed; slack: number }> {
  const exactly = async (computed: Promise<Computed>) => ({ computed: await computed, slack: 1 });
  if (Object.hasOwn(LOSS_OPS, c.op)) return exactly(loss(gpu, folder, c, LOSS_OPS[c.op]));
  switch (c.op) {
    case "nvidia.PartialConv2d":
      return exactly(partialConv(gpu, folder, c, "paper"));
    case "naoto.PartialConv":
      return exactly(partialConv(gpu, folder, c, "pytorch"));
    case "keras.PConv2D":
      return exactly(partialConv(gpu, folder, c, "keras"));
    case "naoto.PCBActiv":
      return exactly(pcbActiv(gpu, folder, c));
    case "vgg.features":
      return exactly(vggFeatures(gpu, folder, c));
    case "gram":
      return exactly(gramMatrix(gpu, folder, c));
    case "adam":
      return exactly(adamSteps(gpu, folder, c));
    case "unet.train_step":
    case "unet.loss_grad":
      return trainStep(gpu, folder, c, runs);
    case "unet.forward_eval":
      return exactly(evaluate(gpu, folder, c, runs));
    default:
      throw new Error(`unknown operation ${c.op}`);
  }
}

/** How one case or fixture went. */
export interface Verdict {
  readonly id: string;
  readonly op: string;
  /** What differed; empty when it passed. */
  readonly failures: readonly string[];
  /** A file that the case needs and the folder lacks: the case could not be run. */
  readonly missing?: string;
}

/** Replays everything in a folder whose id or operation contains `only`. A case of an unknown operation fails. */
export async function* replay(gpu: Gpu, folder: GoldenFolder, only = ""): AsyncGenerator<Verdict> {
  const runs: Runs = new Map();
  const text = (error: unknown) => [error instanceof Error ? error.message : String(error)];
  for (const c of folder.manifest.cases) {
    if (!c.id.includes(only) && !c.op.includes(only)) continue;
    const missing = await folder.missingFile(c);
    const failures = missing
      ? []
      : await compute(gpu, folder, c, runs)
          .then(({ computed, slack }) => compare(folder, c, computed, slack))
          .catch(text);
    yield { id: c.id, op: c.op, failures, ...(missing ? { missing } : {}) };
  }
  for (const f of folder.manifest.fixtures ?? []) {
    if (f.file.includes(only)) yield { id: f.file, op: "fixture", failures: await checkFixture(folder, f).catch(text) };
  }
}
