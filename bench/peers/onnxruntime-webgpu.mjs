/** onnxruntime-node on its WebGPU execution provider. */
import { onnxruntimePeer } from "./onnxruntime.mjs";

export const { open, prepare } = onnxruntimePeer("webgpu");
