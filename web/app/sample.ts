/** The built-in sample: a drawn lake at dusk, with a balloon to paint over. No DOM in here. */
import { Rng } from "../../src/pconv/rng.js";
import type { RgbaPicture } from "./pictures.js";

type Colour = readonly [r: number, g: number, b: number];

const mix = (a: Colour, b: Colour, t: number): Colour => {
  const s = Math.min(1, Math.max(0, t));
  return [a[0] + s * (b[0] - a[0]), a[1] + s * (b[1] - a[1]), a[2] + s * (b[2] - a[2])];
};

/** Smooth noise in -1..1 along a line, of several sizes at once. */
function ridge(rng: Rng, octaves: number): (x: number) => number {
  const lattice = Float32Array.from({ length: 256 * octaves }, () => rng.uniform(-1, 1));
  return (x) => {
    let [sum, u, strength] = [0, x, 0.5];
    for (let from = 0; from < lattice.length; from += 256, u *= 2, strength /= 2) {
      const i = Math.floor(u);
      const t = u - i;
      const [a, b] = [lattice[from + (i & 255)], lattice[from + ((i + 1) & 255)]];
      sum += (a + t * t * (3 - 2 * t) * (b - a)) * strength;
    }
    return sum;
  };
}

const SKY: readonly [number, Colour][] = [
  [0, [62, 96, 142]],
  [0.5, [158, 164, 178]],
  [0.8, [236, 190, 150]],
  [1, [250, 214, 160]],
];
const MOUNTAINS: readonly {
  readonly base: number;
  readonly height: number;
  readonly detail: number;
  readonly colour: Colour;
}[] = [
  { base: 0.44, height: 0.2, detail: 3, colour: [132, 140, 165] },
  { base: 0.53, height: 0.16, detail: 4, colour: [92, 106, 132] },
  { base: 0.6, height: 0.1, detail: 7, colour: [48, 66, 78] },
];
const SHORE = 0.62;

/**
 * Draws the sample, an opaque picture; the same pixels everywhere.
 * @param width in pixels; the height is three quarters of it
 */
export function drawSample(width = 512): RgbaPicture {
  const height = Math.round(width * 0.75);
  const rng = Rng.of(7, 0x6c616b65); // "lake"
  const ridges = MOUNTAINS.map(({ detail }) => ridge(rng, 5 + (detail > 5 ? 1 : 0)));
  const ripple = ridge(rng, 4);
  const grain = ridge(rng, 3);

  const land = (u: number, v: number): Colour => {
    let colour = SKY[0][1];
    const down = v / SHORE;
    for (let i = 1; i < SKY.length; i++) {
      const [from, to] = [SKY[i - 1], SKY[i]];
      if (down >= from[0]) colour = mix(from[1], to[1], (down - from[0]) / (to[0] - from[0]));
    }
    const sun = Math.hypot(u - 0.3, (v - 0.46) * 0.75);
    colour = mix(colour, [255, 240, 205], Math.exp(-sun * sun * 60) * 0.9);
    const cloud = grain(u * 3 + 20 + v * 4) * grain(v * 22 + u * 2 + 90);
    colour = mix(colour, [250, 226, 206], Math.max(0, cloud) * 1.6 * (1 - down * 0.6));
    MOUNTAINS.forEach(({ base, height: rise, detail, colour: rock }, i) => {
      const top = base - rise * (0.45 + 0.75 * ridges[i](u * detail + 7 * i));
      if (v < top) return;
      const shade = 0.12 * ridges[i](u * 40 + (v - top) * 60 + 3);
      const haze = mix(rock, [222, 196, 178], Math.max(0, (v - top) / (SHORE - top)) * (0.5 - 0.15 * i));
      colour = [haze[0] * (1 + shade), haze[1] * (1 + shade), haze[2] * (1 + shade)];
    });
    return colour;
  };

  const water = (u: number, v: number): Colour => {
    const depth = (v - SHORE) / (1 - SHORE);
    const wave = ripple((v - SHORE) * 70 * (1.2 - depth) + grain(u * 6) * 0.8);
    const mirrored = SHORE - (v - SHORE) * 0.85 + wave * 0.012;
    const colour = mix(land(u + wave * 0.012, mirrored), [30, 56, 84], 0.25 + 0.4 * depth);
    const glint = Math.max(0, wave) * Math.exp(-((u - 0.3) ** 2) * 30) * 60;
    return [colour[0] + glint, colour[1] + glint * 0.85, colour[2] + glint * 0.6];
  };

  const balloon = (u: number, v: number, under: Colour): Colour => {
    const [x, y] = [(u - 0.68) / 0.075, ((v - 0.22) * 0.75) / 0.085];
    const narrow = y > 0 ? 1 - 0.35 * y * y : 1;
    const inside = Math.hypot(x / narrow, y);
    if (inside < 1) {
      const stripe = Math.floor(
        (Math.asin(Math.min(1, Math.max(-1, x / narrow / Math.sqrt(1 - Math.min(0.99, y * y))))) / Math.PI + 0.5) * 7,
      );
      const cloth: Colour = stripe % 2 === 0 ? [196, 62, 52] : [244, 222, 186];
      return mix(cloth, [60, 24, 40], 0.25 + 0.35 * (x * 0.5 + 0.5) - 0.2 * (1 - inside));
    }
    const basket = Math.abs(x) < 0.18 && y > 1.22 && y < 1.5;
    const rope = y > 0.85 && y <= 1.22 && Math.abs(Math.abs(x) - 0.2 - (1.22 - y) * 0.3) < 0.035;
    return basket ? [88, 58, 38] : rope ? [70, 60, 56] : under;
  };

  const rgba = new Uint8ClampedArray(width * height * 4);
  /** Two points to a pixel soften the edges. */
  const SUB = [0.25, 0.75] as const;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const sum = [0, 0, 0];
      for (const sub of SUB) {
        const [u, v] = [(x + sub) / width, (y + sub) / height];
        const colour = balloon(u, v, v < SHORE ? land(u, v) : water(u, v));
        for (let k = 0; k < 3; k++) sum[k] += colour[k] / 2;
      }
      const noise = rng.uniform(-3, 3);
      rgba.set([sum[0] + noise, sum[1] + noise, sum[2] + noise, 255], 4 * (y * width + x));
    }
  }
  return { width, height, rgba };
}
