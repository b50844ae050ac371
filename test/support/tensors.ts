/** Tensors on the device for kernel tests: padded on the way up, checked and unpadded on the way down. */
import type { Gpu } from "../../src/gpu/gpu.js";
import type { Storage } from "../../src/gpu/pool.js";

export const padded = (c: number): number => 4 * Math.ceil(c / 4);

/** Rows of `c` values, each padded with zeros to a multiple of four. */
export function padChannels(values: ArrayLike<number>, c: number): Float32Array {
  const cp = padded(c);
  if (cp === c) return values instanceof Float32Array ? values : Float32Array.from(values);
  const out = new Float32Array((values.length / c) * cp);
  for (let i = 0; i < values.length; i++) out[Math.floor(i / c) * cp + (i % c)] = values[i];
  return out;
}

/** The reverse; throws when a padding lane holds anything but zero. */
export function unpadChannels(name: string, values: Float32Array, c: number): Float32Array {
  const cp = padded(c);
  if (cp === c) return values;
  const out = new Float32Array((values.length / cp) * c);
  for (let i = 0; i < values.length; i++) {
    const lane = i % cp;
    if (lane < c) out[Math.floor(i / cp) * c + lane] = values[i];
    else if (values[i] !== 0) {
      throw new Error(`${name}: padding lane ${lane} of pixel ${Math.floor(i / cp)} holds ${values[i]}, expected 0`);
    }
  }
  return out;
}

/** A weight [taps,C,K] padded to [taps,Cp,Kp]. */
export function padWeight(values: ArrayLike<number>, taps: number, c: number, k: number): Float32Array {
  const rows = padChannels(values, k);
  const out = new Float32Array(taps * padded(c) * padded(k));
  for (let tap = 0; tap < taps; tap++) {
    const from = tap * c * padded(k);
    out.set(rows.subarray(from, from + c * padded(k)), tap * padded(c) * padded(k));
  }
  return out;
}

/** The reverse, with both channel paddings checked. */
export function unpadWeight(name: string, values: Float32Array, taps: number, c: number, k: number): Float32Array {
  const rows = unpadChannels(name, values, k);
  const out = new Float32Array(taps * c * k);
  for (let i = 0; i < rows.length; i++) {
    const row = Math.floor(i / k) % padded(c);
    if (row < c) out[(Math.floor(i / (k * padded(c))) * c + row) * k + (i % k)] = rows[i];
    else if (rows[i] !== 0) throw new Error(`${name}: padding row ${row} holds ${rows[i]}, expected 0`);
  }
  return out;
}

/** Floats after the end of every output, to see a kernel write past it. */
const GUARD = 16;

/** An output that waits to be read. */
export interface Output {
  readonly storage: Storage;
  readonly decode: (values: Float32Array) => Float32Array;
}

/**
 * The device memory of one case. Outputs start as NaN, so that an entry which the kernel does not write fails, and are
 * followed by a guard that must still be NaN at the end.
 */
export class Scratch {
  private readonly owned: Storage[] = [];

  constructor(readonly gpu: Gpu) {}

  /** Uploads values as they are: masks, per-pixel scales. */
  floats(values: ArrayLike<number>): Storage {
    const storage = this.gpu.alloc(values.length * 4, "test input");
    this.owned.push(storage);
    this.gpu.write(storage, values instanceof Float32Array ? values : Float32Array.from(values));
    return storage;
  }

  /** Uploads rows of `c` channels: activations, biases, statistics. */
  activation(values: ArrayLike<number>, c: number): Storage {
    return this.floats(padChannels(values, c));
  }

  /** Uploads rows of `c` channels as float16; values that are not are rounded. */
  halfActivation(values: ArrayLike<number>, c: number): Storage {
    return this.halves(padChannels(values, c));
  }

  private halves(values: Float32Array): Storage {
    const storage = this.gpu.alloc(values.length * 2, "test input", true);
    this.owned.push(storage);
    this.gpu.write(storage, values);
    return storage;
  }

  weight(values: ArrayLike<number>, taps: number, c: number, k: number): Storage {
    return this.floats(padWeight(values, taps, c, k));
  }

  private output(name: string, floats: number, decode: (values: Float32Array) => Float32Array, half = false): Output {
    const unwritten = new Float32Array(floats + GUARD).fill(NaN);
    const storage = half ? this.halves(unwritten) : this.floats(unwritten);
    return {
      storage,
      decode: (values) => {
        if (values.subarray(floats).some((v) => !Number.isNaN(v))) throw new Error(`${name}: written past its end`);
        return decode(values.subarray(0, floats));
      },
    };
  }

  outFloats(name: string, count: number): Output {
    return this.output(name, count, (v) => v);
  }

  /** `rows` rows of `c` channels (pixels of an activation), of float16 if `half`. */
  outActivation(name: string, rows: number, c: number, half = false): Output {
    return this.output(name, rows * padded(c), (v) => unpadChannels(name, v, c), half);
  }

  outWeight(name: string, taps: number, c: number, k: number): Output {
    return this.output(name, taps * padded(c) * padded(k), (v) => unpadWeight(name, v, taps, c, k));
  }

  /** A scalar result: one vec4 (value, 0, 0, 0). */
  outScalar(name: string): Output {
    return this.outActivation(name, 1, 1);
  }

  /** Reads outputs in one go, unpadded. */
  async read<T extends readonly Output[]>(...outputs: T): Promise<{ -readonly [K in keyof T]: Float32Array }> {
    const values = await this.gpu.read(...outputs.map((o) => o.storage));
    return outputs.map((o, i) => o.decode(values[i])) as { -readonly [K in keyof T]: Float32Array };
  }

  free(): void {
    for (const storage of this.owned.splice(0)) this.gpu.free(storage);
  }
}
