#!/usr/bin/env node
/** `npm run golden -- DIR`: replays a pconv-golden/1 folder on the adapter, one line a case, then `N passed, M failed`. */
import { Command } from "commander";
import type { Gpu } from "../src/gpu/gpu.js";
import { openGpu } from "../src/gpu/node.js";
import { runCommand } from "./command.js";
import { checkFixture } from "./golden/fixtures.js";
import { adamSteps, gramMatrix, partialConv, pcbActiv, vggFeatures } from "./golden/layers.js";
import { loss, LOSS_OPS } from "./golden/losses.js";
import { compare, type Computed, type GoldenCase, GoldenFolder } from "./golden/manifest.js";
import { evaluate, type Runs, trainStep } from "./golden/unet.js";

async function compute(gpu: Gpu, folder: GoldenFolder, c: GoldenCase, runs: Runs): Promise<{ computed: Computed; slack: number }> {
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

const command = new Command("golden")
  .description("Replays a folder of reference cases (pconv-golden/1) on the adapter; exits with 1 when one fails.")
  .argument("<dir>", "folder with manifest.json and its safetensors files")
  .option("--only <text>", "only cases whose id or operation contains the text")
  .option("--debug", "show stack traces")
  .action(async (dir: string, options: { only?: string }) => {
    const folder = await GoldenFolder.open(dir);
    const gpu = await openGpu();
    console.error(`adapter: ${gpu.adapter.name}`);
    const runs: Runs = new Map();
    let passed = 0;
    let failed = 0;
    const report = async (id: string, what: string, check: () => Promise<string[]>) => {
      if (options.only && !id.includes(options.only) && !what.includes(options.only)) return;
      const failures = await check().catch((error: unknown) => [error instanceof Error ? error.message : String(error)]);
      if (failures.length === 0) passed++;
      else failed++;
      console.log(`${failures.length === 0 ? "ok  " : "FAIL"} ${id} ${what}${failures.map((f) => `\n     ${f}`).join("")}`);
    };
    for (const c of folder.manifest.cases) {
      await report(c.id, c.op, async () => {
        const { computed, slack } = await compute(gpu, folder, c, runs);
        return compare(folder, c, computed, slack);
      });
    }
    for (const f of folder.manifest.fixtures ?? []) await report(f.file, "fixture", () => checkFixture(folder, f));
    console.log(`${passed} passed, ${failed} failed`);
    gpu.close();
    process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
  });

await runCommand(command);
