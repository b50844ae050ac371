/** Filling the holes of a picture of any size with a trained network. */
import { denormalizeImageNet, normalizeImageNet } from "../autograd/ops/channelAffine.js";
import { Tape } from "../autograd/tape.js";
import type { Tensor } from "../autograd/tensor.js";
import { ShapeError, UserError } from "../errors.js";
import { Enlarged, reduceMasked } from "./coarse.js";
import { dilateHoles } from "./maskAugment.js";
import type { MaskPicture, Picture } from "./picture.js";
import { inRim, listTiles, planTiles, type Tile, type TilePlan } from "./tiles.js";
import type { PConvUNet } from "./unet.js";

/** What {@link inpaint} gives. */
export interface Inpainted {
  /** The picture with its holes filled; pixels outside the hole are the input's, bit by bit. */
  readonly image: Picture;
  /**
   * What the network drew, clamped to 0..1. With tiles and without `everywhere` only holes are drawn; elsewhere it is the
   * input, so that `output` and `image` are one picture.
   */
  readonly output: Picture;
  /** How many times the network ran: once for a picture that fits into a tile. */
  readonly passes: number;
}

/** How far {@link inpaint} has come. `total` is known from the start. */
export interface InpaintProgress {
  /** Runs of the network that are done. */
  readonly done: number;
  readonly total: number;
}

/** Options of {@link inpaint}. */
export interface InpaintOptions {
  /**
   * Pictures with a longer side are filled tile by tile, each a square of this many pixels; default {@link defaultTile}.
   * Rounded up to a multiple of the network's 2^depth. It bounds the device memory.
   */
  readonly tile?: number;
  /** Draws outside the holes too, for {@link Inpainted.output}; default false: tiles without a hole are left out. */
  readonly everywhere?: boolean;
  /**
   * Pixels that the network may look at, if not all that are valid in the mask: a fully transparent pixel has no colour to go
   * by. 1 = may be seen; what it marks as unseen and the mask as valid stays as it is.
   */
  readonly seen?: MaskPicture;
  /**
   * A first pass over a reduced copy where holes reach from one tile into the next, so that both tiles see the same beyond
   * their edges, and where holes are too deep for the network, which would leave them black; default true.
   */
  readonly coarse?: boolean;
  /**
   * Pixels of a hole that are further than this from all that is known, diagonals counting 1, are taken from the reduced copy;
   * default an eighth of 2^depth. More draws finer where the network is good at large holes.
   */
  readonly reach?: number;
  /** Called before the first and after each run of the network. */
  readonly onProgress?: (progress: InpaintProgress) => void;
  /** Stops between two tiles; the promise is then rejected with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** The paper trained at 512x512: the network has never seen more at once. */
const PAPER_SIZE = 512;
/** A reduced copy is at most this much smaller; still smaller ones are made from it. Beyond, fine tiles get only a blur. */
const MAX_REDUCTION = 4;

/** The tile that {@link inpaint} takes for a network by default: 512 pixels, or one pixel at the network's deepest level. */
export const defaultTile = (model: PConvUNet): number => roundTile(model, PAPER_SIZE);

function roundTile(model: PConvUNet, tile: number): number {
  if (!Number.isInteger(tile) || tile < 1) {
    throw new UserError("inpaint", `expected a tile of a whole number of pixels, got ${tile}`, "such as 512");
  }
  const multiple = 2 ** model.config.depth;
  return multiple * Math.ceil(tile / multiple);
}

/**
 * How deep in a hole the network is trusted by default: an eighth of a pixel of its deepest level, 32 pixels for the paper's.
 * It would reach eight times as far, but holes so deep are rare in training, and come out black: a small network of 6 levels
 * gained 6 dB in holes of 40 to 60 %, and lost again with half of this.
 */
const defaultReach = (model: PConvUNet): number => Math.ceil(2 ** model.config.depth / 8);

/** What one picture needs: its tiles, and first a smaller picture if holes reach across tiles or are deep. */
interface Job {
  readonly picture: Picture;
  /** 1 = not to be drawn. */
  readonly mask: MaskPicture;
  /** 1 = the network may look at it. */
  readonly known: MaskPicture;
  readonly plan: TilePlan;
  readonly tiles: readonly Tile[];
  /** Every pixel is drawn, not only the holes. */
  readonly everywhere: boolean;
  /** 0 = so deep in a hole that the network is not trusted. */
  readonly reached: MaskPicture;
  readonly coarse: Job | null;
}

/**
 * Fills the holes of a picture of any size. One that fits into a tile goes through the network whole; a larger one in
 * overlapping tiles that are blended smoothly, after a pass over a reduced copy where a hole reaches across tiles.
 *
 * @param picture RGB in 0..1; what stands in the holes does not matter
 * @param mask the same size, 1 = valid, 0 = hole
 * @throws {ShapeError} when the sizes differ.
 */
export async function inpaint(
  model: PConvUNet,
  picture: Picture,
  mask: MaskPicture,
  options: InpaintOptions = {},
): Promise<Inpainted> {
  const { seen, signal, everywhere = false, onProgress } = options;
  checkSize("mask", picture, mask);
  if (seen) checkSize("mask of seen pixels", picture, seen);
  const tile = options.tile === undefined ? defaultTile(model) : roundTile(model, options.tile);
  const known = seen ? { ...mask, values: mask.values.map((v, i) => v & seen.values[i]) } : mask;
  const fits = Math.max(picture.width, picture.height) <= tile;
  const job = planJob(
    { picture, mask, known, everywhere: everywhere || fits },
    {
      tile,
      reach: options.reach ?? defaultReach(model),
      coarse: options.coarse ?? true,
    },
  );
  const total = countPasses(job);
  let done = 0;
  signal?.throwIfAborted();
  onProgress?.({ done, total });
  const drawn = await runJob(model, job, () => {
    onProgress?.({ done: ++done, total });
    signal?.throwIfAborted();
  });
  return { ...finish(job, drawn), passes: total };
}

function checkSize(what: string, { width, height }: Picture, mask: MaskPicture): void {
  if (mask.width === width && mask.height === height) return;
  throw new ShapeError(
    "inpaint",
    `expected a ${what} of ${width}x${height}, got ${mask.width}x${mask.height}`,
    "resize the mask to the picture",
  );
}

function planJob(
  given: Pick<Job, "picture" | "mask" | "known" | "everywhere">,
  limits: { readonly tile: number; readonly reach: number; readonly coarse: boolean },
): Job {
  const { picture, mask, known, everywhere } = given;
  const { width, height } = picture;
  const { tile } = limits;
  const plan = planTiles(width, height, tile);
  const tiles = listTiles(plan, everywhere ? undefined : mask);
  const reached = invert(dilateHoles(invert(known), limits.reach));
  const job: Job = { ...given, plan, tiles, reached, coarse: null };
  const lost = reached.values.includes(0) || tiles.some((t) => holeInRim(job, t));
  if (!limits.coarse || !lost || !known.values.includes(1)) return job;
  const factor = Math.min(MAX_REDUCTION, Math.max(2, Math.max(width, height) / tile));
  const side = (length: number): number => Math.max(1, Math.round(length / factor));
  const reduced = reduceMasked(picture, known, side(width), side(height));
  return { ...job, coarse: planJob({ ...reduced, known: reduced.mask, everywhere: false }, limits) };
}

const invert = (mask: MaskPicture): MaskPicture => ({ ...mask, values: mask.values.map((v) => 1 - v) });

function holeInRim({ plan, known }: Job, tile: Tile): boolean {
  for (let j = 0; j < plan.rows.size; j++) {
    for (let i = 0; i < plan.columns.size; i++) {
      if (inRim(plan, tile, i, j) && known.values[(tile.y + j) * known.width + tile.x + i] === 0) return true;
    }
  }
  return false;
}

const countPasses = (job: Job): number => job.tiles.length + (job.coarse ? countPasses(job.coarse) : 0);

/** Sum of all tiles' drawings by their shares, [height, width, 3]; complete where there are tiles. */
async function runJob(model: PConvUNet, job: Job, onPass: () => void): Promise<Float32Array> {
  const { picture, known, reached, plan, tiles } = job;
  const { width, height } = picture;
  let surroundings: Enlarged | null = null;
  if (job.coarse) {
    const drawn = await runJob(model, job.coarse, onPass);
    surroundings = new Enlarged(finish(job.coarse, drawn).image, width, height);
  }
  const drawn = new Float32Array(width * height * 3);
  const [w, h] = [plan.columns.size, plan.rows.size];
  const pixels = new Float32Array(w * h * 3);
  const valid = new Float32Array(w * h);
  for (const tile of tiles) {
    for (let j = 0; j < h; j++) {
      const from = (tile.y + j) * width + tile.x;
      pixels.set(picture.pixels.subarray(3 * from, 3 * (from + w)), 3 * j * w);
      for (let i = 0; i < w; i++) {
        const k = j * w + i;
        valid[k] = known.values[from + i];
        const own = valid[k] === 1 || (reached.values[from + i] === 1 && !inRim(plan, tile, i, j));
        if (own || !surroundings) continue;
        surroundings.read(tile.x + i, tile.y + j, pixels, 3 * k);
        valid[k] = 1;
      }
    }
    const fill = await draw(model, pixels, valid, w, h);
    const across = plan.columns.weights[tile.column];
    plan.rows.weights[tile.row].forEach((down, j) => {
      if (down === 0) return;
      const to = 3 * ((tile.y + j) * width + tile.x);
      for (let i = 0; i < 3 * w; i++) drawn[to + i] += fill[3 * j * w + i] * down * across[Math.floor(i / 3)];
    });
    onPass();
  }
  return drawn;
}

/** One run of the network over [h,w,3] values and [h,w] mask; what it drew, not clamped. */
async function draw(
  model: PConvUNet,
  pixels: Float32Array,
  valid: Float32Array,
  w: number,
  h: number,
): Promise<Float32Array> {
  const tape = new Tape(model.gpu, { grad: false });
  try {
    const raw = tape.upload({ n: 1, h, w, c: 3 }, pixels, "picture");
    const imagenet = model.config.range === "imagenet";
    const input = imagenet ? normalizeImageNet(tape, raw) : raw;
    const { output } = forwardInEvaluation(model, tape, input, tape.uploadMask({ n: 1, h, w }, valid));
    return await (imagenet ? denormalizeImageNet(tape, output) : output).values();
  } finally {
    tape.dispose();
  }
}

/**
 * The network as it evaluates; the mode that the caller has chosen is back before anything else runs: two pictures may be filled at
 * once, or one while the network trains.
 */
function forwardInEvaluation(model: PConvUNet, ...given: Parameters<PConvUNet["forward"]>): { output: Tensor } {
  const { training } = model;
  try {
    return model.eval().forward(...given);
  } finally {
    model.train(training);
  }
}

/** The pictures from what was drawn; takes `drawn` over. */
function finish({ picture, mask, everywhere }: Job, drawn: Float32Array): Omit<Inpainted, "passes"> {
  const { width, height } = picture;
  for (let i = 0; i < drawn.length; i++) drawn[i] = Math.min(1, Math.max(0, drawn[i]));
  // A large picture is kept twice only if it has to be.
  const pixels = everywhere ? drawn.slice() : drawn;
  for (let i = 0; i < mask.values.length; i++) {
    if (mask.values[i] === 1) for (let k = 3 * i; k < 3 * i + 3; k++) pixels[k] = picture.pixels[k];
  }
  const image = { width, height, pixels };
  return { image, output: everywhere ? { width, height, pixels: drawn } : image };
}
