/**
 * Moving numbers between the layouts of files and callers and the device's: NHWC with channels padded to four.
 * All functions return new arrays; padding lanes are zero.
 */

const padded = (c: number): number => 4 * Math.ceil(c / 4);

/** [rows, c] -> [rows, c padded]. */
export function padChannels(values: ArrayLike<number>, c: number): Float32Array {
  const stride = padded(c);
  if (stride === c) return Float32Array.from(values);
  const rows = values.length / c;
  const out = new Float32Array(rows * stride);
  for (let r = 0; r < rows; r++) for (let i = 0; i < c; i++) out[r * stride + i] = values[r * c + i];
  return out;
}

/** [rows, c padded] -> [rows, c]. */
export function unpadChannels(values: Float32Array, c: number): Float32Array {
  const stride = padded(c);
  if (stride === c) return values;
  const rows = values.length / stride;
  const out = new Float32Array(rows * c);
  for (let r = 0; r < rows; r++) for (let i = 0; i < c; i++) out[r * c + i] = values[r * stride + i];
  return out;
}

/** PyTorch's activations [N,C,H,W] -> [N,H,W,C]. */
export function nchwToNhwc(values: ArrayLike<number>, shape: readonly [number, number, number, number]): Float32Array {
  const [n, c, h, w] = shape;
  const out = new Float32Array(values.length);
  for (let b = 0; b < n; b++)
    for (let k = 0; k < c; k++)
      for (let i = 0; i < h * w; i++) out[(b * h * w + i) * c + k] = values[(b * c + k) * h * w + i];
  return out;
}

/** [N,H,W,C] -> PyTorch's [N,C,H,W]; `shape` is [N,C,H,W]. */
export function nhwcToNchw(values: ArrayLike<number>, shape: readonly [number, number, number, number]): Float32Array {
  const [n, c, h, w] = shape;
  const out = new Float32Array(values.length);
  for (let b = 0; b < n; b++)
    for (let k = 0; k < c; k++)
      for (let i = 0; i < h * w; i++) out[(b * c + k) * h * w + i] = values[(b * h * w + i) * c + k];
  return out;
}

/** PyTorch's weight [O,I,kh,kw] -> [kh,kw,I padded,O padded]. */
export function oihwToDevice(values: ArrayLike<number>, shape: readonly number[]): Float32Array {
  const [o, i, kh, kw] = shape;
  const [op, ip] = [padded(o), padded(i)];
  const out = new Float32Array(kh * kw * ip * op);
  for (let a = 0; a < o; a++)
    for (let b = 0; b < i; b++)
      for (let t = 0; t < kh * kw; t++) out[(t * ip + b) * op + a] = values[(a * i + b) * kh * kw + t];
  return out;
}

/** [kh,kw,I padded,O padded] -> PyTorch's [O,I,kh,kw]; `shape` is [O,I,kh,kw]. */
export function deviceToOihw(values: ArrayLike<number>, shape: readonly number[]): Float32Array {
  const [o, i, kh, kw] = shape;
  const [op, ip] = [padded(o), padded(i)];
  const out = new Float32Array(o * i * kh * kw);
  for (let a = 0; a < o; a++)
    for (let b = 0; b < i; b++)
      for (let t = 0; t < kh * kw; t++) out[(a * i + b) * kh * kw + t] = values[(t * ip + b) * op + a];
  return out;
}
