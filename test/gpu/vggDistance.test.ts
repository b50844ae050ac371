import { expect, it } from "vitest";
import { normalizeImageNet } from "../../src/autograd/ops/channelAffine.js";
import { Tape } from "../../src/autograd/tape.js";
import type { Picture } from "../../src/pconv/picture.js";
import { Rng } from "../../src/pconv/rng.js";
import { Vgg } from "../../src/pconv/vgg.js";
import { vggDistance } from "../../src/pconv/vggDistance.js";
import { useGpu } from "../support/gpu.js";
import { tinyVggState } from "../support/tinyVgg.js";

const gpu = useGpu();

function noise(width: number, height: number, seed: number): Picture {
  const rng = Rng.of(seed);
  return { width, height, pixels: Float32Array.from({ length: width * height * 3 }, () => rng.uniform()) };
}

/** The definition: unit vectors first, then their difference. */
async function slowDistance(vgg: Vgg, a: Picture, b: Picture): Promise<number> {
  const tape = new Tape(gpu(), { grad: false });
  const maps = async ({ width, height, pixels }: Picture) => {
    const x = tape.upload({ n: 1, h: height, w: width, c: 3 }, pixels, "x");
    const pools = vgg.forward(tape, normalizeImageNet(tape, x));
    return Promise.all(
      [pools.pool1, pools.pool2, pools.pool3].map(async (t) => ({ c: t.shape.c, v: await t.values() })),
    );
  };
  const [as, bs] = [await maps(a), await maps(b)];
  tape.dispose();
  let total = 0;
  as.forEach(({ c, v }, k) => {
    const unit = (values: Float32Array, at: number): number[] => {
      const vector = [...values.subarray(at, at + c)];
      const length = Math.hypot(...vector);
      return vector.map((f) => f / (length + 1e-10));
    };
    for (let at = 0; at < v.length; at += c) {
      const [ua, ub] = [unit(v, at), unit(bs[k].v, at)];
      total += (ua.reduce((sum, f, i) => sum + (f - ub[i]) ** 2, 0) * c) / v.length;
    }
  });
  return total;
}

it("adds the mean squared distances of unit features, and grows with the difference", async () => {
  const vgg = new Vgg(gpu(), tinyVggState());
  const [a, b] = [noise(37, 24, 1), noise(37, 24, 2)];
  const near = { ...a, pixels: a.pixels.map((v, i) => 0.9 * v + 0.1 * b.pixels[i]) };
  const distance = await vggDistance(vgg, a);
  expect(await distance(a)).toBeLessThan(1e-6);
  const [close, far] = [await distance(near), await distance(b)];
  expect(close).toBeGreaterThan(1e-6);
  expect(far).toBeGreaterThan(2 * close);
  expect(Math.abs(far - (await slowDistance(vgg, a, b)))).toBeLessThan(1e-6);
  expect(await (await vggDistance(vgg, b))(a)).toBeCloseTo(far, 9);
  await expect(distance(noise(24, 37, 3))).rejects.toThrow(/one size/);
  await expect(vggDistance(vgg, noise(7, 30, 1))).rejects.toThrow(/at least 8x8, got 7x30/);
  vgg.free();
});
