/**
 * onnxruntime-node on one execution provider, forward only (it has no gradients).
 *
 * The graph is one Conv and a Slice of its result, so that a timed run reads one number back. Every run uploads x: what
 * that and the Slice cost is measured with a graph without the Conv, and taken off.
 */
import { performance } from "node:perf_hooks";
import onnxProto from "onnx-proto";
import ort from "onnxruntime-node";
import { enableCachedSwiftShader, hasVulkanLoader } from "../../tools/software-adapter.mjs";
import { fromNchw, shapesOf, toNchw } from "./layout.mjs";

if (!hasVulkanLoader()) enableCachedSwiftShader(); // as pconv-webgpu does

const { AttributeProto, ModelProto, TensorProto } = onnxProto.onnx;
const OVERHEAD_SAMPLES = 7;

const floats = (name, shape) => ({
  name,
  type: { tensorType: { elemType: TensorProto.DataType.FLOAT, shape: { dim: shape.map((d) => ({ dimValue: d })) } } },
});
const ints = (name, values) => ({ name, type: AttributeProto.AttributeType.INTS, ints: [...values] });
const indices = (name, values) => ({
  name,
  dataType: TensorProto.DataType.INT64,
  dims: [values.length],
  int64Data: values,
});

/** y = Conv(x, weight) (or y = x) and probe = y[0,0,0,0]. */
function graph({ kernel, stride, padding }, { nchw }, weight) {
  const node = [{ opType: "Slice", input: [weight ? "y" : "x", "first", "second"], output: ["probe"] }];
  const initializer = [indices("first", [0, 0, 0, 0]), indices("second", [1, 1, 1, 1])];
  const output = [floats("probe", [1, 1, 1, 1])];
  if (weight) {
    const attribute = [
      ints("kernel_shape", kernel),
      ints("strides", stride),
      ints("pads", [...padding, ...padding]),
      ints("dilations", [1, 1]),
    ];
    node.unshift({ opType: "Conv", input: ["x", "weight"], output: ["y"], attribute });
    const rawData = new Uint8Array(weight.buffer);
    initializer.push({ name: "weight", dataType: TensorProto.DataType.FLOAT, dims: nchw.weight, rawData });
    output.push(floats("y", nchw.y));
  }
  const graph = { name: "conv", node, input: [floats("x", nchw.x)], output, initializer };
  return ModelProto.encode(ModelProto.create({ irVersion: 8, opsetImport: [{ version: 17 }], graph })).finish();
}

export function onnxruntimePeer(provider) {
  const session = (model) =>
    ort.InferenceSession.create(model, { executionProviders: [provider], graphOptimizationLevel: "all" });

  return {
    // The WebGPU provider has a Dawn of its own, which does not say which adapter it took.
    open: async () => ({ adapter: provider === "cpu" ? "CPU" : null, version: ort.env.versions.node }),

    async prepare({ layer, pass, operands }) {
      if (pass !== "forward") throw new Error("has no gradients");
      const shapes = shapesOf(layer);
      const { x, weight } = toNchw(operands, shapes);
      const tensor = (values) => new ort.Tensor("float32", values, shapes.nchw.x);
      const feeds = { x: tensor(x) };
      const conv = await session(graph(layer, shapes, weight));

      const bare = await session(graph(layer, shapes, null));
      let overhead = Infinity;
      for (let i = 0; i < OVERHEAD_SAMPLES; i++) {
        const started = performance.now();
        await bare.run(feeds, ["probe"]);
        overhead = Math.min(overhead, performance.now() - started);
      }
      await bare.release();
      return {
        overhead,
        async run(passes) {
          for (let i = 0; i < passes; i++) await conv.run(feeds, ["probe"]);
        },
        async output(fresh) {
          const inputs = toNchw(fresh, shapes);
          const own = await session(graph(layer, shapes, inputs.weight));
          const { y } = await own.run({ x: tensor(inputs.x) }, ["y"]);
          const values = fromNchw(y.data, pass, shapes);
          await own.release();
          return values;
        },
        free: () => conv.release(),
      };
    },
  };
}
