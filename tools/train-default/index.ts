#!/usr/bin/env node
/** `npm run train-default`: trains the network that comes with the package. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { writeDrawing } from "../../bench/drawing.js";
import { integer, runCommand } from "../command.js";
import { phaseTable, readLog, trainingCurve } from "./curve.js";
import { addBase, packOptimizer, packWeights } from "./pack.js";
import { lastCheckpoint, trainPhase } from "./phase.js";
import { COMMON, type Phase, PHASES } from "./recipe.js";

interface Options {
  readonly photos: string;
  readonly masks: string;
  readonly validation?: string;
  readonly vggPath: string;
  readonly out: string;
  readonly continue?: number;
  readonly install?: true;
}

/** Fewer would leave no point of the curve, and no trace in the averaged weights. */
const LEAST_STEPS = 1000;

// From dist/tools/train-default, or from tools/train-default itself, the repository's root.
const ROOT = fileURLToPath(new URL(import.meta.url.includes("/dist/") ? "../../../" : "../../", import.meta.url));
const SHIPPED = join(ROOT, "models", "default.safetensors");
const MOMENTS = join(ROOT, "tools", "train-default", "state", "optimizer.safetensors");

const lastWithoutVgg = (phases: readonly Phase[]): number => phases.findLastIndex(({ vgg }) => !vgg);

/** The last phase without VGG once more, from the network as it is shipped and from its moments, and what follows it. */
function continued(steps: number): readonly Phase[] {
  const at = lastWithoutVgg(PHASES);
  const again = PHASES[at];
  const options = again.options.map((o, i) => (again.options[i - 1] === "--seed" ? String(1000 + steps) : o));
  return [{ ...again, name: `continued-${steps}`, steps, options, newBase: undefined }, ...PHASES.slice(at + 1)];
}

async function run(o: Options): Promise<void> {
  const phases = o.continue === undefined ? PHASES : continued(o.continue);
  await mkdir(o.out, { recursive: true });
  const folders = phases.map(({ name }) => join(o.out, name));
  let start = o.continue === undefined ? [] : ["--checkpoint", SHIPPED, "--checkpoint-optimizer", MOMENTS];
  for (const [i, { name, steps, batchSize, imageSize, newBase, vgg, options }] of phases.entries()) {
    if (newBase) {
      const [, weights] = start;
      start = ["--checkpoint", join(o.out, `${name}-start.safetensors`)];
      await addBase(weights, start[1]);
    }
    console.error(`phase ${name}: ${steps} steps of ${batchSize} at ${imageSize}x${imageSize}`);
    await trainPhase(folders[i], [
      ...[
        "--train",
        o.photos,
        "--masks",
        o.masks,
        ...(o.validation === undefined ? [] : ["--validation", o.validation]),
      ],
      ...["--steps", String(steps), "--batch-size", String(batchSize), "--image-size", String(imageSize)],
      ...(vgg ? ["--vgg-path", o.vggPath] : ["--no-vgg"]),
      ...[...COMMON, ...options, ...start],
    ]);
    start = ["--checkpoint", join(await lastCheckpoint(folders[i]), "ema.safetensors")];
  }
  const last = await lastCheckpoint(folders[folders.length - 1]);
  const [weights, moments] = o.install ? [SHIPPED, MOMENTS] : ["default.safetensors", "optimizer.safetensors"].map((name) => join(o.out, name)); // prettier-ignore
  await packWeights(join(last, "ema.safetensors"), weights, {
    "pconv-webgpu.recipe": phases.map(({ name }) => name).join(" "),
  });
  // What a continued training begins with is the phase without VGG.
  const toContinue = await lastCheckpoint(folders[lastWithoutVgg(phases)]);
  await packOptimizer(join(toContinue, "optimizer.safetensors"), moments);
  const logs = await Promise.all(phases.map((phase, i) => readLog(phase, folders[i])));
  await writeDrawing(join(o.out, "curve.png"), trainingCurve(logs));
  console.log(phaseTable(logs));
  console.log(`weights: ${weights}\noptimizer: ${moments}\ncurve: ${join(o.out, "curve.png")}`);
}

const command = new Command("train-default")
  .description(
    "Trains the network that comes with the package, phase by phase (tools/train-default/recipe.ts). Stopped, by Ctrl-C or worse, " +
      "the same command goes on from the last checkpoint.",
  )
  .requiredOption("--photos <dir>", "folder of training photos, 256 pixels high or more")
  .requiredOption("--masks <dir>", "folder of masks, white = hole; half of the masks are drawn")
  .option("--validation <dir>", "folder of validation photos")
  .option(
    "--vgg-path <file>",
    "VGG16 or VGG19 weights for the last phase; auto downloads torchvision's VGG16 once",
    "auto",
  )
  .option("--out <dir>", "folder of the phases' runs", "runs/default")
  .option(
    "--continue <steps>",
    "train the shipped network on, for so many steps, instead of a new one",
    integer(LEAST_STEPS),
  )
  .option(
    "--install",
    "put weights and optimizer where they are shipped and continued from (models/, tools/train-default/state/)",
  )
  .option("--debug", "show stack traces")
  .action(run);

await runCommand(command);
