#!/usr/bin/env node
/** `npm run golden -- DIR`: replays a pconv-golden/1 folder on the adapter, one line a case, then `N passed, M failed`. */
import { Command } from "commander";
import { openGpu } from "../src/gpu/node.js";
import { runCommand } from "./command.js";
import { GoldenFolder } from "./golden/manifest.js";
import { replay } from "./golden/replay.js";

const command = new Command("golden")
  .description("Replays a folder of reference cases (pconv-golden/1) on the adapter; exits with 1 when one fails.")
  .argument("<dir>", "folder with manifest.json and its safetensors files")
  .option("--only <text>", "only cases whose id or operation contains the text")
  .option("--debug", "show stack traces")
  .action(async (dir: string, options: { only?: string }) => {
    const folder = await GoldenFolder.open(dir);
    const gpu = await openGpu();
    console.error(`adapter: ${gpu.adapter.name}`);
    let passed = 0;
    let failed = 0;
    const missing: string[] = [];
    for await (const verdict of replay(gpu, folder, options.only)) {
      const { id, op, failures } = verdict;
      if (verdict.missing) {
        missing.push(id);
        console.log(`--   ${id} ${op}: not run, the folder lacks its file ${verdict.missing}`);
        continue;
      }
      if (failures.length === 0) passed++;
      else failed++;
      console.log(
        `${failures.length === 0 ? "ok  " : "FAIL"} ${id} ${op}${failures.map((f) => `\n     ${f}`).join("")}`,
      );
    }
    if (missing.length > 0) console.log(`${missing.length} not run for lack of a file: ${missing.join(", ")}`);
    console.log(`${passed} passed, ${failed} failed`);
    gpu.close();
    process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
  });

await runCommand(command);
