/** WGSL of `taps_of`: which taps of a window apply to a class of output pixels (see `gather.ts`). */
export const TAPS_OF = /* wgsl */ `
/** The taps of one axis that apply to a class: first, first + step, ...; and their offsets in source pixels. */
struct Taps {
  first: u32,
  step: u32,
  count: u32,
  offset: i32,
  offset_step: i32,
}

fn taps_of(first_offset: i32, step: i32, div: i32, count: u32) -> Taps {
  var first = 0u;
  while (first < count && (first_offset + i32(first) * step) % div != 0) { first++; }
  var every = 1u;
  while ((i32(every) * step) % div != 0) { every++; }
  return Taps(
    first,
    every,
    (count - first + every - 1u) / every,
    (first_offset + i32(first) * step) / div,
    i32(every) * step / div,
  );
}
`;
