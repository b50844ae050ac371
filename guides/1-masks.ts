/** The script of docs/1-masks.md. */
import {
  deadLeaves,
  generateStrokes,
  grid,
  HOLE_BINS,
  holeRatio,
  type MaskPicture,
  maskToPicture,
  occlusionMasks,
  type Picture,
  RandomMaskSource,
  Rng,
  varyMask,
} from "pconv-webgpu";
import { barChart } from "./chart.js";
import { discMask, type GuideOptions, mean, saveChart, savePicture, times } from "./pictures.js";

const SEED = 1;
const SIZE = 88;
const COLUMNS = 8;
/** Shares of 500 masks of PConv-Keras' own generator at 512x512, in {@link HOLE_BINS}. */
const ORIGINAL = [0.034, 0.234, 0.358, 0.294, 0.078, 0.002];

/** Two frames of a film: a disc moves over a background that stands still. */
function twoFrames(side: number, shift: readonly [number, number]): [Picture, Picture] {
  const [background, front] = [2, 3].map((seed) => deadLeaves(side, side, Rng.of(seed)));
  const disc = discMask(side, 0.5);
  const frame = (dx: number, dy: number): Picture => {
    const pixels = background.pixels.slice();
    for (let i = 0; i < disc.values.length; i++) {
      const [x, y] = [(i % side) - dx, Math.floor(i / side) - dy];
      if (x < 0 || y < 0 || x >= side || y >= side || disc.values[y * side + x] === 1) continue;
      pixels.set(front.pixels.subarray(3 * (y * side + x), 3 * (y * side + x) + 3), 3 * i);
    }
    return { width: side, height: side, pixels };
  };
  return [frame(0, 0), frame(...shift)];
}

function statistics(name: string, masks: readonly MaskPicture[]): { name: string; values: number[] } {
  const ratios = masks.map(holeRatio);
  const average = mean(ratios);
  const deviation = Math.sqrt(mean(ratios.map((r) => (r - average) ** 2)));
  console.log(`${name}: ${masks.length} masks, hole share ${average.toFixed(3)}, deviation ${deviation.toFixed(3)}`);
  const values = HOLE_BINS.map(({ above, upTo }) => ratios.filter((r) => r > above && r <= upTo).length / masks.length);
  return { name, values };
}

export async function run(o: GuideOptions): Promise<void> {
  const source = new RandomMaskSource();
  const lines = await Promise.all(times(COLUMNS, (i) => source.sample(SEED, i, SIZE)));
  const strokes = times(COLUMNS, (i) => generateStrokes(SIZE, SIZE, Rng.of(SEED, i)));
  const hidden = occlusionMasks(...twoFrames(192, [22, 14]));
  const occlusions = times(COLUMNS, (i) => varyMask(hidden[i % hidden.length], SIZE, Rng.of(SEED, i)));
  const varied = times(COLUMNS, (i) => varyMask(lines[0], SIZE, Rng.of(SEED, i)));
  await savePicture(o, "1-kinds", grid([lines, strokes, occlusions, varied].map((row) => row.map(maskToPicture))));

  const count = o.quick ? 40 : 500;
  const many = await Promise.all(times(count, (i) => source.sample(SEED, i, 128)));
  const free = times(count, (i) => generateStrokes(128, 128, Rng.of(SEED, i)));
  const series = [
    statistics("lines, circles, ellipses", many),
    { name: "PConv-Keras", values: ORIGINAL },
    statistics("free-form strokes", free),
  ];
  const axes = { title: "Share of masks by hole ratio", x: "hole ratio", y: "share of masks" };
  const bins = HOLE_BINS.map(({ name }) => name);
  await saveChart(o, "1-statistics", barChart(axes, bins, series));
}
