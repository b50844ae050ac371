/** The network of a run: fresh, from --checkpoint, or from the run's own last checkpoint. */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { FormatError, UserError } from "../../src/errors.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { verifyChecksums } from "../../src/io/checksums.js";
import { loadUNet } from "../../src/io/unetFile.js";
import { PConvUNet, unetConfig } from "../../src/pconv/unet.js";
import { showingDownloads } from "../downloadProgress.js";
import type { TrainOptions } from "./options.js";

/** Name of the weight file in a checkpoint. */
export const MODEL = "model.safetensors";

const wanted = (o: TrainOptions) => ({
  width: o.width,
  depth: o.depth,
  bnStatistics: o.bnStatistics,
  base: o.base,
  convention: o.ratio ? ("paper" as const) : ("unscaled" as const),
});

/**
 * Makes sure that a network is the one that the options describe; frees it if not.
 * @param help what to do then
 * @throws {FormatError} when it is not
 */
export function checkModel(model: PConvUNet, o: TrainOptions, path: string, help: string): void {
  const { channels, bnStatistics, range, base, convention } = model.config;
  const expected = unetConfig(wanted(o)).channels;
  const refuse = (problem: string, how = help) => {
    model.free();
    return new FormatError(path, problem, how);
  };
  if (channels.join() !== expected.join()) {
    throw refuse(
      `expected a network of ${expected.join(", ")} channels (--width ${o.width} --depth ${o.depth}), got ${channels.join(", ")}`,
    );
  }
  const own = convention === "paper" || convention === "unscaled";
  if (own && convention !== wanted(o).convention) {
    throw refuse(`expected a network ${o.ratio ? "with" : "without"} the ratio, got the other`);
  }
  if (range !== "unit" || !own) {
    throw refuse(
      `expected a network on images in 0..1 with the paper's layer, got ${range} and ${convention}`,
      "train on with weights of this library",
    );
  }
  if (base !== o.base) throw refuse(`expected a network with --base ${o.base}, got ${base}`);
  if (bnStatistics !== o.bnStatistics) {
    throw refuse(`expected a network with --bn-statistics ${o.bnStatistics}, got ${bnStatistics}`);
  }
}

/** The network that a run starts from: new, or `--checkpoint`, a checkpoint folder of a run or a weight file. */
export async function startingModel(gpu: Gpu, o: TrainOptions): Promise<PConvUNet> {
  if (o.checkpoint === null) return new PConvUNet(gpu, wanted(o), o.seed);
  const isFolder = await stat(o.checkpoint).then((s) => s.isDirectory(), () => false); // prettier-ignore
  const path = isFolder ? join(o.checkpoint, MODEL) : o.checkpoint;
  if (isFolder && !(await stat(path).catch(() => null))) {
    throw new UserError(
      o.checkpoint,
      `expected a checkpoint folder with ${MODEL}, got one without`,
      "pass runs/NAME/step-XXXXXXXX, or a weight file",
    );
  }
  if (isFolder) await verifyChecksums(o.checkpoint, "use another checkpoint");
  const model = await showingDownloads((onProgress) => loadUNet(gpu, path, { onProgress }));
  checkModel(
    model,
    o,
    path,
    "pass the --width, --depth, --bn-statistics, --base and --no-ratio that the checkpoint was trained with",
  );
  return model;
}
