/**
 * How the network that comes with the package is trained: the options of `pconv-train`, phase by phase.
 *
 * Small pictures first, because a step costs in proportion to its pixels; then batch norm frozen and pictures as large as the
 * evaluation's, where holes are twice as thick; then on top of the smooth interpolation of the holes. The perceptual and style terms, which
 * cost ten times the network itself, come last and weak: the paper's weight of style draws patterns into large holes (docs/ablations.md).
 */

/** The network: 1.6 M parameters, 3.2 MB in half precision. */
export const NETWORK = ["--width", "0.25", "--depth", "7"] as const;

/** One run of `pconv-train`. It starts from the averaged weights of the phase before it. */
export interface Phase {
  /** Of its folder. */
  readonly name: string;
  readonly steps: number;
  readonly batchSize: number;
  /** Side of the training pictures in pixels. */
  readonly imageSize: number;
  /** It begins with the smooth interpolation and a last layer of zeros, see `addBase`. */
  readonly newBase?: true | undefined;
  /** With the perceptual and style terms. */
  readonly vgg?: true;
  readonly options: readonly string[];
}

export const PHASES: readonly Phase[] = [
  {
    ...{ name: "1-small", steps: 3000, batchSize: 4, imageSize: 128 },
    options: [
      ...["--drawn-masks", "0.5", "--drawn-images", "0.1", "--seed", "1"],
      ...["--lr", "1.5e-3", "--lr-schedule", "cosine", "--lr-warmup", "100", "--ema", "0.998"],
    ],
  },
  {
    ...{ name: "2-crops", steps: 4612, batchSize: 4, imageSize: 128 },
    options: [
      ...["--drawn-masks", "0.5", "--drawn-images", "0.1", "--min-crop", "0.5", "--seed", "2"],
      ...["--lr", "1e-3", "--lr-warmup", "200", "--ema", "0.999"],
    ],
  },
  {
    ...{ name: "3-frozen", steps: 1500, batchSize: 2, imageSize: 256 },
    options: [
      ...["--stage", "finetune", "--drawn-masks", "0.4", "--drawn-images", "0.05", "--min-crop", "0.7", "--seed", "3"],
      ...["--lr", "7e-4", "--lr-warmup", "100", "--ema", "0.998"],
    ],
  },
  {
    ...{ name: "4-base", steps: 2600, batchSize: 2, imageSize: 256, newBase: true },
    options: [
      ...["--base", "harmonic"],
      ...["--stage", "finetune", "--drawn-masks", "0.4", "--drawn-images", "0.05", "--min-crop", "0.7", "--seed", "4"],
      ...["--lr", "8e-4", "--lr-schedule", "cosine", "--lr-warmup", "50", "--ema", "0.998"],
    ],
  },
  {
    ...{ name: "5-vgg", steps: 2000, batchSize: 1, imageSize: 256, vgg: true },
    options: [
      ...["--base", "harmonic", "--loss-weights", "styleOut=1", "styleComp=1"],
      ...["--stage", "finetune", "--drawn-masks", "0.4", "--drawn-images", "0.05", "--min-crop", "0.7", "--seed", "5"],
      ...["--lr", "2e-4", "--lr-schedule", "cosine", "--lr-warmup", "100", "--ema", "0.998"],
    ],
  },
];

/** What every phase is run with. */
export const COMMON = ["--clip-grad-norm", "1", "--log-every", "20", ...NETWORK] as const;
