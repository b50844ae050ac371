/** `pconv inpaint`: fills the holes of picture files with a trained network. */
import { stat } from "node:fs/promises";
import { Command, Option } from "commander";
import sharp from "sharp";
import { GpuError, printable, UserError } from "../src/errors.js";
import { DEFAULT_WEIGHTS } from "../src/io/defaultWeights.js";
import { integer, path, paths } from "./command.js";
import { showingDownloads } from "./downloadProgress.js";
import type { Filled } from "./inpaint/fillFile.js";
import type { MaskOptions } from "./inpaint/fitMask.js";
import { checkNotInput, existingResult, inputsOf, type Job, listJobs } from "./inpaint/jobs.js";
import { Painter } from "./inpaint/painter.js";
import { Progress } from "./progress.js";
import { amongRanks, type Ranks } from "./ranks.js";

/** What ends a run between two pictures, and a shell's code for it: 128 and the signal's number. */
const STOP_CODES = { SIGINT: 130, SIGPIPE: 141, SIGTERM: 143 } as const;

const MIN_TILE = 32;
const MAX_TILE = 8192;

interface Options extends MaskOptions {
  readonly mask: string;
  readonly weights: string;
  readonly out?: string;
  readonly tile?: number;
  readonly raw?: true;
  readonly force?: true;
  readonly json?: true;
}

async function run(inputs: readonly string[], o: Options): Promise<void> {
  await amongRanks((ranks) => runAmong(inputs, o, ranks));
}

/** What became of a rank's pictures. */
interface Outcome {
  readonly done: number;
  readonly skipped: number;
  readonly failed: number;
  /** The exit status that a signal asks for; 0 without one. */
  readonly stopCode: number;
}

/** Ranks share the pictures: each fills every n-th. */
async function runAmong(inputs: readonly string[], o: Options, ranks: Ranks): Promise<void> {
  // All have listed them before any writes a result, which may lie in one of the folders.
  const jobs = await ranks.together(() => listJobs(inputs, o.mask, o.out));
  const own = await ranks.together(() => fillShare(jobs, o, ranks));
  const all = await ranks.gather(own);
  const sum = (of: (outcome: Outcome) => number) => all.reduce((total, outcome) => total + of(outcome), 0);
  const [done, skipped, failed] = [sum((a) => a.done), sum((a) => a.skipped), sum((a) => a.failed)];
  if (jobs.length > 1 && skipped < jobs.length && ranks.first)
    console.error(`${done} filled, ${skipped} skipped, ${failed} failed, of ${jobs.length}`);
  if (failed > 0) process.exitCode = 1;
  const stopCode = all.find((outcome) => outcome.stopCode > 0)?.stopCode;
  if (stopCode === undefined) return;
  if (ranks.first) console.error("stopped: what is written is whole; the same command goes on with the rest");
  process.exitCode = stopCode;
}

async function fillShare(jobs: readonly Job[], o: Options, ranks: Ranks): Promise<Outcome> {
  const taken = inputsOf(jobs);
  const work: Job[] = [];
  let skipped = 0;
  for (const job of ranks.share(jobs)) {
    const existing = existingResult(job);
    if (existing !== undefined) checkNotInput(existing, taken);
    if (existing === undefined || o.force) {
      work.push(job);
      continue;
    }
    skipped++;
    if (o.json) console.log(JSON.stringify({ status: "skipped", image: job.image, out: existing }));
    else console.log(`${printable(job.image)}: skipped, ${printable(existing)} exists (--force replaces it)`);
  }
  if (work.length === 0) return { done: 0, skipped, failed: 0, stopCode: 0 };
  const stop = stopOnSignals();
  // What sharp keeps of decoded pictures would come on top of ours.
  sharp.cache(false);
  // Not before it is needed: `pconv doctor` must start where Dawn does not load.
  const [{ openGpu }, { loadUNet }] = await Promise.all([
    import("../src/gpu/node.js"),
    import("../src/io/unetFile.js"),
  ]);
  const painter = await Painter.open({
    openGpu,
    openNetwork: (gpu) => showingDownloads((onProgress) => loadUNet(gpu, o.weights, { onProgress })),
    say: (text) => console.error(`warning: ${text}`),
    tile: o.tile,
  });
  if (ranks.first) console.error(`adapter: ${painter.adapterName}`);
  let progress: Progress | undefined;
  let [done, failed] = [0, 0];
  try {
    // A file's size tells best how long it takes, short of opening it. One that is gone by now fails when it is its turn.
    const sizes = await Promise.all(work.map(({ image }) => stat(image).then((s) => Math.max(1, s.size), () => 1))); // prettier-ignore
    const bar = (progress = new Progress(
      sizes.reduce((sum, size) => sum + size, 0),
      !ranks.first,
    ));
    if (!o.json && ranks.first)
      bar.print(`masks: ${o.holes} = hole, ${o.holes === "white" ? "black" : "white"} = valid`);
    for (const [i, job] of work.entries()) {
      if (stop.signal.aborted) break;
      bar.at(job.image);
      let share = 0;
      const advance = (to: number): void => {
        if (to > share) bar.advance((to - share) * sizes[i]);
        share = to;
      };
      try {
        const filled = await painter.fill(job, {
          ...o,
          signal: stop.signal,
          onProgress: advance,
          checkOut: (out) => checkNotInput(out, taken),
        });
        done++;
        bar.print(o.json ? JSON.stringify({ status: "done", ...filled }) : describe(filled));
      } catch (error) {
        if (stop.signal.aborted) break;
        // One picture: its error is the command's. A device that does not come back fails for all.
        if (jobs.length === 1 || !(error instanceof UserError) || error instanceof GpuError) throw error;
        failed++;
        if (o.json) bar.print(JSON.stringify({ status: "failed", image: job.image, error: error.message }));
        else bar.print(`${printable(job.image)}: failed`);
        console.error(error.message);
      }
      advance(1);
    }
  } finally {
    progress?.stop();
    stop.close();
    painter.close();
  }
  return { done, skipped, failed, stopCode: stop.code() };
}

/** A signal that aborts at Ctrl-C and the like; a second Ctrl-C ends the program as usual. */
function stopOnSignals(): { readonly signal: AbortSignal; code(): number; close(): void } {
  const controller = new AbortController();
  const names = Object.keys(STOP_CODES) as (keyof typeof STOP_CODES)[];
  let code = 0;
  const abort = (name: NodeJS.Signals): void => {
    code ||= STOP_CODES[name as keyof typeof STOP_CODES];
    controller.abort();
  };
  for (const name of names) process.once(name, abort);
  return {
    signal: controller.signal,
    code: () => code,
    close: () => names.forEach((name) => process.off(name, abort)),
  };
}

function describe(f: Filled): string {
  const passes = f.passes === 1 ? "1 pass" : `${f.passes} passes`;
  const what = `${f.width}x${f.height} ${f.colour}, ${f.depth} bit`;
  const hole = `${(100 * f.holeRatio).toFixed(1)} % hole (${f.holes})`;
  const first = `${printable(f.image)} -> ${printable(f.out)}: ${what}, ${hole}, ${passes}, ${f.seconds.toFixed(1)} s`;
  return [first, ...f.notes.map((note) => `  ${note}`)].join("\n");
}

export function inpaintCommand(): Command {
  return new Command("inpaint")
    .description(
      "Fills the holes of pictures: files, or folders of JPEG, PNG and WebP. Size, orientation, colour mode, depth, alpha, " +
        "profile and every pixel outside the hole come out as they went in. So that this holds, JPEG is written as PNG and " +
        "CMYK as TIFF; WebP is written without loss. Results that exist are skipped.",
    )
    .argument("<image...>", "pictures, or folders of pictures (searched with their subfolders)", paths)
    .requiredOption(
      "--mask <path>",
      "one mask for all pictures, or a folder with a mask for each, named as the picture or with _mask behind",
      path,
    )
    .addOption(new Option("--holes <colour>", "colour of the hole").choices(["white", "black"]).default("white"))
    .option(
      "--weights <path>",
      "weights of the network: a file, a URL, the folder of a checkpoint or run, or those that come with the package",
      path,
      DEFAULT_WEIGHTS,
    )
    .option(
      "--out <path>",
      "folder for the results, or for one picture a file; .jpg is possible, but changes all pixels a little " +
        "(default: NAME.inpainted.png beside a picture, and FOLDER-inpainted for a folder)",
      path,
    )
    .option(
      "--tile <n>",
      "pictures with a longer side are filled in overlapping tiles of n pixels (default: 512, rounded up to what the network needs)",
      integer(MIN_TILE, MAX_TILE),
    )
    .option("--raw", "write what the network draws everywhere, not only in the hole")
    .option("--resize-mask", "resize masks of another size by nearest neighbour instead of refusing them")
    .addOption(
      new Option(
        "--mask-orientation <way>",
        "for pictures with an EXIF orientation: whether masks are as the picture is displayed or as its pixels are stored (default: the one that fits)",
      ).choices(["displayed", "stored"]),
    )
    .option("--force", "fill again where a result exists")
    .option(
      "--json",
      "a JSON line for each picture on stdout: status, image, mask, out, holeRatio, greyPixels, passes, seconds, notes ...",
    )
    .option("--debug", "show stack traces")
    .addHelpText(
      "after",
      `
Exit status: 0, 1 when one of several pictures failed, 2 for wrong options or when the only picture failed; 130 after Ctrl-C, 143
after SIGTERM, 141 when nobody reads the output any more. What is written by then is whole, and the same command goes on.`,
    )
    .action(run);
}
