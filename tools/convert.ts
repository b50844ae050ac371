/** `pconv convert`: weights from one kind of file into another. Needs no GPU. */
import { existsSync } from "node:fs";
import { extname, resolve } from "node:path";
import { Command, Option } from "commander";
import { UserError } from "../src/errors.js";
import { quote } from "../src/io/byteReader.js";
import { readBytes, writeWhole } from "../src/io/files.js";
import { type TensorToWrite, writeSafetensors } from "../src/io/safetensors.js";
import { shownSource } from "../src/io/url.js";
import { vggConventionOf } from "../src/io/vggFile.js";
import { readWeights, type Weights } from "../src/io/weights.js";
import { countOf, type LoadableTensor } from "../src/nn/module.js";
import { type UNetConfig, unetTensorShapes } from "../src/pconv/unet.js";
import { onnxFile } from "../src/pconv/unetOnnx.js";
import { portFile } from "../src/pconv/unetPort.js";
import { findUNet, type SkippedTensor, unetMetadata, type UNetWeights } from "../src/pconv/unetWeights.js";
import { findVgg, foldInputShift, type VggConvention, vggFromCaffe } from "../src/pconv/vggWeights.js";
import { path } from "./command.js";
import { showingDownloads } from "./downloadProgress.js";

const TARGETS = ["safetensors", "port", "onnx"] as const;
type Target = (typeof TARGETS)[number];

/** What was found in a file and became of it. */
export interface ConversionReport {
  readonly format: Weights["format"];
  readonly contents: "unet" | "vgg" | "tensors";
  /** Whose U-Net, or which input the VGG's weights wanted. */
  readonly source: UNetWeights["source"] | VggConvention | null;
  readonly config: UNetConfig | null;
  readonly to: Target;
  /** Tensors in the file. */
  readonly tensors: number;
  readonly read: number;
  readonly skipped: readonly SkippedTensor[];
  /** Counts that the file does not have; they begin at 0. A file that lacks weights is refused. */
  readonly missing: readonly string[];
  readonly notes: readonly string[];
}

interface Conversion {
  readonly file: Uint8Array;
  readonly report: ConversionReport;
}

const floats = (tensor: LoadableTensor): TensorToWrite => ({
  dtype: "F32",
  shape: tensor.shape,
  values: tensor.toFloat32(),
});

function convertUNet(weights: Weights, found: UNetWeights, to: Target): Conversion {
  const { config, state, source, skipped } = found;
  const batchNorms = [...unetTensorShapes(config).keys()].filter((name) => name.endsWith(".bn.weight"));
  const counters = batchNorms.map((name) => name.replace(/weight$/, "num_batches_tracked"));
  const missing = to === "onnx" ? [] : counters.filter((name) => !state.has(name));
  const notes: string[] = [];
  if (config.range === "imagenet") notes.push("the network reads and writes images normalised by ImageNet's mean and deviation"); // prettier-ignore
  if (to === "port" && config.range === "unit") notes.push("give the port images in 0..1, not normalised: this network was trained on them"); // prettier-ignore
  if (to === "port" && config.convention === "paper") notes.push("the paper's ratio was multiplied into the weights: the port divides by the mask's sum alone"); // prettier-ignore
  if (to === "port" && config.concat === "skip-up") notes.push("the decoder's input channels were put in the port's order"); // prettier-ignore
  if (to === "onnx") notes.push("batch norm uses the running statistics; inputs image [N,3,H,W] and mask [N,1,H,W] (1 = valid), output [N,3,H,W], of any size"); // prettier-ignore
  const own = () => {
    const tensors = [...state].map(([name, tensor]): [string, TensorToWrite] => {
      if (!counters.includes(name)) return [name, floats(tensor)];
      return [name, { dtype: "I64", shape: [], values: BigInt64Array.of(countOf(tensor)) }];
    });
    return writeSafetensors(tensors, unetMetadata(config));
  };
  const file = { safetensors: own, port: () => portFile(config, state), onnx: () => onnxFile(config, state) }[to]();
  const { format, tensors } = weights;
  const read = state.size;
  return {
    file,
    report: { format, contents: "unet", source, config, to, tensors: tensors.size, read, skipped, missing, notes },
  };
}

/** Tensors of a file that holds no U-Net: a VGG's by torchvision's names and for its input, others as they are. */
function convertOther(weights: Weights, convention: VggConvention, where: string): Conversion {
  const { format, tensors } = weights;
  const vgg = findVgg(tensors, where);
  const common = { format, config: null, to: "safetensors", tensors: tensors.size, missing: [] } as const;
  if (!vgg) {
    const all = [...tensors].map(([name, { dtype, shape, bytes }]) => [name, { dtype, shape, values: bytes }] as const);
    const report = {
      ...common,
      contents: "tensors",
      source: null,
      read: tensors.size,
      skipped: [],
      notes: [],
    } as const;
    return { file: writeSafetensors(all, weights.metadata), report };
  }
  const converted = convention === "caffe" ? vggFromCaffe(vgg, where) : { tensors: vgg, inputShift: null };
  const written = [...foldInputShift(converted, where)].map(([name, tensor]) => [name, floats(tensor)] as const);
  const taken = new Set([...vgg.values()]);
  const skipped = [...tensors].filter(([, t]) => !taken.has(t)).map(([name]) => ({ name, why: "not part of the VGG" })); // prettier-ignore
  const notes =
    convention === "caffe"
      ? [
          "for torchvision's input now: channels put in RGB order, means and deviations in the first layer; exact but for the " +
            "outermost pixels of conv1_1, since the padding's zeros mean another grey. Reading the original file itself is exact there too",
        ]
      : [];
  const report = { ...common, contents: "vgg", source: convention, read: vgg.size, skipped, notes } as const;
  return { file: writeSafetensors(written, { format: "pt" }), report };
}

/**
 * Converts a weight file in memory.
 * @param convention which input a VGG's weights want
 * @throws {FormatError} when the file is damaged or its network incomplete; {@link UserError} when `to` cannot express it
 */
export async function convertWeights(
  bytes: Uint8Array,
  where: string,
  to: Target,
  convention: VggConvention,
): Promise<Conversion> {
  const weights = await readWeights(bytes, where);
  const unet = findUNet(weights, where);
  if (unet) return convertUNet(weights, unet, to);
  if (to !== "safetensors") {
    const [first] = weights.tensors.keys();
    const got = first === undefined ? "no tensors" : `other tensors, the first ${quote(first)}`;
    throw new UserError(where, `expected a partial convolution U-Net for --to ${to}, got ${got}`, "use --to safetensors"); // prettier-ignore
  }
  return convertOther(weights, convention, where);
}

function targetOf(out: string): Target {
  const extension = extname(out).toLowerCase();
  if (extension === ".onnx") return "onnx";
  if (extension === ".safetensors") return "safetensors";
  throw new UserError(
    out,
    `expected a name that ends in .safetensors or .onnx, got ${extension === "" ? "none" : quote(extension)}`,
    "rename it, or say --to safetensors, port or onnx",
  );
}

interface Options {
  readonly to?: Target;
  readonly vggConvention: VggConvention | "auto";
  readonly force?: true;
  readonly json?: true;
}

/** Names listed in the text report; --json has them all. */
const LISTED = 5;

function text(r: ConversionReport, input: string, output: string, size: number): string[] {
  const what = {
    unet: `a U-Net (${r.source}, ${r.config?.depth} levels, channels ${r.config?.channels.join(" ")}, convention ${r.config?.convention})`,
    vgg: `a VGG for ${r.source === "caffe" ? "Caffe's BGR input, as Keras has it" : "torchvision's input"}`,
    tensors: "no network that this library knows: its tensors as they are",
  }[r.contents];
  const list = (names: readonly string[]) =>
    names.length === 0
      ? ""
      : `: ${names.slice(0, LISTED).map(quote).join(", ")}${names.length > LISTED ? `, and ${names.length - LISTED} more` : ""}`;
  const reasons = [...new Set(r.skipped.map(({ why }) => why))];
  return [
    `${input}: ${r.format}, ${what}`,
    `read     ${r.read} of ${r.tensors} tensors`,
    ...(r.skipped.length === 0 ? ["skipped  none"] : []),
    ...reasons.map((why) => {
      const names = r.skipped.filter((s) => s.why === why).map(({ name }) => name);
      return `skipped  ${names.length} (${why})${list(names)}`;
    }),
    r.missing.length === 0
      ? "missing  none"
      : `missing  ${r.missing.length} (counts, which begin at 0)${list(r.missing)}`,
    ...r.notes.map((note) => `note     ${note}`),
    `${output}: ${r.to}, ${size} bytes`,
  ];
}

async function run(input: string, output: string, o: Options): Promise<void> {
  const to = o.to ?? targetOf(output);
  if (!o.force && existsSync(output)) {
    throw new UserError(output, "expected a free name, got a file that exists", "choose another, or pass --force to replace it"); // prettier-ignore
  }
  const bytes = await showingDownloads((onProgress) => readBytes(input, { onProgress }));
  const convention = o.vggConvention === "auto" ? vggConventionOf(input, bytes) : o.vggConvention;
  const { file, report } = await convertWeights(bytes, shownSource(input), to, convention);
  if (o.vggConvention !== "auto" && report.contents !== "vgg") {
    throw new UserError("--vgg-convention", `expected a VGG with it, got ${report.contents === "unet" ? "a U-Net" : "another network"}`, "leave it out"); // prettier-ignore
  }
  await writeWhole(output, file);
  if (o.json) console.log(JSON.stringify({ input, output: resolve(output), bytes: file.length, ...report }));
  else for (const line of text(report, input, output, file.length)) console.log(line);
}

export function convertCommand(): Command {
  return new Command("convert")
    .description(
      "Converts weights: U-Nets of this library, of the PyTorch port (.pth) and of PConv-Keras (.h5) into safetensors of this " +
        "library, a state dict that the port loads, or an ONNX graph; VGG16 and VGG19 and any other tensors into safetensors. " +
        "Says what was read, skipped and missing. Needs no GPU.",
    )
    .argument("<in>", "weight file or URL: .safetensors, .pth, .h5; #sha256=HEX at a URL's end is checked", path)
    .argument("<out>", "file to write; written under another name first and then renamed", path)
    .addOption(
      new Option(
        "--to <form>",
        "safetensors, port (safetensors with the PyTorch port's names) or onnx (default: by the end of OUT)",
      ).choices([...TARGETS]),
    )
    .addOption(
      new Option(
        "--vgg-convention <which>",
        "input that a VGG's weights want: torchvision (RGB, normalised) or caffe (BGR of 0..255 less the mean); auto knows Keras's own files",
      )
        .choices(["auto", "torchvision", "caffe"])
        .default("auto"),
    )
    .option("--force", "replace OUT if it exists")
    .option(
      "--json",
      "one JSON line on stdout: input, output, bytes, format, contents, source, config, to, tensors, read, skipped, missing, notes",
    )
    .option("--debug", "show stack traces")
    .action(run);
}
