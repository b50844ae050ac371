/** Inpainting by tiles: what it may not touch, and that its tiles do not show. */
import { beforeAll, describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.js";
import { defaultTile, inpaint } from "../../src/pconv/inpaint.js";
import { deadLeaves } from "../../src/pconv/deadLeaves.js";
import type { MaskPicture, Picture } from "../../src/pconv/picture.js";
import { Rng } from "../../src/pconv/rng.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import { useGpu } from "../support/gpu.js";
import { averagedTiles, borders, chunkStarts, seamRatio } from "../support/seams.js";
import { planTiles } from "../../src/pconv/tiles.js";

const gpu = useGpu();
const TILE = 64;
const SIZE = 200;
let model: PConvUNet;
let picture: Picture;

beforeAll(() => {
  model = new PConvUNet(gpu(), { width: 0.125, depth: 4 }, 3);
  picture = deadLeaves(SIZE, SIZE, Rng.of(5));
});

const maskOf = (hole: (x: number, y: number) => boolean): MaskPicture => ({
  width: SIZE,
  height: SIZE,
  values: Uint8Array.from({ length: SIZE * SIZE }, (_, i) => (hole(i % SIZE, Math.floor(i / SIZE)) ? 0 : 1)),
});
const cross = maskOf((x, y) => Math.abs(x - 100) < 12 || Math.abs(y - 90) < 12);

describe("inpaint by tiles", () => {
  it("fills each hole and touches nothing else, NaN in the hole or not", async () => {
    const holed = { ...picture, pixels: picture.pixels.map((v, i) => (cross.values[Math.floor(i / 3)] ? v : NaN)) };
    const { image, output, passes } = await inpaint(model, holed, cross, { tile: TILE });
    expect(passes).toBeGreaterThan(4);
    expect(output).toBe(image);
    cross.values.forEach((valid, i) => {
      for (let k = 3 * i; k < 3 * i + 3; k++) {
        if (valid) expect(image.pixels[k]).toBe(picture.pixels[k]);
        else expect(image.pixels[k]).toBeGreaterThanOrEqual(0);
      }
    });
  });

  it("leaves out tiles without holes, unless everything is wanted", async () => {
    const corner = maskOf((x, y) => x < 5 && y < 5);
    expect((await inpaint(model, picture, corner, { tile: TILE, coarse: false })).passes).toBe(1);
    const { image, output, passes } = await inpaint(model, picture, corner, {
      tile: TILE,
      everywhere: true,
      coarse: false,
    });
    expect(passes).toBe(16);
    expect(image.pixels.subarray(-3)).toEqual(picture.pixels.subarray(-3));
    expect(output.pixels.subarray(-3)).not.toEqual(picture.pixels.subarray(-3));
  });

  it("gives a picture that fits into a tile the same as the network alone", async () => {
    const whole = await inpaint(model, picture, cross, { tile: 256, coarse: false });
    expect(whole.passes).toBe(1);
    expect(whole.output).not.toBe(whole.image);
    expect(await inpaint(model, picture, cross, { tile: 512, coarse: false })).toEqual(whole);
  });

  it("fills a hole that is deeper than the network sees", async () => {
    const disk = maskOf((x, y) => Math.hypot(x - 100, y - 100) < 90);
    const centre = 3 * (100 * SIZE + 100);
    const alone = await inpaint(model, picture, disk, { tile: 256, coarse: false });
    expect([...alone.image.pixels.subarray(centre, centre + 3)]).toEqual([0, 0, 0]);
    const guided = await inpaint(model, picture, disk, { tile: TILE });
    expect(Math.max(...guided.image.pixels.subarray(centre, centre + 3))).toBeGreaterThan(0.1);
  });

  it("shows no seams where the original's averaging does", async () => {
    const overlap = 4; // 30 of 512
    const averaged = await averagedTiles(model, picture, cross, TILE, overlap);
    const old = borders(chunkStarts(SIZE, TILE, overlap), TILE, SIZE);
    const { image } = await inpaint(model, picture, cross, { tile: TILE });
    const lines = borders(planTiles(SIZE, SIZE, TILE).columns.starts, TILE, SIZE);
    const [theirs, ours] = [seamRatio(averaged, cross, old, old), seamRatio(image, cross, lines, lines)];
    console.log(
      `gradient across tile borders against elsewhere: averaged ${theirs.toFixed(2)}, ours ${ours.toFixed(2)}`,
    );
    expect(theirs).toBeGreaterThan(1.4);
    expect(ours).toBeLessThan(1.15);
  });

  it("does not show what is unseen to the network, nor draws it", async () => {
    const seen = maskOf((x) => x > 150);
    const poisoned = { ...picture, pixels: picture.pixels.map((v, i) => (seen.values[Math.floor(i / 3)] ? v : NaN)) };
    const { image } = await inpaint(model, poisoned, cross, { tile: TILE, seen });
    image.pixels.forEach((v, i) => {
      const unseen = seen.values[Math.floor(i / 3)] === 0 && cross.values[Math.floor(i / 3)] === 1;
      expect(Number.isNaN(v)).toBe(unseen);
    });
  });

  it("fills two pictures at once as one after the other, and leaves the model as it was", async () => {
    const small = maskOf((x, y) => x < 40 && Math.abs(y - 100) < 5);
    const fill = (mask: MaskPicture) => inpaint(model, picture, mask, { tile: TILE });
    const before = await model.stateDict();
    const alone = [await fill(cross), await fill(small)];
    expect(alone[1].passes).toBeLessThan(alone[0].passes);
    // The shorter ends while the longer is at work.
    expect(await Promise.all([fill(cross), fill(small)])).toEqual(alone);
    expect(await Promise.all([fill(small), fill(cross)])).toEqual([...alone].reverse());
    expect(await model.stateDict()).toEqual(before);
    expect(model.training).toBe(true);
  });

  it("tells how far it is, and stops when asked to", async () => {
    const told: number[] = [];
    const { passes } = await inpaint(model, picture, cross, {
      tile: TILE,
      onProgress: ({ done, total }) => told.push(done / total),
    });
    expect(told).toEqual(Array.from({ length: passes + 1 }, (_, i) => i / passes));
    const controller = new AbortController();
    let runs = 0;
    const stopped = inpaint(model, picture, cross, {
      tile: TILE,
      signal: controller.signal,
      onProgress: ({ done }) => {
        runs = done;
        if (done === 2) controller.abort(new Error("enough"));
      },
    });
    await expect(stopped).rejects.toThrow("enough");
    expect(runs).toBe(2);
    expect(model.training).toBe(true);
  });

  it("rounds the tile up to what the network needs, and refuses masks of another size", async () => {
    expect(defaultTile(model)).toBe(512);
    const { passes } = await inpaint(
      model,
      picture,
      maskOf((x) => x < 3),
      { tile: 193, coarse: false },
    );
    expect(passes).toBe(1); // 208
    await expect(inpaint(model, picture, { width: 2, height: 2, values: new Uint8Array(4) })).rejects.toThrow(
      ShapeError,
    );
    await expect(inpaint(model, picture, cross, { tile: 1.5 })).rejects.toThrow(/whole number/);
  });
});
