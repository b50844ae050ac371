#!/usr/bin/env node
/** `pconv`: the commands around inpainting, one subcommand each. */
import { createRequire } from "node:module";
import { Command } from "commander";
import { runCommand } from "./command.js";
import { convertCommand } from "./convert.js";
import { doctorCommand } from "./doctor.js";
import { evaluateCommand } from "./evaluate.js";
import { inpaintCommand } from "./inpaint.js";
import { masksCommand } from "./masks.js";

const { version } = createRequire(import.meta.url)("pconv-webgpu/package.json") as { version: string };

const command = new Command("pconv")
  .description("Partial convolution for irregular-hole image inpainting on WebGPU.")
  .version(version);
for (const subcommand of [convertCommand(), doctorCommand(), inpaintCommand(), masksCommand(), evaluateCommand()])
  command.addCommand(subcommand);

await runCommand(command);
