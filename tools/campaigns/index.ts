/** Campaigns for contributors: what the tests show a few times, many times. `npm run campaign -- --help`. */
import { Command } from "commander";
import { integer, runCommand } from "../command.js";
import { kill9 } from "./kill9.js";
import { losses } from "./losses.js";
import { keepResult } from "./program.js";
import { soak } from "./soak.js";

const program = new Command("campaign").description("Faults in bulk, and what a run makes of them.");
const named = (name: string, description: string) =>
  program.command(name).description(description).option("--out <file>", "where to keep the result", `bench/results/campaign-${name}.json`); // prettier-ignore

named("kill9", "kills a fixed run at random moments, and resumes it")
  .option("--runs <n>", "how often", integer(1), 200)
  .option("--seed <n>", "of the moments", integer(0), 1)
  .action(async (o: { runs: number; seed: number; out: string }) => {
    const result = await kill9(o.runs, o.seed);
    console.log(JSON.stringify(result, null, 2));
    await keepResult(o.out, result);
    if (result.equalEnds < result.kills || result.partialCheckpoints > 0) process.exitCode = 1;
  });

named("losses", "a run that loses its device again and again")
  .option("--losses <n>", "how often", integer(1, 200), 50)
  .option("--seed <n>", "of the steps", integer(0), 1)
  .action(async (o: { losses: number; seed: number; out: string }) => {
    const result = await losses(o.losses, o.seed);
    console.log(JSON.stringify(result, null, 2));
    await keepResult(o.out, result);
    if (result.different.length > 0 || result.reopened < o.losses) process.exitCode = 1;
  });

named("soak", "a long run of a tiny network")
  .option("--steps <n>", "how long", integer(20), 10_000)
  .action(async (o: { steps: number; out: string }) => {
    const result = await soak(o.steps);
    console.log(JSON.stringify(result, null, 2));
    await keepResult(o.out, result);
    if (result.exitCode !== 0) process.exitCode = 1;
  });

await runCommand(program);
