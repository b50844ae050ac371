/** The one closeness matcher of the numeric tests. */

/** Half a unit in the last place of float32, relative: the error of one correctly rounded operation. */
export const HALF_ULP = 2 ** -24;

/** Below this, adapters may flush results to zero. */
const TINY = 1e-36;

/**
 * Fails at the first entry with |got - want| > tolerance, on NaN in either, and on different lengths.
 * @param tolerance absolute, one number or one per entry
 * @param seed how to replay the case
 */
export function expectClose(
  name: string,
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  tolerance: number | ArrayLike<number>,
  seed: string,
): void {
  if (got.length !== want.length) throw new Error(`${name}: got ${got.length} values, want ${want.length} (${seed})`);
  for (let i = 0; i < want.length; i++) {
    const allowed = typeof tolerance === "number" ? tolerance : tolerance[i];
    // Written so that NaN anywhere, the tolerance included, fails.
    if (!(Math.abs(got[i] - want[i]) <= allowed)) {
      throw new Error(`${name}[${i}]: got ${got[i]}, want ${want[i]} within ${allowed} (${seed})`);
    }
  }
}

/** Bit for bit the same values (0 and -0 count as equal); NaN fails. */
export function expectExact(name: string, got: ArrayLike<number>, want: ArrayLike<number>, seed: string): void {
  expectClose(name, got, want, 0, seed);
}

/**
 * Tolerance per entry for float32 sums: `ulps` half units in the last place of the sum of the terms' magnitudes, which
 * is what the reference gives for the absolute values of its inputs.
 */
export function rounding(magnitudes: ArrayLike<number>, ulps = 16): Float64Array {
  return Float64Array.from(magnitudes, (m) => m * ulps * HALF_ULP + TINY);
}

/**
 * The same for Winograd's forms, where an entry's error has the size of all entries of its tile: an eighth of the largest at least.
 */
export function tileRounding(magnitudes: ArrayLike<number>, ulps: number): Float64Array {
  const least = Array.from(magnitudes).reduce((a, v) => Math.max(a, v), 0) / 8;
  return rounding(
    Float64Array.from(magnitudes, (m) => Math.max(m, least)),
    ulps,
  );
}

export const abs = (values: ArrayLike<number>): Float64Array => Float64Array.from(values, Math.abs);
