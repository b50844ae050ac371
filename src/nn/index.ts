/** Layers, under `nn` as in PyTorch. */
export {
  BatchNorm2d,
  Conv2d,
  PConv2d,
  type BatchNorm2dConfig,
  type Conv2dConfig,
  type Pair,
  type PConv2dConfig,
  type Then,
} from "./layers.js";
export { Counter, Module, type LoadableTensor, type StateDict, type StateTensor } from "./module.js";
export { Parameter } from "./parameter.js";
