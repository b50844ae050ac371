/**
 * What becomes of a gather pass's sums where they are stored.
 *
 * Epilogue, in this order: add what dst held (`accumulate`); times scale[pixel]; times gain[k]; plus bias[k] (times biasScale[pixel] where there
 * is a scale); activation. A pixel of a tile that was not computed takes base[pixel,k] where there is a base, else the sum 0.
 *
 * Its switches are uniform and not part of the text: drivers take seconds to compile a tile.
 */
export const FLAG = {
  scaled: 1,
  biased: 2,
  accumulate: 4,
  activated: 8,
  skipping: 16,
  based: 32,
  gained: 64,
  unwritten: 128,
} as const;

/**
 * WGSL of `store`, and of its parts `share_of`, `channel_of`, `store_live`, `store_dead` and `store_with` for who stores many values of a pixel or of a
 * channel; needs the epilogue's uniforms and bindings.
 * @param value what the bindings hold: channels by four, or by two
 */
export function epilogue(value: "vec4f" | "vec2f"): string {
  const channels = value === "vec2f" ? "2u * p.outC4" : "p.outC4";
  return /* wgsl */ `
/** Scale of the sum (x) and of the bias (y) at an output pixel. */
fn share_of(pixel: u32) -> vec2f {
  if ((p.flags & ${FLAG.scaled}u) == 0u) { return vec2f(1.0); }
  var at = pixel;
  if (pixel >= p.scalePixels) { at = pixel % p.scalePixels; } // shared by the batch
  return vec2f(scale[at], bias_scale[at]);
}

struct Channel {
  bias: ${value},
  gain: ${value},
}

/** Bias and gain of value k of a pixel. */
fn channel_of(k: u32) -> Channel {
  var channel = Channel(${value}(), ${value}(1.0));
  if ((p.flags & ${FLAG.biased}u) != 0u) { channel.bias = bias[k]; }
  if ((p.flags & ${FLAG.gained}u) != 0u) { channel.gain = bias[${channels} + k]; }
  return channel;
}

/** What becomes of a sum. Without branches, which took most of the time to compile a tile on lavapipe: what is not asked for changes nothing. */
fn finished(total: ${value}, share: vec2f, channel: Channel) -> ${value} {
  let value = total * share.x * channel.gain + channel.bias * share.y;
  // Exact for both signs, and NaN stays NaN on every adapter (max and select by the sign turn it into 0 on some).
  let positive = 0.5 * (value + abs(value));
  return select(value, positive + p.slope * (value - positive), (p.flags & ${FLAG.activated}u) != 0u);
}

/** Finishes value k of an output pixel that was computed, whose share and channel are known. */
fn store_live(pixel: u32, k: u32, total: ${value}, share: vec2f, channel: Channel) {
  let at = pixel * ${channels} + k;
  var sum = total;
  if ((p.flags & ${FLAG.accumulate}u) != 0u) { sum += dst[at]; }
  dst[at] = finished(sum, share, channel);
}

/** The same for one that was not. */
fn store_dead(pixel: u32, k: u32, share: vec2f, channel: Channel) {
  if ((p.flags & ${FLAG.unwritten}u) != 0u) { return; }
  let at = pixel * ${channels} + k;
  if ((p.flags & ${FLAG.based}u) != 0u) { dst[at] = base[at]; } else { dst[at] = finished(${value}(), share, channel); }
}

/** Finishes value k of an output pixel, whose channel is known. */
fn store_with(pixel: u32, k: u32, total: ${value}, computed: bool, channel: Channel) {
  let share = share_of(pixel);
  if (computed) { store_live(pixel, k, total, share, channel); } else { store_dead(pixel, k, share, channel); }
}

/** Finishes value k of an output pixel. */
fn store(pixel: u32, k: u32, total: ${value}, computed: bool) { store_with(pixel, k, total, computed, channel_of(k)); }
`;
}
