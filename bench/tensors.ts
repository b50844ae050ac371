/** Device memory of one workload: random inputs that can be drawn again, outputs that start as NaN. */
import { padChannels, unpadChannels } from "../src/autograd/layout.js";
import type { Gpu } from "../src/gpu/gpu.js";
import type { Storage } from "../src/gpu/pool.js";
import { vec4s } from "../src/kernels/shape.js";
import type { Rng } from "../src/pconv/rng.js";

/** `count` float32 values, uniform in [lo, hi). */
export function floats(rng: Rng, count: number, lo = -1, hi = 1): Float32Array {
  const values = new Float32Array(count); // a loop: `from` takes several times as long, and there are millions
  for (let i = 0; i < count; i++) values[i] = rng.uniform(lo, hi);
  return values;
}

/** A weight [taps,C,K] with both channel counts padded. */
export function padWeight(values: Float32Array, c: number, k: number): Float32Array {
  const rows = padChannels(values, k);
  const [from, to] = [c * 4 * vec4s(k), 4 * vec4s(c) * 4 * vec4s(k)];
  const padded = new Float32Array((rows.length / from) * to);
  for (let tap = 0; tap < rows.length / from; tap++) {
    padded.set(rows.subarray(tap * from, (tap + 1) * from), tap * to);
  }
  return padded;
}

/** The reverse. */
export function unpadWeight(values: Float32Array, c: number, k: number): Float32Array {
  const rows = unpadChannels(values, k);
  const [from, to] = [4 * vec4s(c) * k, c * k];
  const plain = new Float32Array((rows.length / from) * to);
  for (let tap = 0; tap < rows.length / from; tap++) {
    plain.set(rows.subarray(tap * from, tap * from + to), tap * to);
  }
  return plain;
}

export class DeviceMemory {
  private readonly owned: Storage[] = [];

  constructor(readonly gpu: Gpu) {}

  /** Room for `count` floats, contents undefined. */
  room(count: number): Storage {
    const storage = this.gpu.alloc(count * 4, "pconv-bench");
    this.owned.push(storage);
    return storage;
  }

  /** Room for `rows` pixels of `c` channels, padded. */
  activation(rows: number, c: number): Storage {
    return this.room(rows * 4 * vec4s(c));
  }

  /** Room for a weight, both channel counts padded. */
  weight(taps: number, c: number, k: number): Storage {
    return this.room(taps * 4 * vec4s(c) * 4 * vec4s(k));
  }

  /** Uploads rows of `c` channels, padded. */
  upload(to: Storage, values: Float32Array, c: number): void {
    this.gpu.write(to, c % 4 === 0 ? values : padChannels(values, c));
  }

  /** Makes every entry NaN, so that one which a kernel leaves out is seen, and old results cannot pass for new ones. */
  poison(...storages: Storage[]): void {
    for (const s of storages) this.gpu.write(s, new Float32Array(s.bytes / 4).fill(NaN));
  }

  free(): void {
    for (const storage of this.owned.splice(0)) this.gpu.free(storage);
  }
}
