#!/usr/bin/env node
/** `npm run guide -- NAME`: runs the script of one of the guides in docs/ and writes the pictures that it shows. */
import { Argument, Command } from "commander";
import { runCommand } from "../tools/command.js";
import type { GuideOptions } from "./pictures.js";

const GUIDES: Readonly<Record<string, () => Promise<{ run(o: GuideOptions): Promise<void> }>>> = {
  "1-masks": () => import("./1-masks.js"),
  "2-partial-convolution": () => import("./2-partial-convolution.js"),
  "3-unet": () => import("./3-unet.js"),
  "4-training": () => import("./4-training.js"),
  "5-any-size": () => import("./5-any-size.js"),
};

const command = new Command("guide")
  .description("Runs the script of a guide (docs/NAME.md) and writes its pictures. No files needed.")
  .addArgument(new Argument("<name>", "of the guide").choices(Object.keys(GUIDES)))
  .option("--out <dir>", "folder for the pictures; docs/images makes those of the guide anew", "demo/guides")
  .option("--quick", "fewer steps and samples", false)
  .option("--debug", "show stack traces")
  .action(async (name: string, options: GuideOptions) => (await GUIDES[name]()).run(options));

await runCommand(command);
