/**
 * The convolution kernels at the U-Net's real sizes, on sampled entries. Small shapes do not show everything: a known
 * library's weight gradient is wrong from 254x254 up.
 */
import { describe, it } from "vitest";
import { polyphasePays, polyphaseShape } from "../../src/kernels/conv/polyphase.js";
import { winogradTile } from "../../src/kernels/conv/winograd.js";
import { pconvBackwardInput } from "../../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeight } from "../../src/kernels/pconvBackwardWeight.js";
import { pconvForward } from "../../src/kernels/pconvForward.js";
import { convOutputSize, type ConvShape } from "../../src/kernels/shape.js";
import { transposeWeight } from "../../src/kernels/transposeWeight.js";
import { expectClose, HALF_ULP } from "../support/close.js";
import { Draw } from "../support/draw.js";
import { useGpu, withScratch } from "../support/gpu.js";

const gpu = useGpu();

const layer = (size: number, c: number, k: number, kernel: number, stride = 1): ConvShape => ({
  n: 1,
  h: size,
  w: size,
  c,
  k,
  kernel: [kernel, kernel],
  stride: [stride, stride],
  padding: [kernel >> 1, kernel >> 1],
  dilation: [1, 1],
});

const LAYERS: readonly (readonly [name: string, s: ConvShape])[] = [
  ["encoder 1 of 512x512", layer(512, 3, 64, 7, 2)],
  ["encoder 2 of 512x512", layer(256, 64, 128, 5, 2)],
  ["encoder 3 of 512x512", layer(128, 128, 256, 5, 2)],
  ["encoder 4 of 512x512", layer(64, 256, 512, 3, 2)],
  ["encoder 8 of 512x512", layer(4, 512, 512, 3, 2)],
  ["decoder 8 of 512x512", layer(4, 1024, 512, 3)],
  ["decoder 4 of 512x512", layer(64, 768, 256, 3)],
  ["decoder 3 of 512x512", layer(128, 384, 128, 3)],
  ["decoder 2 of 512x512", layer(256, 192, 64, 3)],
  ["decoder 1 of 512x512", layer(512, 67, 3, 3)],
  ["encoder 1 of 256x256", layer(256, 3, 64, 7, 2)],
  ["encoder 8 of 256x256", layer(2, 512, 512, 3, 2)],
  ["decoder 8 of 256x256", layer(2, 1024, 512, 3)],
  ["decoder 4 of 256x256", layer(32, 768, 256, 3)],
  ["decoder 2 of 256x256", layer(128, 192, 64, 3)],
  ["decoder 1 of 256x256", layer(256, 67, 3, 3)],
  ["254x255, between the powers of two", { ...layer(254, 9, 7, 3), w: 255, n: 2 }],
];

/** A sum and the sum of its terms' magnitudes. */
class Sum {
  value = 0;
  size = 0;
  add(term: number): void {
    this.value += term;
    this.size += Math.abs(term);
  }
}

/** Indices below `count`: the first, the last, and random ones between. */
const spread = (draw: Draw, count: number, samples: number) => [
  0,
  count - 1,
  ...Array.from({ length: samples }, () => draw.integer(0, count - 1)),
];

/** Source row or column of a tap, or -1 outside of the image. */
function source(s: ConvShape, axis: 0 | 1, output: number, tap: number): number {
  const at = output * s.stride[axis] + tap * s.dilation[axis] - s.padding[axis];
  return at >= 0 && at < (axis === 0 ? s.h : s.w) ? at : -1;
}

describe("convolution kernels at the U-Net's sizes", () => {
  it.each(LAYERS)("%s", async (_, s) => {
    const draw = new Draw(
      2000,
      LAYERS.findIndex(([, other]) => other === s),
    );
    const seed = `${draw.seed}, ${JSON.stringify(s)}`;
    const bindable = gpu().limits.maxStorageBufferBindingSize;
    const phases = polyphaseShape(s);
    const largeTiles = phases ? polyphasePays(s, phases, bindable) : winogradTile(s, false, bindable) === 4;
    /** Winograd's larger tiles round twice as much; at the border, where an entry has fewer terms, its error is still its whole tile's. */
    const ulps = (border: boolean) => (largeTiles ? (border ? 16 : 8) : 4);
    const [P, Q] = convOutputSize("test", s);
    const [KH, KW] = s.kernel;
    const taps = KH * KW;
    const x = draw.floats(s.n * s.h * s.w * s.c);
    const weight = draw.floats(taps * s.c * s.k);
    const bias = draw.floats(s.k);
    const dy = draw.floats(s.n * P * Q * s.k);
    const valid = draw.mask(P * Q, 0.2);
    const scale = draw.floats(P * Q, 1, 3).map((v, i) => v * valid[i]);

    await withScratch(gpu(), async (t) => {
      const weightBuffer = t.weight(weight, taps, s.c, s.k);
      const xBuffer = t.activation(x, s.c);
      const dyBuffer = t.activation(dy, s.k);
      const y = t.outActivation("y", s.n * P * Q, s.k);
      const weightT = t.outWeight("weightT", taps, s.k, s.c);
      const dx = t.outActivation("dx", s.n * s.h * s.w, s.c);
      const dw = t.outWeight("dw", taps, s.c, s.k);
      pconvForward(gpu(), s, {
        x: xBuffer,
        weight: weightBuffer,
        bias: t.activation(bias, s.k),
        ratio: { scale: t.floats(scale), biasScale: t.floats(valid), n: 1 },
        y: y.storage,
      });
      transposeWeight(gpu(), s, weightBuffer, weightT.storage);
      pconvBackwardInput(gpu(), s, { dy: dyBuffer, weightT: weightT.storage, dx: dx.storage });
      pconvBackwardWeight(gpu(), s, { x: xBuffer, dy: dyBuffer, dw: dw.storage });
      const [yGot, dxGot, dwGot] = await t.read(y, dx, dw);

      const compare = (name: string, got: Float32Array, at: number, { value, size }: Sum, allowed: number) =>
        expectClose(`${name} entry ${at}`, [got[at]], [value], allowed * HALF_ULP * size, seed);

      for (const output of spread(draw, s.n * P * Q, 60)) {
        const [q, p, n] = [output % Q, Math.floor(output / Q) % P, Math.floor(output / (P * Q))];
        const border = p === 0 || q === 0 || p === P - 1 || q === Q - 1;
        for (const k of [0, s.k - 1, draw.integer(0, s.k - 1)]) {
          const sum = new Sum();
          for (let i = 0; i < KH; i++)
            for (let j = 0; j < KW; j++) {
              const [row, col] = [source(s, 0, p, i), source(s, 1, q, j)];
              if (row < 0 || col < 0) continue;
              const from = ((n * s.h + row) * s.w + col) * s.c;
              const w = (i * KW + j) * s.c * s.k + k;
              for (let c = 0; c < s.c; c++) sum.add(x[from + c] * weight[w + c * s.k] * scale[p * Q + q]);
            }
          sum.add(bias[k] * valid[p * Q + q]);
          compare("y", yGot, output * s.k + k, sum, ulps(border));
        }
      }

      for (const input of spread(draw, s.n * s.h * s.w, 60)) {
        const [col, row, n] = [input % s.w, Math.floor(input / s.w) % s.h, Math.floor(input / (s.h * s.w))];
        const border = row === 0 || col === 0 || row === s.h - 1 || col === s.w - 1;
        for (const c of [0, s.c - 1, draw.integer(0, s.c - 1)]) {
          const sum = new Sum();
          for (let i = 0; i < KH; i++)
            for (let j = 0; j < KW; j++) {
              const p = (row + s.padding[0] - i * s.dilation[0]) / s.stride[0];
              const q = (col + s.padding[1] - j * s.dilation[1]) / s.stride[1];
              if (!Number.isInteger(p) || !Number.isInteger(q) || p < 0 || q < 0 || p >= P || q >= Q) continue;
              const from = ((n * P + p) * Q + q) * s.k;
              const w = ((i * KW + j) * s.c + c) * s.k;
              for (let k = 0; k < s.k; k++) sum.add(dy[from + k] * weight[w + k]);
            }
          compare("dx", dxGot, input * s.c + c, sum, ulps(border));
        }
      }

      for (const tap of [0, KW - 1, taps >> 1, taps - 1]) {
        for (const c of spread(draw, s.c, 1)) {
          const k = draw.pick([0, s.k - 1, draw.integer(0, s.k - 1)]);
          const sum = new Sum();
          for (let n = 0; n < s.n; n++)
            for (let p = 0; p < P; p++) {
              const row = source(s, 0, p, Math.floor(tap / KW));
              if (row < 0) continue;
              for (let q = 0; q < Q; q++) {
                const col = source(s, 1, q, tap % KW);
                if (col >= 0) sum.add(x[((n * s.h + row) * s.w + col) * s.c + c] * dy[((n * P + p) * Q + q) * s.k + k]);
              }
            }
          compare("dw", dwGot, (tap * s.c + c) * s.k + k, sum, 4);
        }
      }
    });
  });
});
