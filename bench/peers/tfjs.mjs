/** TensorFlow.js with its WebGPU backend. */
import { adapter, check } from "./webgpu.mjs";
import { shapesOf } from "./layout.mjs";

const tf = await import("@tensorflow/tfjs-core");
await import("@tensorflow/tfjs-backend-webgpu");

export async function open() {
  await tf.setBackend("webgpu");
  await tf.ready();
  return { adapter: adapter(), version: tf.version_core };
}

/** The kernels that its gradients run, without the forward pass that `tf.grad` runs as well. */
function passOf({ stride, padding }, pass, shapes) {
  const attributes = { strides: stride, pad: padding[0], dataFormat: "NHWC", dilations: [1, 1] };
  const run = (name, inputs, more) => tf.engine().runKernel(name, inputs, { ...attributes, ...more });
  if (pass === "forward") return ({ x, weight }) => run("Conv2D", { x, filter: weight });
  if (pass === "dx")
    return ({ dy, weight }) => run("Conv2DBackpropInput", { dy, filter: weight }, { inputShape: shapes.x });
  return ({ x, dy }) => run("Conv2DBackpropFilter", { x, dy }, { filterShape: shapes.weight });
}

export async function prepare({ layer, pass, operands }) {
  if (layer.padding[0] !== layer.padding[1]) throw new Error("pads both axes alike, or not at all");
  const shapes = shapesOf(layer).nhwc;
  const compute = passOf(layer, pass, shapes);
  const upload = ({ x, dy, weight }) => ({
    x: x && tf.tensor4d(x, shapes.x),
    dy: dy && tf.tensor4d(dy, shapes.y),
    weight: weight && tf.tensor4d(weight, shapes.weight),
  });
  const dispose = (tensors) => tf.dispose(Object.values(tensors).filter(Boolean));
  const held = upload(operands);
  return {
    async run(passes) {
      for (let i = 1; i < passes; i++) compute(held).dispose();
      const last = compute(held);
      const corner = tf.slice(last, [0, 0, 0, 0], [1, 1, 1, 1]);
      await corner.data();
      tf.dispose([last, corner]);
      check();
    },
    async output(fresh) {
      const inputs = upload(fresh);
      const result = compute(inputs);
      const values = await result.data();
      dispose(inputs);
      result.dispose();
      check();
      return values;
    },
    free: () => dispose(held),
  };
}
