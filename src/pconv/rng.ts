/**
 * Seeded random numbers: xoshiro128** (Blackman & Vigna, "Scrambled linear pseudorandom number generators", 2018),
 * seeded through splitmix32.
 *
 * Everything random in this library is a pure function of a seed and a few integers (`Rng.of(seed, stream, index)`), never
 * of how many numbers were drawn before. A training run can therefore resume at any sample without replaying the earlier ones.
 */
export class Rng {
  private readonly s: Uint32Array;

  private constructor(state: Uint32Array) {
    this.s = state;
  }

  /** The generator of one coordinate, for example `(seed, epoch)` or `(seed, stream, sample)`; integers in, same stream out. */
  static of(...keys: number[]): Rng {
    let h = 0x9e3779b9;
    for (const key of keys) {
      // Both halves of a 53-bit integer count.
      for (const part of [key >>> 0, Math.floor(key / 2 ** 32) >>> 0]) {
        h = Math.imul(h ^ part, 0x85ebca6b);
        h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
        h = (h ^ (h >>> 16)) >>> 0;
      }
    }
    const s = new Uint32Array(4);
    for (let i = 0; i < 4; i++) {
      h = (h + 0x9e3779b9) >>> 0;
      let z = h;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      s[i] = z ^ (z >>> 15);
    }
    if (s.every((v) => v === 0)) s[0] = 1; // the one forbidden state
    return new Rng(s);
  }

  /** Uniform integer in [0, 2^32). */
  uint32(): number {
    const s = this.s;
    const x = Math.imul(s[1], 5);
    const result = Math.imul((x << 7) | (x >>> 25), 9) >>> 0;
    const t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return result;
  }

  /** Uniform in [lo, hi), 32 bits of resolution. */
  uniform(lo = 0, hi = 1): number {
    return lo + (hi - lo) * (this.uint32() / 2 ** 32);
  }

  /** Uniform integer in [lo, hi], both ends included. */
  integer(lo: number, hi: number): number {
    return lo + Math.floor(this.uniform() * (hi - lo + 1));
  }

  /** Normal with mean 0 and standard deviation 1 (Box-Muller). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  /** A permutation of 0..n-1 (Fisher-Yates). */
  permutation(n: number): Uint32Array {
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.integer(0, i);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }
}
