#!/usr/bin/env node
/** `pconv-train`: trains a partial convolution U-Net on the user's own images. */
import { runCommand } from "./command.js";
import { amongRanks } from "./ranks.js";
import { trainCommand } from "./train/command.js";
import { invocation } from "./train/options.js";
import { runTraining } from "./train/run.js";

const command = trainCommand();
command.action(async () => {
  await amongRanks(async (ranks) => {
    process.exitCode = await runTraining(invocation(command), undefined, ranks);
  });
});
await runCommand(command);
