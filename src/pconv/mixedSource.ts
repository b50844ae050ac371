/** Pictures or masks from two supplies, mixed at random. */
import { Rng } from "./rng.js";

/** What `PictureSource` and `MaskSource` have in common. */
export interface Source<T> {
  readonly description: string;
  readonly length: number;
  sample(seed: number, index: number, size: number): Promise<T>;
}

const STREAM = 0x6d697865;

/** A share of the samples from `second`, the others from `first`; which, follows from seed and index alone. */
export class MixedSource<T> implements Source<T> {
  /** @param share of samples from `second`, 0 to 1 */
  constructor(
    private readonly first: Source<T>,
    private readonly second: Source<T>,
    private readonly share: number,
  ) {}

  get description(): string {
    const percent = (share: number) => `${Math.round(100 * share)} %`;
    return `${percent(1 - this.share)} ${this.first.description}, ${percent(this.share)} ${this.second.description}`;
  }

  get length(): number {
    return this.first.length + this.second.length;
  }

  sample(seed: number, index: number, size: number): Promise<T> {
    const source = Rng.of(seed, STREAM, index).uniform() < this.share ? this.second : this.first;
    return source.sample(seed, index, size);
  }
}
