/** jax-js with its WebGPU backend; gradients by its own `grad`, all jitted. */
import { adapter, check } from "./webgpu.mjs";
import { fromNchw, shapesOf, toNchw } from "./layout.mjs";
import { readFileSync } from "node:fs";

const { defaultDevice, grad, init, jit, lax, numpy } = await import("@jax-js/jax");

export async function open() {
  const devices = await init();
  if (!devices.includes("webgpu")) throw new Error(`expected a webgpu device, got ${devices.join(", ")}`);
  defaultDevice("webgpu");
  const manifest = new URL("package.json", new URL("..", import.meta.resolve("@jax-js/jax")));
  return { adapter: adapter(), version: JSON.parse(readFileSync(manifest, "utf8")).version };
}

export async function prepare({ layer, pass, operands }) {
  const shapes = shapesOf(layer);
  const pads = layer.padding.map((p) => [p, p]);
  const conv = (x, weight) => lax.convGeneralDilated(x, weight, [...layer.stride], pads);
  const dot = (x, weight, dy) => numpy.sum(conv(x, weight).mul(dy));
  const compute = jit(
    {
      forward: (x, weight) => conv(x, weight),
      dx: (weight, dy, x) => grad((x) => dot(x, weight, dy))(x),
      dw: (x, dy, weight) => grad((weight) => dot(x, weight, dy))(weight),
    }[pass],
  );
  const upload = (given) => {
    const { x, dy, weight } = toNchw(given, shapes);
    const array = (values, shape) => numpy.array(values).reshape(shape);
    const zeros = (shape) => array(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
    const { nchw } = shapes;
    if (pass === "forward") return [array(x, nchw.x), array(weight, nchw.weight)];
    // Where the derivative is taken does not matter, for the convolution is linear in either operand.
    if (pass === "dx") return [array(weight, nchw.weight), array(dy, nchw.y), zeros(nchw.x)];
    return [array(x, nchw.x), array(dy, nchw.y), zeros(nchw.weight)];
  };
  const held = upload(operands);
  // Its arrays are freed by whoever takes them: `ref` is one more reference.
  const once = (arrays) => compute(...arrays.map((a) => a.ref));
  return {
    async run(passes) {
      // It is lazy, and what is disposed before it was submitted never runs: each pass is submitted first.
      for (let i = 1; i < passes; i++) {
        const result = once(held);
        await result.blockUntilReady();
        result.dispose();
      }
      const last = once(held);
      await last.blockUntilReady();
      await last.slice(0, 0, 0, 0).data();
      check();
    },
    async output(fresh) {
      const inputs = upload(fresh);
      const values = await once(inputs).data();
      for (const a of inputs) a.dispose();
      check();
      return fromNchw(values, pass, shapes);
    },
    free: () => {
      for (const a of held) a.dispose();
    },
  };
}
