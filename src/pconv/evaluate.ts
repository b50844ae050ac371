/**
 * The evaluation protocol: pictures and masks in, quality by hole ratio out. No Node and no GPU here.
 *
 * Masks go into bins by their hole ratio at the evaluated size. In each bin picture i gets mask i mod n, in the order of their
 * names. The composite (the fill in the holes, the truth elsewhere), rounded to 8 bits as a file would hold it, is compared
 * with the truth over the whole picture, and averaged over pictures.
 */
import { ShapeError } from "../errors.js";
import { eightBit } from "./evaluationSize.js";
import { checkSameSize, l1Percent, psnr } from "./metrics.js";
import { holeRatio, type MaskPicture, type Picture } from "./picture.js";
import { ssim } from "./ssim.js";

/** The bins of Liu et al. 2018: hole ratios above `above` and up to `upTo`. */
export const HOLE_BINS: readonly { readonly name: string; readonly above: number; readonly upTo: number }[] = [
  { name: "0.01-0.1", above: 0.01, upTo: 0.1 },
  { name: "0.1-0.2", above: 0.1, upTo: 0.2 },
  { name: "0.2-0.3", above: 0.2, upTo: 0.3 },
  { name: "0.3-0.4", above: 0.3, upTo: 0.4 },
  { name: "0.4-0.5", above: 0.4, upTo: 0.5 },
  { name: "0.5-0.6", above: 0.5, upTo: 0.6 },
];

/** Index into {@link HOLE_BINS} of a hole ratio, or -1 for none of them. */
export const holeBin = (ratio: number): number =>
  HOLE_BINS.findIndex(({ above, upTo }) => ratio > above && ratio <= upTo);

/** A fill without any error has no PSNR; it counts as this many dB in averages. */
export const LARGEST_PSNR = 100;

/** Masks by hole ratio. Only as many are kept in each bin as there are pictures to pair them with. */
export class MaskBins {
  /** How many masks have been added, those outside of all bins included. */
  total = 0;
  private readonly counts = HOLE_BINS.map(() => 0);
  private readonly kept: { mask: MaskPicture; name: string }[][] = HOLE_BINS.map(() => []);

  /** @param pictures how many pictures there will be */
  constructor(private readonly pictures: number) {}

  /**
   * Puts a mask into its bin; add masks in the order of their names.
   * @param mask at the evaluated size
   */
  add(mask: MaskPicture, name: string): void {
    this.total++;
    const bin = holeBin(holeRatio(mask));
    if (bin < 0) return;
    this.counts[bin]++;
    if (this.kept[bin].length < this.pictures) this.kept[bin].push({ mask, name });
  }

  /** How many masks a bin has. */
  count(bin: number): number {
    return this.counts[bin];
  }

  /** How many masks are in none of the bins. */
  get outside(): number {
    return this.total - this.counts.reduce((a, b) => a + b);
  }

  /** The mask of picture `index` in a bin; undefined in an empty bin. */
  maskFor(bin: number, index: number): { readonly mask: MaskPicture; readonly name: string } | undefined {
    return this.kept[bin][index % Math.max(1, this.counts[bin])];
  }
}

/** Something that fills holes. */
export interface FillMethod {
  readonly name: string;
  /** The picture with its holes filled; what it does outside of them does not count. */
  fill(picture: Picture, mask: MaskPicture): Promise<Picture> | Picture;
}

/** How near a composite is to the truth. */
export interface Quality {
  /** Mean absolute difference in percent of the range. */
  readonly l1: number;
  /** dB, peak 1, at most `LARGEST_PSNR`. */
  readonly psnr: number;
  readonly ssim: number;
  /** Distance by VGG features, where one was asked for. */
  readonly vgg?: number;
}

/** One picture with one mask. */
export interface EvaluatedPair {
  /** Index into {@link HOLE_BINS}. */
  readonly bin: number;
  readonly image: number;
  /** The mask's name. */
  readonly mask: string;
  /** One for each method. */
  readonly quality: readonly Quality[];
}

/** Averages over the pictures of a bin; null in an empty bin. */
export interface BinQuality {
  readonly bin: string;
  /** Pictures. */
  readonly count: number;
  readonly l1: number | null;
  readonly psnr: number | null;
  readonly ssim: number | null;
  readonly vgg?: number | null;
}

/** What {@link evaluate} compares. */
export interface EvaluationRequest {
  /** How many pictures there are. */
  readonly pictures: number;
  /** Picture `index`, at the evaluated size. */
  readonly picture: (index: number) => Promise<Picture>;
  readonly masks: MaskBins;
  readonly methods: readonly FillMethod[];
  /** Prepares a distance from a truth: called once for each picture. */
  readonly vgg?: (truth: Picture) => Promise<(result: Picture) => Promise<number>>;
  /** Of the pictures, only every `size`-th from `rank` on: where several processes share the work. Default: all of them. */
  readonly share?: { readonly rank: number; readonly size: number };
  /** Called after each fill. */
  readonly onFilled?: () => void;
}

/**
 * Fills every picture with a mask of each bin by each method, and measures.
 * @throws {ShapeError} a fill, or a mask, of another size than its picture, or pictures below 11x11
 */
export async function evaluate(request: EvaluationRequest): Promise<EvaluatedPair[]> {
  const { masks, methods, share = { rank: 0, size: 1 } } = request;
  const pairs: EvaluatedPair[] = [];
  for (let image = share.rank; image < request.pictures; image += share.size) {
    const truth = await request.picture(image);
    const distance = await request.vgg?.(truth);
    for (let bin = 0; bin < HOLE_BINS.length; bin++) {
      const found = masks.maskFor(bin, image);
      if (!found) continue;
      const quality: Quality[] = [];
      for (const method of methods) {
        const result = await filledComposite(method, truth, found.mask);
        quality.push({
          l1: l1Percent(result, truth),
          psnr: Math.min(LARGEST_PSNR, psnr(result, truth)),
          ssim: ssim(result, truth),
          ...(distance && { vgg: await distance(result) }),
        });
        request.onFilled?.();
      }
      pairs.push({ bin, image, mask: found.name, quality });
    }
  }
  return pairs;
}

/**
 * What is measured: a method's fill in the holes, rounded to 8 bits, and the truth elsewhere. The method sees no truth under
 * the holes, but middle grey.
 * @throws {ShapeError} the fill or the mask has another size than the truth
 */
export async function filledComposite(method: FillMethod, truth: Picture, mask: MaskPicture): Promise<Picture> {
  if (mask.width !== truth.width || mask.height !== truth.height) {
    throw new ShapeError(
      "evaluate",
      `expected a mask of ${truth.width}x${truth.height}, got ${mask.width}x${mask.height}`,
      "resize the mask to the picture",
    );
  }
  const result = await method.fill(greyHoles(truth, mask), mask);
  checkSameSize(`evaluate, method ${method.name}`, result, truth);
  const filled = eightBit(result).pixels;
  return { ...truth, pixels: truth.pixels.map((v, i) => (mask.values[Math.floor(i / 3)] === 1 ? v : filled[i])) };
}

/** A picture whose holes are middle grey. */
export function greyHoles(picture: Picture, mask: MaskPicture): Picture {
  return { ...picture, pixels: picture.pixels.map((v, i) => (mask.values[Math.floor(i / 3)] === 1 ? v : 0.5)) };
}

/** Averages of one method by bin, all bins in order. */
export function averageByBin(pairs: readonly EvaluatedPair[], method: number): BinQuality[] {
  return HOLE_BINS.map(({ name }, bin) => {
    const inBin = pairs.filter((pair) => pair.bin === bin).map(({ quality }) => quality[method]);
    const mean = (value: (q: Quality) => number): number | null =>
      inBin.length === 0 ? null : inBin.reduce((sum, q) => sum + value(q), 0) / inBin.length;
    const hasVgg = pairs.length > 0 && pairs[0].quality[method].vgg !== undefined;
    return {
      bin: name,
      count: inBin.length,
      l1: mean((q) => q.l1),
      psnr: mean((q) => q.psnr),
      ssim: mean((q) => q.ssim),
      ...(hasVgg && { vgg: mean((q) => q.vgg!) }),
    };
  });
}

/** Where a pair stands among those of its bin. */
export type Rank = "best" | "median" | "low" | "worst";

/**
 * Four pairs of a bin, by PSNR of one method: the highest, the middle one, that below which a quarter lies, and the lowest; fewer
 * where the bin has fewer.
 */
export function rankedPairs(
  pairs: readonly EvaluatedPair[],
  bin: number,
  method: number,
): { readonly rank: Rank; readonly pair: EvaluatedPair }[] {
  const sorted = pairs
    .filter((pair) => pair.bin === bin)
    .sort((a, b) => b.quality[method].psnr - a.quality[method].psnr || a.image - b.image);
  const last = sorted.length - 1;
  const picks: { readonly rank: Rank; readonly at: number }[] = [
    { rank: "best", at: 0 },
    { rank: "worst", at: last },
    { rank: "median", at: Math.floor(last / 2) },
    { rank: "low", at: Math.floor((3 * last) / 4) },
  ];
  return picks
    .slice(0, sorted.length)
    .sort((a, b) => a.at - b.at)
    .map(({ rank, at }) => ({ rank, pair: sorted[at] }));
}
