import type { ConvShape } from "../../src/kernels/shape.js";
import type { Operands, Pass } from "../workload.js";

type Shape = readonly number[];
interface Shapes {
  readonly x: Shape;
  readonly y: Shape;
  readonly weight: Shape;
}
interface BothShapes {
  readonly nhwc: Shapes;
  readonly nchw: Shapes;
}
export function permute(values: Float32Array, shape: Shape, order: Shape): Float32Array;
export function shapesOf(layer: ConvShape): BothShapes;
export function toNchw(operands: Operands, shapes: BothShapes): Operands;
export function fromNchw(values: Float32Array, pass: Pass, shapes: BothShapes): Float32Array;
