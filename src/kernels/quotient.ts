/**
 * WGSL `quotient(a, b)` = a / b for u32, exact, from a float32 estimate and two corrections: adapters without integer division in
 * hardware (all that emulate lanes, and most GPUs in software) take several times as long for the operator.
 *
 * The estimate errs by at most a/b 2^-22 + 1; the remainder then fits i32 for every a, and the second quotient errs by at most
 * one. b must be below 2^31 and not 0.
 */
export const QUOTIENT = /* wgsl */ `
fn quotient(a: u32, b: u32) -> u32 {
  let inverse = 1.0 / f32(b);
  var q = u32(f32(a) * inverse);
  q += u32(i32(floor(f32(i32(a - q * b)) * inverse)));
  let rest = i32(a - q * b);
  return q + select(0u, 1u, rest >= i32(b)) - select(0u, 1u, rest < 0);
}
`;
