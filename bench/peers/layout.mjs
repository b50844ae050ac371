/** Between the layouts of pconv-bench (NHWC, HWIO) and of frameworks that want NCHW and OIHW. */

/** Moves axes: axis i of the result is axis order[i] of the source. */
export function permute(values, shape, order) {
  const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
  const [a, b, c, d] = order.map((axis) => shape[axis]);
  const [sa, sb, sc, sd] = order.map((axis) => strides[axis]);
  const out = new Float32Array(values.length);
  let next = 0;
  for (let i = 0; i < a; i++)
    for (let j = 0; j < b; j++)
      for (let k = 0; k < c; k++)
        for (let l = 0, from = i * sa + j * sb + k * sc; l < d; l++, from += sd) out[next++] = values[from];
  return out;
}

/** The shapes of a layer's tensors in both layouts; `p` and `q` are the output's height and width. */
export function shapesOf({ n, h, w, c, k, kernel, stride, padding }) {
  const p = Math.floor((h + 2 * padding[0] - kernel[0]) / stride[0]) + 1;
  const q = Math.floor((w + 2 * padding[1] - kernel[1]) / stride[1]) + 1;
  return {
    nhwc: { x: [n, h, w, c], y: [n, p, q, k], weight: [...kernel, c, k] },
    nchw: { x: [n, c, h, w], y: [n, k, p, q], weight: [k, c, ...kernel] },
  };
}

const TO_NCHW = [0, 3, 1, 2];
const TO_NHWC = [0, 2, 3, 1];

/** The operands of a layer, NCHW and OIHW. */
export function toNchw({ x, dy, weight }, { nhwc }) {
  return {
    x: x && permute(x, nhwc.x, TO_NCHW),
    dy: dy && permute(dy, nhwc.y, TO_NCHW),
    weight: weight && permute(weight, nhwc.weight, [3, 2, 0, 1]),
  };
}

/** The result of a pass, from NCHW or OIHW. */
export function fromNchw(values, pass, { nchw }) {
  if (pass === "dw") return permute(values, nchw.weight, [2, 3, 1, 0]);
  return permute(values, pass === "dx" ? nchw.x : nchw.y, TO_NHWC);
}
