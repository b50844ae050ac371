/** The script of docs/2-partial-convolution.md. */
import {
  deadLeaves,
  type Gpu,
  grid,
  holeRatio,
  type Mask,
  type MaskPicture,
  maskToPicture,
  nn,
  openGpu,
  RandomMaskSource,
  Rng,
  Tape,
} from "pconv-webgpu";
import { lineChart } from "./chart.js";
import { discMask, type GuideOptions, resizedMask, saveChart, savePicture } from "./pictures.js";

const SIZE = 128;
/** Windows of the U-Net's encoder, all of stride 2. */
const KERNELS = [7, 5, 5, 3, 3, 3, 3];

async function readMask(gpu: Gpu, { h, w, storage }: Mask): Promise<MaskPicture> {
  const [values] = await gpu.read(storage);
  return { width: w, height: h, values: Uint8Array.from(values.subarray(0, h * w)) };
}

/** The mask before the first level and after each. */
async function shrink(gpu: Gpu, first: MaskPicture): Promise<MaskPicture[]> {
  const tape = new Tape(gpu, { grad: false });
  const shape = { n: 1, h: SIZE, w: SIZE };
  let x = tape.upload({ ...shape, c: 3 }, new Float32Array(SIZE * SIZE * 3), "image");
  let mask = tape.uploadMask(shape, first.values);
  const masks = [first];
  for (const kernelSize of KERNELS) {
    const padding = (kernelSize - 1) / 2;
    const layer = new nn.PConv2d(gpu, { inChannels: x.shape.c, outChannels: 4, kernelSize, stride: 2, padding });
    ({ y: x, mask } = layer.forward(tape, x, mask));
    masks.push(await readMask(gpu, mask));
    layer.free();
  }
  tape.dispose();
  return masks;
}

/** A layer's output for a picture with `filler` in its holes. */
async function withHoles(gpu: Gpu, mask: MaskPicture, filler: number): Promise<Float32Array> {
  const shape = { n: 1, h: SIZE, w: SIZE };
  const picture = deadLeaves(SIZE, SIZE, Rng.of(1));
  const pixels = picture.pixels.map((v, i) => (mask.values[Math.floor(i / 3)] === 1 ? v : filler));
  const layer = new nn.PConv2d(gpu, { inChannels: 3, outChannels: 8, kernelSize: 5, padding: 2, rng: Rng.of(2) });
  const tape = new Tape(gpu, { grad: false });
  const { y } = layer.forward(
    tape,
    tape.upload({ ...shape, c: 3 }, pixels, "image"),
    tape.uploadMask(shape, mask.values),
  );
  const values = await y.values();
  tape.dispose();
  layer.free();
  return values;
}

/** The middle row of a white picture with a hole, after a layer that averages 7x7 pixels: partial, and plain over a hole of zeros. */
async function averagedRow(gpu: Gpu, mask: MaskPicture): Promise<{ partial: Float32Array; plain: Float32Array }> {
  const shape = { n: 1, h: SIZE, w: SIZE };
  const average = { inChannels: 1, outChannels: 1, kernelSize: 7, padding: 3, bias: false };
  const [pconv, conv] = [new nn.PConv2d(gpu, average), new nn.Conv2d(gpu, average)];
  for (const { weight } of [pconv, conv]) weight.set(new Float32Array(49).fill(1 / 49));
  const tape = new Tape(gpu, { grad: false });
  const white = tape.upload({ ...shape, c: 1 }, Float32Array.from(mask.values), "white, holes zero");
  const { y } = pconv.forward(tape, white, tape.uploadMask(shape, mask.values));
  const rows = await Promise.all([y, conv.forward(tape, white)].map((t) => t.values()));
  tape.dispose();
  const [partial, plain] = rows.map((values) => values.slice((SIZE / 2) * SIZE, (SIZE / 2 + 1) * SIZE));
  return { partial, plain };
}

export async function run(o: GuideOptions): Promise<void> {
  const gpu = await openGpu();
  const drawn = await new RandomMaskSource().sample(6, 0, SIZE);
  const disc = discMask(SIZE, 0.6);

  const rows = [await shrink(gpu, drawn), await shrink(gpu, disc), await shrink(gpu, discMask(SIZE, 0.95))];
  for (const row of rows) console.log(`hole share by level: ${row.map((m) => holeRatio(m).toFixed(3)).join(" ")}`);
  await savePicture(o, "2-levels", grid(rows.map((row) => row.map((m) => maskToPicture(resizedMask(m, 88))))));

  const [zeros, nans] = [await withHoles(gpu, disc, 0), await withHoles(gpu, disc, NaN)];
  console.log(`outputs over zeros and over NaN are equal: ${zeros.every((v, i) => v === nans[i])}`);

  const { partial, plain } = await averagedRow(gpu, disc);
  const line = (name: string, values: Float32Array) => ({
    name,
    points: Array.from(values, (v, x) => [x, v] as const),
  });
  const axes = {
    title: "A white picture with a hole, averaged over 7x7 pixels",
    x: "column",
    y: "value in the middle row",
  };
  await saveChart(
    o,
    "2-ratio",
    lineChart(axes, [line("plain convolution", plain), line("partial convolution", partial)]),
  );
  gpu.close();
}
