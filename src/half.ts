/**
 * The two 16-bit float formats of weight files; the first is that of half storage on the device too.
 *
 * float16 is IEEE 754-2019 binary16 (1 sign, 5 exponent, 10 fraction bits); bfloat16 is the upper half of a float32.
 * Subnormals and infinities are kept; a NaN stays a NaN.
 */

const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);

/** The float32 with the bit pattern `half` (0..65535) read as float16; exact. */
export function halfToFloat(half: number): number {
  const magnitude = half & 0x7fff;
  const sign = half & 0x8000 ? -1 : 1;
  if (magnitude < 0x400) return sign * magnitude * 2 ** -24;
  // Infinity and NaN keep an all-ones exponent; the others move from bias 15 to bias 127.
  word[0] = magnitude >= 0x7c00 ? 0x7f800000 | ((magnitude & 0x3ff) << 13) : (magnitude << 13) + (112 << 23);
  return sign * float[0];
}

/**
 * The float16 bit pattern nearest to the float32 `value`, ties to even; beyond 65520 it is infinity. A `value` that is not a
 * float32 is rounded to one first.
 */
export function floatToHalf(value: number): number {
  float[0] = value;
  const bits = word[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00; // NaN, made quiet
  if (magnitude >= 0x47800000) return sign | 0x7c00; // 2^16 and above
  if (magnitude < 0x38800000) {
    // Below 2^-14 the result is a multiple of 2^-24. Adding 0.5 = 2^23 * 2^-24 puts the float32's last bit there, so that the
    // addition itself rounds to nearest even; the fraction bits are then the answer.
    float[0] = Math.abs(float[0]) + 0.5;
    return sign | (word[0] - 0x3f000000);
  }
  // Rebias, then round: half of the dropped range, less one unless the kept part is odd (ties to even). A carry runs into the
  // exponent, which is right, up to infinity.
  return sign | ((magnitude - (112 << 23) + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

/** float16 bit patterns to float32, same length; exact. */
export function decodeHalf(halves: Uint16Array): Float32Array {
  const result = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) result[i] = halfToFloat(halves[i]);
  return result;
}

/** float32 to float16 bit patterns, same length; nearest, ties to even. */
export function encodeHalf(values: Float32Array): Uint16Array {
  const result = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) result[i] = floatToHalf(values[i]);
  return result;
}

/** bfloat16 bit patterns to float32, same length; exact. */
export function decodeBfloat16(patterns: Uint16Array): Float32Array {
  const result = new Float32Array(patterns.length);
  const bits = new Uint32Array(result.buffer);
  for (let i = 0; i < patterns.length; i++) bits[i] = patterns[i] << 16;
  return result;
}
