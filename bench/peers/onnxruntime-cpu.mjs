/** onnxruntime-node on the CPU: native code, no WebGPU. */
import { onnxruntimePeer } from "./onnxruntime.mjs";

export const { open, prepare } = onnxruntimePeer("cpu");
