/** How the pixels of one picture move to another. No Node here. */
import { checkSameSize } from "./metrics.js";
import type { Picture } from "./picture.js";

/** Motion of each pixel: pixel (x, y) of the first picture is at (x + u, y + v) of the second. [height, width] each, in pixels. */
export interface Flow {
  readonly width: number;
  readonly height: number;
  readonly u: Float32Array;
  readonly v: Float32Array;
}

interface Plane {
  readonly width: number;
  readonly height: number;
  readonly values: Float32Array;
}

/** The coarsest level's short side is at least this. */
const COARSEST_SIDE = 12;
/** How often the second picture is warped anew on each level, and how many steps are made with each. */
const WARPS = 5;
const STEPS = 30;
/** Weight of equal brightness (0..1) against smooth motion; the paper's usual numbers, there for 0..255. */
const LAMBDA = 0.15 * 255;
const THETA = 0.3;
const TAU = 0.25;

/**
 * Dense motion between two pictures, coarse to fine: the flow that minimises lambda |difference of brightness| + total
 * variation, so that motion may jump at the edges of things. A median filter after each warp.
 *
 * Source: Zach, Pock, Bischof, "A duality based approach for realtime TV-L1 optical flow", 2007.
 *
 * Good for motion up to about an eighth of the short side. **Not good** for thin things that move far, for changes of light and
 * for repeated patterns. Takes about 20 microseconds a pixel.
 * @throws {ShapeError} when the sizes differ
 */
export function opticalFlow(first: Picture, second: Picture): Flow {
  checkSameSize("opticalFlow", first, second);
  const levels = [[brightness(first), brightness(second)] as const];
  for (let [a, b] = levels[0]; Math.min(a.width, a.height) >= 2 * COARSEST_SIDE;) {
    [a, b] = [halved(a), halved(b)];
    levels.push([a, b]);
  }
  let flow: Flow | null = null;
  for (const [a, b] of levels.reverse()) {
    flow = refined(a, b, flow === null ? still(a) : doubled(flow, a));
  }
  return flow!;
}

/** Reads a plane between its pixels; beyond its edges they are repeated. */
export function sampleAt({ width, height, values }: Plane, x: number, y: number): number {
  const cx = Math.min(width - 1, Math.max(0, x));
  const cy = Math.min(height - 1, Math.max(0, y));
  const [x0, y0] = [Math.min(width - 1, Math.floor(cx)), Math.min(height - 1, Math.floor(cy))];
  const [x1, y1] = [Math.min(width - 1, x0 + 1), Math.min(height - 1, y0 + 1)];
  const [fx, fy] = [cx - x0, cy - y0];
  const top = values[y0 * width + x0] * (1 - fx) + values[y0 * width + x1] * fx;
  const bottom = values[y1 * width + x0] * (1 - fx) + values[y1 * width + x1] * fx;
  return top * (1 - fy) + bottom * fy;
}

function refined(a: Plane, b: Plane, start: Flow): Flow {
  const { width, height } = a;
  const [gx, gy] = gradients(b).map((values) => ({ width, height, values }));
  let u: Float32Array = Float32Array.from(start.u);
  let v: Float32Array = Float32Array.from(start.v);
  // The dual variables: where the flow's gradient pushes against its total variation.
  const [ux, uy, vx, vy] = [0, 0, 0, 0].map(() => new Float32Array(u.length));
  for (let warp = 0; warp < WARPS; warp++) {
    const data = dataTerm(a, b, gx, gy, u, v);
    for (let step = 0; step < STEPS; step++) {
      descend(data, u, v);
      for (const [flow, px, py] of [
        [u, ux, uy],
        [v, vx, vy],
      ]) {
        addDivergence(flow, px, py, width);
        ascend(flow, px, py, width);
      }
    }
    [u, v] = [median(u, width, height), median(v, width, height)];
  }
  return { width, height, u, v };
}

/** The difference of brightness as a linear function of the flow: constant + x u + y v, for each pixel. */
interface DataTerm {
  readonly x: Float32Array;
  readonly y: Float32Array;
  readonly constant: Float32Array;
}

function dataTerm(a: Plane, b: Plane, gx: Plane, gy: Plane, u: Float32Array, v: Float32Array): DataTerm {
  const { width, height } = a;
  const [x, y, constant] = [0, 0, 0].map(() => new Float32Array(u.length));
  for (let i = 0; i < u.length; i++) {
    const [toX, toY] = [(i % width) + u[i], Math.floor(i / width) + v[i]];
    // Out of the frame there is nothing to compare with: smoothness alone decides.
    if (toX < 0 || toY < 0 || toX > width - 1 || toY > height - 1) continue;
    x[i] = sampleAt(gx, toX, toY);
    y[i] = sampleAt(gy, toX, toY);
    constant[i] = sampleAt(b, toX, toY) - a.values[i] - x[i] * u[i] - y[i] * v[i];
  }
  return { x, y, constant };
}

/** Moves the flow against the difference of brightness: all the way to 0, or by a bounded step (the L1 norm's proximal map). */
function descend({ x, y, constant }: DataTerm, u: Float32Array, v: Float32Array): void {
  const bound = LAMBDA * THETA;
  for (let i = 0; i < u.length; i++) {
    const squared = x[i] * x[i] + y[i] * y[i];
    if (squared < 1e-9) continue;
    const difference = constant[i] + x[i] * u[i] + y[i] * v[i];
    const step = Math.max(-bound, Math.min(bound, -difference / squared));
    u[i] += step * x[i];
    v[i] += step * y[i];
  }
}

/** flow += theta div p, by backward differences. */
function addDivergence(flow: Float32Array, px: Float32Array, py: Float32Array, width: number): void {
  for (let i = 0; i < flow.length; i++) {
    const left = i % width > 0 ? px[i - 1] : 0;
    const above = i >= width ? py[i - width] : 0;
    flow[i] += THETA * (px[i] - left + py[i] - above);
  }
}

/** p = (p + tau / theta grad flow) / (1 + tau / theta |grad flow|), by forward differences that are 0 at the far borders. */
function ascend(flow: Float32Array, px: Float32Array, py: Float32Array, width: number): void {
  for (let i = 0; i < flow.length; i++) {
    const dx = i % width < width - 1 ? flow[i + 1] - flow[i] : 0;
    const dy = i + width < flow.length ? flow[i + width] - flow[i] : 0;
    const shrink = 1 / (1 + (TAU / THETA) * Math.sqrt(dx * dx + dy * dy));
    px[i] = (px[i] + (TAU / THETA) * dx) * shrink;
    py[i] = (py[i] + (TAU / THETA) * dy) * shrink;
  }
}

function brightness({ width, height, pixels }: Picture): Plane {
  const values = new Float32Array(width * height);
  for (let i = 0; i < values.length; i++) {
    values[i] = 0.299 * pixels[3 * i] + 0.587 * pixels[3 * i + 1] + 0.114 * pixels[3 * i + 2];
  }
  return { width, height, values };
}

/** Means of 2x2 pixels; an odd last row or column counts twice. */
function halved({ width, height, values }: Plane): Plane {
  const [w, h] = [Math.ceil(width / 2), Math.ceil(height / 2)];
  const result = new Float32Array(w * h);
  for (let y = 0; y < h; y++) {
    const [top, bottom] = [2 * y * width, Math.min(height - 1, 2 * y + 1) * width];
    for (let x = 0; x < w; x++) {
      const [left, right] = [2 * x, Math.min(width - 1, 2 * x + 1)];
      result[y * w + x] =
        (values[top + left] + values[top + right] + values[bottom + left] + values[bottom + right]) / 4;
    }
  }
  return { width: w, height: h, values: result };
}

const still = ({ width, height }: Plane): Flow => ({
  width,
  height,
  u: new Float32Array(width * height),
  v: new Float32Array(width * height),
});

/** A coarse level's flow at the size of a finer one. */
function doubled(flow: Flow, { width, height }: Plane): Flow {
  const grown = (values: Float32Array): Float32Array => {
    const plane = { width: flow.width, height: flow.height, values };
    return Float32Array.from(
      { length: width * height },
      (_, i) => 2 * sampleAt(plane, ((i % width) - 0.5) / 2, (Math.floor(i / width) - 0.5) / 2),
    );
  };
  return { width, height, u: grown(flow.u), v: grown(flow.v) };
}

/** Central differences along x and y. */
function gradients({ width, height, values }: Plane): [Float32Array, Float32Array] {
  const [gx, gy] = [new Float32Array(values.length), new Float32Array(values.length)];
  for (let i = 0; i < values.length; i++) {
    const x = i % width;
    const [left, right] = [x > 0 ? i - 1 : i, x < width - 1 ? i + 1 : i];
    const [above, below] = [i >= width ? i - width : i, i < width * (height - 1) ? i + width : i];
    gx[i] = (values[right] - values[left]) / Math.max(1, right - left);
    gy[i] = (values[below] - values[above]) / Math.max(1, (below - above) / width);
  }
  return [gx, gy];
}

/** The median of 5x5 pixels around each one; edges are repeated. */
function median(values: Float32Array, width: number, height: number): Float32Array {
  const result = new Float32Array(values.length);
  const around = new Float32Array(25);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let k = 0;
      for (let dy = -2; dy <= 2; dy++) {
        const row = Math.min(height - 1, Math.max(0, y + dy)) * width;
        for (let dx = -2; dx <= 2; dx++) around[k++] = values[row + Math.min(width - 1, Math.max(0, x + dx))];
      }
      result[y * width + x] = around.sort()[12];
    }
  }
  return result;
}
