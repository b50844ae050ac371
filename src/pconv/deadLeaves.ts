/**
 * Pictures from nothing: the dead-leaves model, opaque shapes that fall on each other at random, with power-law sizes.
 * It has the edges, flat parts and scale invariance of photographs.
 *
 * Source: Lee, Mumford & Huang, "Occlusion models for natural images: a statistical study of a scale-invariant dead leaves
 * model", IJCV 41, 2001 (sizes by r^-3); Baradad et al., "Learning to see by looking at noise", NeurIPS 2021 (that networks
 * learn from it, with textured and many-sided leaves). Colours, shading and textures are ours.
 */
import { ShapeError } from "../errors.js";
import type { Picture, PictureSource } from "./picture.js";
import { Rng } from "./rng.js";

/** Key of this file's random streams ("leaf" in ASCII). */
const STREAM = 0x6c656166;

/** Leaves at most; what they leave open shows the background. Nearly always the picture is covered before. */
const MAX_LEAVES = 600;

/** Endless dead-leaves pictures; the built-in training source that needs no download. */
export class DeadLeavesSource implements PictureSource {
  readonly description = "dead-leaves pictures, drawn as needed";
  readonly length = Infinity;

  /** @throws {ShapeError} a size that is not a positive integer */
  sample(seed: number, index: number, size: number): Promise<Picture> {
    return Promise.resolve().then(() => deadLeaves(size, size, Rng.of(seed, STREAM, index)));
  }
}

/**
 * One dead-leaves picture, [height, width, 3], values in 0..1.
 *
 * Leaves are drawn front to back: each pixel remembers how much light still passes it, so the work ends once the picture
 * is covered, and the result is an exact sample of the model's steady state rather than of "long enough" painting.
 *
 * @param rng where the numbers come from; the picture is a pure function of its state
 * @throws {ShapeError} a size that is not a positive integer
 */
export function deadLeaves(width: number, height: number, rng: Rng): Picture {
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0)) {
    throw new ShapeError(
      "deadLeaves",
      `expected a width and height of whole pixels from 1 up, got ${width}x${height}`,
      "pass the size of the picture to draw",
    );
  }
  const scale = Math.max(width, height);
  const palette = drawPalette(rng);
  // A picture of small leaves, or one of large ones: photographs differ in that too.
  // None below 5 pixels where the size allows it: specks cannot be inpainted, only guessed.
  const finest = Math.max(0.03, Math.min(0.2, 5 / scale));
  const smallest = scale * Math.exp(rng.uniform(Math.log(finest), Math.log(0.2)));
  const largest = scale * 0.6;
  const canvas: Canvas = {
    width,
    height,
    pixels: new Float32Array(width * height * 3),
    light: new Float32Array(width * height).fill(1),
    open: width * height,
  };
  for (let n = 0; n < MAX_LEAVES && canvas.open > 0; n++) {
    const outline = drawOutline(rng, width, height, powerLawRadius(rng, smallest, largest));
    fill(canvas, outline, drawSurface(rng, palette, outline.radius));
  }
  if (canvas.open > 0) fill(canvas, wholeCanvas(width, height), drawSurface(rng, palette, scale));
  return { width, height, pixels: canvas.pixels.map((v) => Math.min(1, Math.max(0, v))) };
}

/** A radius with density proportional to r^-3 in [smallest, largest], by inversion: the scale-invariant law. */
function powerLawRadius(rng: Rng, smallest: number, largest: number): number {
  const [a, b] = [smallest ** -2, largest ** -2];
  return (a + rng.uniform() * (b - a)) ** -0.5;
}

// ---------------------------------------------------------------- canvas

interface Canvas {
  readonly width: number;
  readonly height: number;
  readonly pixels: Float32Array;
  /** [height, width]: the share of each pixel that no leaf covers yet. */
  readonly light: Float32Array;
  /** How many pixels have light left. */
  open: number;
}

/** Below this a pixel counts as covered: less than one 8-bit step. */
const DARK = 1 / 512;

/** Puts one leaf behind all earlier ones. Its edge is anti-aliased: a pixel is covered by half a pixel minus its distance. */
function fill(canvas: Canvas, outline: Outline, surface: Surface): void {
  const { width, height, pixels, light } = canvas;
  const reach = outline.reach + 1;
  const [firstRow, lastRow] = [Math.max(0, Math.floor(outline.y - reach)), Math.min(height - 1, outline.y + reach)];
  const [firstColumn, lastColumn] = [
    Math.max(0, Math.floor(outline.x - reach)),
    Math.min(width - 1, outline.x + reach),
  ];
  const colour = new Float64Array(3);
  for (let row = firstRow; row <= lastRow; row++) {
    for (let column = firstColumn; column <= lastColumn; column++) {
      const at = row * width + column;
      const before = light[at];
      if (before === 0) continue;
      const [dx, dy] = [column + 0.5 - outline.x, row + 0.5 - outline.y];
      const inside = 0.5 - outline.distance(dx, dy);
      if (inside <= 0) continue;
      const cover = before * Math.min(1, inside);
      surface(dx, dy, inside, colour);
      pixels[3 * at] += cover * colour[0];
      pixels[3 * at + 1] += cover * colour[1];
      pixels[3 * at + 2] += cover * colour[2];
      const after = before - cover;
      light[at] = after < DARK ? 0 : after;
      if (after < DARK) canvas.open--;
    }
  }
}

// ---------------------------------------------------------------- outlines

/** Where a leaf lies and how far points are from its edge. */
interface Outline {
  readonly x: number;
  readonly y: number;
  /** Radius of the disc of about the same size. */
  readonly radius: number;
  /** No point of the leaf is farther than this from (x, y) in either direction. */
  readonly reach: number;
  /** Signed distance in pixels (or a close lower bound inside) of an offset from (x, y): negative inside. */
  readonly distance: (dx: number, dy: number) => number;
}

/** A disc, an ellipse, a rectangle or a polygon, turned at random; its centre may lie outside the picture. */
function drawOutline(rng: Rng, width: number, height: number, radius: number): Outline {
  const place = { x: rng.uniform(-radius, width + radius), y: rng.uniform(-radius, height + radius), radius };
  const angle = rng.uniform(0, 2 * Math.PI);
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  const kind = rng.uniform();
  if (kind < 0.3) return { ...place, reach: radius, distance: (dx, dy) => Math.hypot(dx, dy) - radius };
  if (kind < 0.5) {
    const aspect = Math.sqrt(rng.uniform(0.3, 1));
    const [a, b] = [radius / aspect, radius * aspect];
    return {
      ...place,
      reach: a,
      distance: (dx, dy) => {
        const [u, v] = [(dx * c + dy * s) / a, (dy * c - dx * s) / b];
        const k = Math.sqrt(u * u + v * v);
        // First-order distance: the implicit function over the length of its gradient; exact on the edge.
        return k === 0 ? -b : ((k - 1) * k) / Math.sqrt((u * u) / (a * a) + (v * v) / (b * b));
      },
    };
  }
  if (kind < 0.75) {
    const aspect = Math.sqrt(rng.uniform(0.15, 1));
    const [a, b] = [radius / aspect, radius * aspect];
    return {
      ...place,
      reach: Math.hypot(a, b),
      distance: (dx, dy) => Math.max(Math.abs(dx * c + dy * s) - a, Math.abs(dy * c - dx * s) - b),
    };
  }
  // A convex polygon: the intersection of half planes at jittered directions; far corners are rounded off.
  const sides = rng.integer(3, 7);
  const planes = Array.from({ length: sides }, (_, k) => {
    const direction = angle + ((k + rng.uniform(-0.25, 0.25)) * 2 * Math.PI) / sides;
    return { nx: Math.cos(direction), ny: Math.sin(direction), offset: radius * rng.uniform(0.7, 1) };
  });
  return {
    ...place,
    reach: radius * 2,
    distance: (dx, dy) => {
      let farthest = Math.hypot(dx, dy) - 2 * radius;
      for (const { nx, ny, offset } of planes) farthest = Math.max(farthest, dx * nx + dy * ny - offset);
      return farthest;
    },
  };
}

/** The outline of the background: everywhere inside. */
function wholeCanvas(width: number, height: number): Outline {
  const reach = Math.max(width, height);
  return { x: width / 2, y: height / 2, radius: reach, reach, distance: () => -reach };
}

// ---------------------------------------------------------------- surfaces

/** Writes the colour of a leaf at an offset from its centre, `inside` pixels from its edge. */
type Surface = (dx: number, dy: number, inside: number, colour: Float64Array) => void;

/** The common colours of one picture: photographs have few hues, and those are pale more often than not. */
interface Palette {
  readonly warmth: number;
  readonly tint: number;
  readonly spread: number;
  readonly lightness: number;
  /** Direction that the light comes from, radians. */
  readonly lightAngle: number;
  /** Smooth noise in -1..1 that all leaves share, each from another place. */
  readonly noise: (u: number, v: number) => number;
}

function drawPalette(rng: Rng): Palette {
  return {
    warmth: 0.06 * rng.normal(),
    tint: 0.03 * rng.normal(),
    spread: rng.uniform(0.02, 0.12),
    lightness: rng.uniform(0.3, 0.65),
    lightAngle: rng.uniform(0, 2 * Math.PI),
    noise: valueNoise(rng),
  };
}

/** A colour around the palette's mean; lightness varies far more than hue. */
function drawColour(rng: Rng, palette: Palette): [r: number, g: number, b: number] {
  const y = Math.min(0.97, Math.max(0.03, palette.lightness + 0.24 * rng.normal()));
  const redBlue = palette.warmth + palette.spread * rng.normal();
  const greenMagenta = palette.tint + 0.5 * palette.spread * rng.normal();
  return [y + redBlue - greenMagenta / 2, y + greenMagenta / 2, y - redBlue - greenMagenta / 2];
}

/** Two colours that blend across the leaf, one texture, and a rim that is rounded off towards the light. */
function drawSurface(rng: Rng, palette: Palette, radius: number): Surface {
  const first = drawColour(rng, palette);
  const other = drawColour(rng, palette);
  const blend = rng.uniform(0, 0.6);
  const second = first.map((v, k) => v + blend * (other[k] - v));
  const angle = rng.uniform(0, 2 * Math.PI);
  const [gx, gy] = [Math.cos(angle) / (2 * radius), Math.sin(angle) / (2 * radius)];
  const texture = drawTexture(rng, palette, radius);
  // Half of the leaves look like balls or pillows: lighter where their rim faces the light.
  const relief = rng.uniform() < 0.5 ? rng.uniform(0.1, 0.35) : 0;
  const [lx, ly] = [Math.cos(palette.lightAngle) / radius, Math.sin(palette.lightAngle) / radius];
  return (dx, dy, inside, colour) => {
    const t = Math.min(1, Math.max(0, 0.5 + dx * gx + dy * gy));
    const rim = Math.max(0, 1 - inside / radius);
    const shade = texture(dx, dy) + relief * rim * rim * Math.min(1, Math.max(-1, dx * lx + dy * ly));
    for (let k = 0; k < 3; k++) colour[k] = first[k] + t * (second[k] - first[k]) + shade;
  };
}

/** A brightness pattern in about -0.2..0.2: none, waves, soft-edged stripes, checks, or noise. */
function drawTexture(rng: Rng, palette: Palette, radius: number): (dx: number, dy: number) => number {
  const kind = rng.uniform();
  const strength = rng.uniform(0.02, 0.16);
  const angle = rng.uniform(0, 2 * Math.PI);
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  // Not below 4 pixels a period, so that it does not alias.
  const period = Math.max(4, radius * Math.exp(rng.uniform(Math.log(0.08), Math.log(0.8))));
  const phase = rng.uniform(0, 2 * Math.PI);
  const k = (2 * Math.PI) / period;
  if (kind < 0.35) return () => 0;
  if (kind < 0.5) return (dx, dy) => strength * Math.sin(k * (dx * c + dy * s) + phase);
  if (kind < 0.62) {
    const sharpness = rng.uniform(2, 6);
    return (dx, dy) => strength * Math.tanh(sharpness * Math.sin(k * (dx * c + dy * s) + phase));
  }
  if (kind < 0.7) {
    return (dx, dy) =>
      strength * Math.tanh(4 * Math.sin(k * (dx * c + dy * s) + phase) * Math.sin(k * (dy * c - dx * s)));
  }
  const noise = palette.noise;
  const [u0, v0] = [rng.uniform(0, 32), rng.uniform(0, 32)];
  const stretch = rng.uniform(0.2, 1); // grain, as of wood or grass
  return (dx, dy) => {
    const [u, v] = [u0 + ((dx * c + dy * s) * stretch) / period, v0 + (dy * c - dx * s) / period];
    return strength * (1.4 * noise(u, v) + 0.7 * noise(2 * u + 17, 2 * v) + 0.35 * noise(4 * u, 4 * v + 31));
  };
}

/** Smooth noise in -1..1: random values on a lattice of 32 x 32 that repeats, blended by smoothstep. */
function valueNoise(rng: Rng): (u: number, v: number) => number {
  const lattice = Float32Array.from({ length: 1024 }, () => rng.uniform(-1, 1));
  return (u, v) => {
    const [i, j] = [Math.floor(u), Math.floor(v)];
    const [a, b] = [u - i, v - j];
    const [sa, sb] = [a * a * (3 - 2 * a), b * b * (3 - 2 * b)];
    const [i0, i1, j0, j1] = [i & 31, (i + 1) & 31, (j & 31) << 5, ((j + 1) & 31) << 5];
    const top = lattice[j0 + i0] + sa * (lattice[j0 + i1] - lattice[j0 + i0]);
    const bottom = lattice[j1 + i0] + sa * (lattice[j1 + i1] - lattice[j1 + i0]);
    return top + sb * (bottom - top);
  };
}
