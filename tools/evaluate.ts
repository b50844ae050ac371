/** `pconv evaluate`: quality of fills by hole ratio, for a network and for baselines. */
import { basename, extname } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { printable, UserError } from "../src/errors.js";
import { DEFAULT_WEIGHTS } from "../src/io/defaultWeights.js";
import { checkPlace } from "../src/io/files.js";
import { listPictures } from "../src/io/folderList.js";
import { readMask, readPicture } from "../src/io/imageFile.js";
import { writePicturePng } from "../src/io/png.js";
import { isUrl } from "../src/io/url.js";
import { diffusionFill, meanFill } from "../src/pconv/baselines.js";
import { grid, hstack } from "../src/pconv/contactSheet.js";
import {
  averageByBin,
  rankedPairs,
  type BinQuality,
  evaluate,
  type EvaluatedPair,
  filledComposite,
  type FillMethod,
  greyHoles,
  HOLE_BINS,
  MaskBins,
} from "../src/pconv/evaluate.js";
import { evaluationMask, evaluationPicture } from "../src/pconv/evaluationSize.js";
import type { HoleColour } from "../src/pconv/maskAugment.js";
import type { Picture } from "../src/pconv/picture.js";
import { integer, path } from "./command.js";
import { showingDownloads } from "./downloadProgress.js";
import { Progress } from "./progress.js";
import { amongRanks, type Ranks } from "./ranks.js";

const BASELINES = { mean: meanFill, diffusion: diffusionFill } as const;

/** SSIM's window is 11 pixels wide. */
const MIN_SIZE = 11;
const MAX_SIZE = 4096;

/** Pixels of white between the groups of the contact sheet, and between the pictures of a group. */
const GROUP_GAP = 16;
const PICTURE_GAP = 4;

interface Options {
  readonly images: string;
  readonly masks: string;
  /** False with --no-weights. */
  readonly weights: string | false;
  readonly size: number;
  readonly limit?: number;
  readonly baseline?: readonly (keyof typeof BASELINES)[];
  readonly holes: HoleColour;
  readonly vggPath?: string;
  readonly sheet?: string;
  readonly json?: true;
}

/** What runs on the GPU: the network, and the distance by VGG. */
interface OnGpu {
  readonly network: FillMethod | null;
  readonly vgg?: (truth: Picture) => Promise<(result: Picture) => Promise<number>>;
  close(): void;
}

/** Short name of weights in the table: of a URL, without its query. */
const nameOf = (weights: string): string => basename(isUrl(weights) ? new URL(weights).pathname : weights);

/** Said at once, not after everything is measured. */
function pngPath(text: string): string {
  if (extname(text).toLowerCase() === ".png") return text;
  throw new InvalidArgumentError(`expected a name that ends in .png, got ${text}`);
}

/** Opens the GPU if anything needs it. */
async function open({ weights, vggPath }: Options, quiet: boolean): Promise<OnGpu> {
  if (weights === false && vggPath === undefined) return { network: null, close: () => undefined };
  // Here and not above: this file must load where Dawn does not.
  const [{ openGpu }, { loadUNet }, { inpaint }, { loadVgg }, { vggDistance }] = await Promise.all([
    import("../src/gpu/node.js"),
    import("../src/io/unetFile.js"),
    import("../src/pconv/inpaint.js"),
    import("../src/io/vggFile.js"),
    import("../src/pconv/vggDistance.js"),
  ]);
  const gpu = await openGpu();
  try {
    if (!quiet) console.error(`adapter: ${gpu.adapter.name}`);
    const model =
      weights === false ? null : await showingDownloads((onProgress) => loadUNet(gpu, weights, { onProgress }));
    const vgg =
      vggPath === undefined ? null : await showingDownloads((onProgress) => loadVgg(gpu, vggPath, { onProgress }));
    return {
      network: model && {
        name: nameOf(weights as string),
        fill: async (picture, mask) => (await inpaint(model, picture, mask)).image,
      },
      ...(vgg && { vgg: (truth) => vggDistance(vgg, truth) }),
      close: () => gpu.close(),
    };
  } catch (error) {
    gpu.close();
    throw error;
  }
}

async function readMasks(o: Options, pictures: number, quiet: boolean): Promise<MaskBins> {
  const bins = new MaskBins(pictures);
  const paths = await listPictures(o.masks);
  const progress = new Progress(paths.length, quiet);
  let grey = 0;
  try {
    progress.at("masks");
    for (const path of paths) {
      const { mask, greyPixels } = await readMask(path, o.holes);
      if (greyPixels > 0) grey++;
      bins.add(evaluationMask(mask, o.size), basename(path));
      progress.advance(1);
    }
  } finally {
    progress.stop();
  }
  if (grey > 0 && !quiet)
    console.error(`${grey} masks have grey pixels: above 0.6 they count as white, others as black`);
  if (bins.outside === bins.total) {
    throw new UserError(
      o.masks,
      `expected masks with hole ratios from 0.01 to 0.6, got ${bins.total} of which none has, with ${o.holes} as the hole`,
      `check which colour is the hole (--holes ${o.holes === "white" ? "black" : "white"})`,
    );
  }
  return bins;
}

/** What stands where in the contact sheet. */
interface Cell {
  readonly bin: string;
  readonly rank: string;
  readonly image: string;
  readonly mask: string;
  readonly psnr: number;
}

/** Writes one row for each bin: its {@link rankedPairs}, each as masked | results | truth. */
async function writeSheet(
  file: string,
  { paths, masks, methods }: Inputs,
  pairs: readonly EvaluatedPair[],
  size: number,
): Promise<Cell[]> {
  const rows: Picture[][] = [];
  const legend: Cell[] = [];
  for (const [bin, { name }] of HOLE_BINS.entries()) {
    const row: Picture[] = [];
    for (const { rank, pair } of rankedPairs(pairs, bin, 0)) {
      const truth = evaluationPicture(await readPicture(paths[pair.image]), size);
      const { mask } = masks.maskFor(bin, pair.image)!;
      const results: Picture[] = [];
      for (const method of methods) results.push(await filledComposite(method, truth, mask));
      row.push(hstack([greyHoles(truth, mask), ...results, truth], PICTURE_GAP));
      const { psnr } = pair.quality[0];
      legend.push({ bin: name, rank, image: basename(paths[pair.image]), mask: pair.mask, psnr });
    }
    if (row.length > 0) rows.push(row);
  }
  await writePicturePng(file, grid(rows, GROUP_GAP));
  return legend;
}

/** The table's lines. */
function table(scores: readonly { method: string; bins: readonly BinQuality[] }[], masks: MaskBins): string[] {
  const width = Math.max(6, ...scores.map(({ method }) => method.length));
  const hasVgg = scores[0].bins.some(({ vgg }) => vgg !== undefined);
  const number = (v: number | null | undefined, digits: number, places: number): string =>
    (v === null || v === undefined ? "-" : v.toFixed(digits)).padStart(places);
  const lines = [
    `holes     ${"method".padEnd(width)}  images  masks    l1 %  PSNR dB    SSIM${hasVgg ? "     VGG" : ""}`,
  ];
  for (const [i, { name }] of HOLE_BINS.entries()) {
    for (const { method, bins } of scores) {
      const { count, l1, psnr, ssim, vgg } = bins[i];
      const values = [number(l1, 3, 6), number(psnr, 2, 7), number(ssim, 4, 6), ...(hasVgg ? [number(vgg, 4, 6)] : [])];
      const counts = `${String(count).padStart(6)}  ${String(masks.count(i)).padStart(5)}`;
      lines.push(`${name.padEnd(8)}  ${method.padEnd(width)}  ${counts}  ${values.join("  ")}`);
    }
  }
  return lines;
}

/** What is evaluated, and on what. */
interface Inputs {
  /** Pictures in the folder, of which `paths` are used. */
  readonly found: number;
  readonly paths: readonly string[];
  readonly masks: MaskBins;
  readonly methods: readonly FillMethod[];
}

/** Measures every picture with a mask of each bin; ranks share the pictures, and all get all pairs. */
async function measure(o: Options, inputs: Inputs, onGpu: OnGpu, ranks: Ranks): Promise<EvaluatedPair[]> {
  const { paths, masks, methods } = inputs;
  const own = await ranks.together(async () => {
    const bins = HOLE_BINS.filter((_, i) => masks.count(i) > 0).length;
    const progress = new Progress(ranks.share(paths).length * bins * methods.length, !ranks.first);
    try {
      return await evaluate({
        pictures: paths.length,
        picture: async (index) => {
          progress.at(basename(paths[index]));
          return evaluationPicture(await readPicture(paths[index]), o.size);
        },
        masks,
        methods,
        vgg: onGpu.vgg,
        share: { rank: ranks.rank, size: ranks.size },
        onFilled: () => progress.advance(1),
      });
    } finally {
      progress.stop();
    }
  });
  // In the order of one process, so that averages are the same to the last bit.
  return (await ranks.gather(own)).flat().sort((a, b) => a.image - b.image);
}

/** Draws the sheet, and prints what was measured, whatever becomes of the sheet. */
async function report(o: Options, inputs: Inputs, pairs: readonly EvaluatedPair[]): Promise<void> {
  let cells: Cell[] | null = null;
  try {
    if (o.sheet !== undefined) cells = await writeSheet(o.sheet, inputs, pairs, o.size);
  } finally {
    printScores(o, inputs, pairs, cells);
  }
}

function printScores(
  o: Options,
  { found, paths, masks, methods }: Inputs,
  pairs: readonly EvaluatedPair[],
  cells: readonly Cell[] | null,
): void {
  const scores = methods.map(({ name }, i) => ({ method: name, bins: averageByBin(pairs, i) }));
  const empty = HOLE_BINS.filter((_, i) => masks.count(i) === 0).map(({ name }) => name);
  if (o.json) {
    const counts = { size: o.size, images: paths.length, masks: masks.total, masksOutside: masks.outside };
    const sheet = cells && { file: o.sheet, cells };
    console.log(
      JSON.stringify({ ...counts, ...scores[0], emptyBins: empty, methods: scores, ...(sheet && { sheet }) }),
    );
    return;
  }
  const limited = paths.length < found ? ` of ${found}` : "";
  const s = masks.total === 1 ? "" : "s";
  console.log(`${paths.length}${limited} images, ${masks.total} mask${s} at ${o.size}x${o.size}; means over images`);
  for (const line of table(scores, masks)) console.log(line);
  if (empty.length > 0) console.log(`no mask has a hole ratio of ${empty.join(", ")}: nothing was measured there`);
  if (masks.outside > 0) {
    const unused = masks.outside === 1 ? "1 mask is" : `${masks.outside} masks are`;
    console.log(`${unused} in none of the bins (0.01 to 0.6): not used`);
  }
  if (o.vggPath !== undefined)
    console.log("VGG: distance of unit-length features of pool1 to pool3, unweighted; not LPIPS itself");
  if (cells) {
    const columns = ["masked", ...methods.map(({ name }) => name), "truth"].join(" | ");
    console.log(`sheet: ${o.sheet}; a row for each bin, each group ${columns}, by PSNR of ${methods[0].name}:`);
    for (const { bin, rank, image, mask, psnr } of cells) {
      console.log(
        `  ${bin.padEnd(8)} ${rank.padEnd(6)} ${psnr.toFixed(2).padStart(6)} dB  ${printable(image)}  ${printable(mask)}`,
      );
    }
  }
}

async function run(o: Options): Promise<void> {
  await amongRanks((ranks) => runAmong(o, ranks));
}

async function runAmong(o: Options, ranks: Ranks): Promise<void> {
  const baselines = [...new Set(o.baseline)].map((name): FillMethod => ({ name, fill: BASELINES[name] }));
  if (o.weights === false && baselines.length === 0) {
    throw new UserError(
      "pconv evaluate",
      "expected something to evaluate, got --no-weights and no --baseline",
      "pass --baseline mean, or leave out --no-weights",
    );
  }
  const { found, paths, masks } = await ranks.together(async () => {
    if (o.sheet !== undefined) await checkPlace(o.sheet);
    const found = await listPictures(o.images);
    const paths = found.slice(0, o.limit);
    return { found, paths, masks: await readMasks(o, paths.length, !ranks.first) };
  });
  const onGpu = await ranks.firstThenOthers(() => open(o, !ranks.first));
  try {
    const methods = [...(onGpu.network ? [onGpu.network] : []), ...baselines];
    const inputs: Inputs = { found: found.length, paths, masks, methods };
    const pairs = await measure(o, inputs, onGpu, ranks);
    await ranks.together(() => (ranks.first ? report(o, inputs, pairs) : Promise.resolve()));
  } finally {
    onGpu.close();
  }
}

export function evaluateCommand(): Command {
  return new Command("evaluate")
    .description(
      "Fills the holes of a folder of pictures and says how near the results are to the truth, by hole ratio: l1 in percent, " +
        "PSNR and SSIM of the composite. Pictures are scaled so that the short side is --size (area filter) and cropped in " +
        "the middle; masks are resized by nearest neighbour; in each bin picture i gets mask i mod n, in the order of names. " +
        "A file that cannot be read stops it. A fill without any error counts as 100 dB.",
    )
    .requiredOption("--images <dir>", "folder of pictures; subfolders too", path)
    .requiredOption("--masks <dir>", "folder of masks; subfolders too", path)
    .option("--weights <path>", "weights of the network, as for pconv inpaint", path, DEFAULT_WEIGHTS)
    .option("--no-weights", "only the baselines")
    .addOption(
      new Option(
        "--baseline <name...>",
        "fills to compare with, in the same table: mean colour, heat equation",
      ).choices(Object.keys(BASELINES)),
    )
    .option("--size <n>", "side of the evaluated squares in pixels", integer(MIN_SIZE, MAX_SIZE), 256)
    .option("--limit <n>", "only the first n pictures", integer(1))
    .addOption(
      new Option("--holes <colour>", "colour of the holes in the masks").choices(["white", "black"]).default("white"),
    )
    .option(
      "--vgg-path <file>",
      "VGG16 or VGG19, or auto to download it: adds a distance by its features, in the manner of LPIPS but not LPIPS",
      path,
    )
    .option(
      "--sheet <file>",
      "PNG of four results of each bin by PSNR: best, median, low (a quarter is worse) and worst",
      pngPath,
    )
    .option("--json", "one JSON line on stdout; its bins are the network's, or the first baseline's with --no-weights")
    .option("--debug", "show stack traces")
    .action(run);
}
