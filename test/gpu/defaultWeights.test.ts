/** The network that comes with the package. */
import { stat } from "node:fs/promises";
import { expect, it } from "vitest";
import { meanFill } from "../../src/pconv/baselines.js";
import { DeadLeavesSource } from "../../src/pconv/deadLeaves.js";
import { greyHoles } from "../../src/pconv/evaluate.js";
import { defaultWeightsUrl } from "../../src/io/defaultWeights.js";
import { loadUNet } from "../../src/io/unetFile.js";
import { inpaint } from "../../src/pconv/inpaint.js";
import { psnr } from "../../src/pconv/metrics.js";
import { RandomMaskSource } from "../../src/pconv/randomMask.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { useGpu } from "../support/gpu.js";

const gpu = useGpu();

const SIZE = 128;
const PICTURES = 6;

it("is small enough to come with the package", async () => {
  expect((await stat(defaultWeightsUrl())).size).toBeLessThan(8e6);
});

it("fills holes far better than their surroundings' mean colour, and draws none black or white", async () => {
  const model = await PConvUNet.load(gpu(), "default");
  const [images, masks] = [new DeadLeavesSource(), new RandomMaskSource()];
  let gain = 0;
  let offset = 0;
  for (let i = 0; i < PICTURES; i++) {
    const truth = await images.sample(99, i, SIZE);
    const mask = await masks.sample(99, i, SIZE);
    const { image } = await inpaint(model, greyHoles(truth, mask), mask);
    gain += (psnr(image, truth) - psnr(meanFill(truth, mask), truth)) / PICTURES;
    const holes = [...mask.values.keys()].filter((at) => mask.values[at] === 0);
    const brightness = (pixels: Float32Array) =>
      holes.reduce((sum, at) => sum + pixels[3 * at] + pixels[3 * at + 1] + pixels[3 * at + 2], 0) / (3 * holes.length);
    offset = Math.max(offset, Math.abs(brightness(image.pixels) - brightness(truth.pixels)));
  }
  model.free();
  expect(gain).toBeGreaterThan(3);
  expect(offset).toBeLessThan(0.1);
});

it("is what loadUNet gives for the same word", async () => {
  const [a, b] = [await PConvUNet.load(gpu(), "default"), await loadUNet(gpu(), "default")];
  expect(b.config).toEqual(a.config);
  const states = await Promise.all([a, b].map((model) => model.stateDict()));
  expect([...states[1].keys()]).toEqual([...states[0].keys()]);
  const [wanted, got] = states.map((state) => Buffer.from(state.get("enc_4.conv.weight")!.values.buffer));
  expect(got.equals(wanted)).toBe(true);
  for (const model of [a, b]) model.free();
});
