/** The script of docs/5-any-size.md. */
import {
  deadLeaves,
  DeadLeavesSource,
  type Gpu,
  grid,
  inpaint,
  InpaintingLoss,
  learningRate,
  type MaskPicture,
  openGpu,
  PConvUNet,
  type Picture,
  psnr,
  RandomMaskSource,
  reestimateStatistics,
  Rng,
  Trainer,
} from "pconv-webgpu";
import { masked } from "../tools/train/measure.js";
import { discMask, type GuideOptions, savePicture } from "./pictures.js";

const SEED = 5;
const TILE = 64;
const SIZE = 3 * TILE;

/** Few and thick strokes, in pixels at 512x512: the network is to learn wide holes. */
const THICK = { lines: [1, 3], circles: [1, 3], ellipses: [0, 2], thickness: [40, 120] } as const;

/** A network that has learnt a little, on pictures of one tile. */
async function trainedModel(gpu: Gpu, steps: number): Promise<PConvUNet> {
  const model = new PConvUNet(gpu, { width: 0.25, depth: 5 }, SEED);
  const trainer = new Trainer({
    model,
    loss: new InpaintingLoss(),
    images: new DeadLeavesSource(),
    masks: new RandomMaskSource(THICK),
    imageSize: TILE,
    batchSize: 2,
    lr: (step) => learningRate({ schedule: "cosine", lr: 2e-3, warmup: 10, steps }, step),
    seed: SEED,
  });
  while (trainer.step < steps) await trainer.trainStep({ report: trainer.step + 1 === steps });
  await trainer.close();
  const statistics = { images: trainer.config.images, masks: trainer.config.masks, imageSize: TILE, batchSize: 2 };
  await reestimateStatistics({ model, ...statistics, seed: SEED, batches: 16 });
  return model;
}

/** Every tile on its own, side by side: what `inpaint` does not do. */
async function sideBySide(model: PConvUNet, picture: Picture, mask: MaskPicture): Promise<Picture> {
  const pixels = picture.pixels.slice();
  for (let top = 0; top < SIZE; top += TILE) {
    for (let left = 0; left < SIZE; left += TILE) {
      const part = new Float32Array(TILE * TILE * 3);
      const values = new Uint8Array(TILE * TILE);
      for (let y = 0; y < TILE; y++) {
        const from = (top + y) * SIZE + left;
        part.set(picture.pixels.subarray(3 * from, 3 * (from + TILE)), 3 * y * TILE);
        values.set(mask.values.subarray(from, from + TILE), y * TILE);
      }
      const square = { width: TILE, height: TILE };
      const { image } = await inpaint(model, { ...square, pixels: part }, { ...square, values });
      for (let y = 0; y < TILE; y++) {
        pixels.set(image.pixels.subarray(3 * y * TILE, 3 * (y + 1) * TILE), 3 * ((top + y) * SIZE + left));
      }
    }
  }
  return { ...picture, pixels };
}

/** Mean step from pixel to pixel in the holes: across the borders of {@link sideBySide}'s tiles, over all others. 1 is no seam. */
function seam({ pixels }: Picture, { values }: MaskPicture): number {
  const sums = { border: 0, inside: 0 };
  const counts = { border: 0, inside: 0 };
  const add = (a: number, b: number, kind: "border" | "inside"): void => {
    if (values[a] === 1 || values[b] === 1) return;
    for (let k = 0; k < 3; k++) sums[kind] += Math.abs(pixels[3 * a + k] - pixels[3 * b + k]);
    counts[kind]++;
  };
  for (let i = 0; i < SIZE; i++) {
    for (let j = 1; j < SIZE; j++) {
      const kind = j % TILE === 0 ? "border" : "inside";
      add(i * SIZE + j - 1, i * SIZE + j, kind);
      add((j - 1) * SIZE + i, j * SIZE + i, kind);
    }
  }
  return sums.border / counts.border / (sums.inside / counts.inside);
}

export async function run(o: GuideOptions): Promise<void> {
  const gpu = await openGpu();
  const model = await trainedModel(gpu, o.quick ? 3 : 300);
  const picture = deadLeaves(SIZE, SIZE, Rng.of(SEED));
  const lines = await new RandomMaskSource().sample(SEED, 0, SIZE);
  const disc = discMask(SIZE, 0.45);
  const rows: Picture[][] = [];
  for (const [name, mask] of [
    ["thin holes", lines],
    ["one large hole", disc],
  ] as const) {
    const apart = await sideBySide(model, picture, mask);
    const blended = await inpaint(model, picture, mask, { tile: TILE, coarse: false });
    const all = await inpaint(model, picture, mask, { tile: TILE });
    rows.push([masked(picture, mask), apart, blended.image, all.image]);
    for (const [what, image] of [
      ["side by side", apart],
      ["blended", blended.image],
      ["after a coarse pass", all.image],
    ] as const) {
      console.log(
        `${name}, tiles ${what}: seam ${seam(image, mask).toFixed(2)}, PSNR ${psnr(image, picture).toFixed(2)} dB`,
      );
    }
    const kept = all.image.pixels.every((v, i) => mask.values[Math.floor(i / 3)] === 0 || v === picture.pixels[i]);
    console.log(`${name}: ${all.passes} runs of the network; pixels outside the hole unchanged: ${kept}`);
  }
  const odd = deadLeaves(101, 37, Rng.of(SEED));
  const whole = { width: 101, height: 37, values: new Uint8Array(101 * 37).map((_, i) => (i % 101 < 50 ? 1 : 0)) };
  const { image } = await inpaint(model, odd, whole);
  console.log(`a picture of ${odd.width}x${odd.height} comes out as ${image.width}x${image.height}`);
  gpu.close();
  await savePicture(o, "5-tiles", grid(rows));
}
