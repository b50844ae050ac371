/**
 * The three convolution kernels as workloads.
 *
 * A partial convolution's forward time includes the mask update. Scaling dy by the ratio is not in the gradients': the kernel
 * before (batch norm's or the activation's gradient) does it in passing. The input gradient's time includes the transposition of
 * the weight, plain or partial.
 */
import { unpadChannels } from "../src/autograd/layout.js";
import type { Gpu } from "../src/gpu/gpu.js";
import type { Storage } from "../src/gpu/pool.js";
import type { ConvBackend } from "../src/kernels/conv/backend.js";
import { maskUpdate, maskUpdateRef } from "../src/kernels/maskUpdate.js";
import { pconvBackwardInput, pconvBackwardInputRef } from "../src/kernels/pconvBackwardInput.js";
import { pconvBackwardWeight, pconvBackwardWeightRef } from "../src/kernels/pconvBackwardWeight.js";
import { pconvForward, pconvForwardRef } from "../src/kernels/pconvForward.js";
import { convOutputSize, type ConvShape, vec4s } from "../src/kernels/shape.js";
import { transposeWeight } from "../src/kernels/transposeWeight.js";
import { Rng } from "../src/pconv/rng.js";
import { convFlops, type Flops } from "./flops.js";
import { type Sampled, sampledCheck } from "./sampledCheck.js";
import { centreHole } from "./shapes.js";
import { DeviceMemory, floats, padWeight, unpadWeight } from "./tensors.js";
import type { Check, ConvWorkload, Operands, Pass } from "./workload.js";

export interface ConvCase {
  readonly layer: ConvShape;
  /** Hole share of a partial convolution, null for the plain one. */
  readonly holes: number | null;
  /** Absent: the launcher's own choice. */
  readonly backend?: ConvBackend | undefined;
  /** Without a bias, forward is what every framework calls a convolution. Default true; the gradients do not read it. */
  readonly biased?: boolean;
}

const CONVENTION = { convention: "paper", biased: true } as const;

/** Mask, ratio and their update on the device; what a layer's mask alone decides. */
class MaskSide {
  readonly values: Float32Array;
  readonly mask: Storage;
  private readonly maskOut: Storage;
  readonly scale: Storage;
  readonly biasScale: Storage;
  readonly reference: ReturnType<typeof maskUpdateRef>;
  private readonly shape;

  constructor(
    private readonly memory: DeviceMemory,
    layer: ConvShape,
    holes: number,
  ) {
    const [p, q] = convOutputSize("pconv-bench", layer);
    this.shape = { ...layer, n: 1, c: 1, k: 1, channels: layer.c };
    this.values = centreHole(layer.h, layer.w, holes);
    [this.scale, this.biasScale, this.maskOut] = [memory.room(p * q), memory.room(p * q), memory.room(p * q)];
    this.mask = memory.room(this.values.length);
    memory.gpu.write(this.mask, this.values);
    this.reference = maskUpdateRef(this.shape, CONVENTION, this.values, [layer.c]);
    this.record(); // the gradients find the ratio made
  }

  record(): void {
    const { gpu } = this.memory;
    const { mask, scale, biasScale, maskOut } = this;
    const weight = gpu.constant([this.shape.channels]);
    maskUpdate(gpu, this.shape, CONVENTION, { mask, weight, scale, biasScale, maskOut });
  }

  get ratio() {
    return { scale: this.scale, biasScale: this.biasScale, n: 1 };
  }

  /** Makes the holes of an activation with `c` channels exact zeros, which is what every layer gets. */
  clear(x: Float32Array, c: number): Float32Array {
    return x.map((v, i) => (this.values[Math.floor(i / c) % this.values.length] === 0 ? 0 : v));
  }
}

/** What the three passes have in common. */
abstract class Convolution implements ConvWorkload {
  readonly flops: Flops;
  abstract readonly bytes: number;
  protected readonly memory: DeviceMemory;
  protected readonly mask: MaskSide | null;
  protected readonly outputPixels: number;
  protected readonly inputPixels: number;
  protected readonly taps: number;
  protected rng = Rng.of(0);

  constructor(
    protected readonly gpu: Gpu,
    protected readonly o: ConvCase,
    pass: Pass,
  ) {
    const { layer } = o;
    const [p, q] = convOutputSize("pconv-bench", layer);
    this.memory = new DeviceMemory(gpu);
    this.outputPixels = layer.n * p * q;
    this.inputPixels = layer.n * layer.h * layer.w;
    this.taps = layer.kernel[0] * layer.kernel[1];
    this.mask = o.holes === null ? null : new MaskSide(this.memory, layer, o.holes);
    this.flops = convFlops(layer, this.mask?.values, pass);
  }

  abstract fill(seed: number): void;
  abstract record(): void;
  abstract operands(): Operands;
  abstract compare(result: Float32Array): Check;
  /** What the last `record` made, unpadded. */
  protected abstract result(): Promise<Float32Array>;

  async check(): Promise<Check> {
    return this.compare(await this.result());
  }

  free(): void {
    this.memory.free();
  }

  /** Bytes of activations with `pixels` pixels of `c` channels, and of one weight. */
  protected traffic(...activations: readonly (readonly [pixels: number, c: number])[]): number {
    const { c, k } = this.o.layer;
    const weight = this.taps * vec4s(c) * 4 * vec4s(k) * 16;
    return activations.reduce((sum, [pixels, channels]) => sum + pixels * vec4s(channels) * 16, weight);
  }

  /** Compares with the reference on sampled units: pixels, or rows of the weight, each of `width` entries. */
  protected sample(
    got: Float32Array,
    units: number,
    width: number,
    reference: Sampled["reference"],
    defined?: (unit: number) => boolean,
  ): Check {
    const { rng } = this;
    return sampledCheck({ got, units, width, flops: this.flops.textbook, rng, reference, ...(defined && { defined }) });
  }
}

class Forward extends Convolution {
  private x: Float32Array = new Float32Array();
  private weight: Float32Array = new Float32Array();
  private bias: Float32Array = new Float32Array();
  private readonly buffers;
  readonly bytes: number;

  constructor(gpu: Gpu, o: ConvCase) {
    super(gpu, o, "forward");
    const { c, k } = o.layer;
    this.bytes = this.traffic([this.inputPixels, c], [this.outputPixels, k]);
    this.buffers = {
      x: this.memory.activation(this.inputPixels, c),
      weight: this.memory.weight(this.taps, c, k),
      bias: o.biased === false ? undefined : this.memory.activation(1, k),
      ratio: this.mask?.ratio,
      y: this.memory.activation(this.outputPixels, k),
    };
  }

  fill(seed: number): void {
    const { c, k } = this.o.layer;
    this.rng = Rng.of(seed);
    const x = floats(this.rng, this.inputPixels * c);
    this.x = this.mask?.clear(x, c) ?? x;
    this.weight = floats(this.rng, this.taps * c * k);
    this.bias = this.buffers.bias ? floats(this.rng, k) : new Float32Array(k);
    this.memory.upload(this.buffers.x, this.x, c);
    this.gpu.write(this.buffers.weight, padWeight(this.weight, c, k));
    if (this.buffers.bias) this.memory.upload(this.buffers.bias, this.bias, k);
    this.memory.poison(this.buffers.y);
  }

  record(): void {
    this.mask?.record();
    pconvForward(this.gpu, this.o.layer, this.buffers, this.o.backend);
  }

  operands(): Operands {
    return { x: this.x, weight: this.weight };
  }

  protected async result(): Promise<Float32Array> {
    return unpadChannels((await this.gpu.read(this.buffers.y))[0], this.o.layer.k);
  }

  compare(result: Float32Array): Check {
    const { layer } = this.o;
    const ratio = this.mask && { ...this.mask.reference, n: 1 };
    return this.sample(result, this.outputPixels, layer.k, (only) =>
      pconvForwardRef(layer, this.x, this.weight, this.bias, ratio ?? undefined, only),
    );
  }
}

/** Both gradients read g, dy times the ratio, which the kernel before makes on its way; of a plain convolution it is dy. */
abstract class Gradient extends Convolution {
  protected readonly g: Storage;
  protected gValues: Float32Array = new Float32Array();

  constructor(gpu: Gpu, o: ConvCase, pass: Pass) {
    super(gpu, o, pass);
    this.g = this.memory.activation(this.outputPixels, o.layer.k);
  }

  fill(seed: number): void {
    const { k } = this.o.layer;
    this.rng = Rng.of(seed);
    const values = floats(this.rng, this.outputPixels * k);
    const scale = this.mask?.reference.scale;
    this.gValues = scale ? values.map((v, i) => v * scale[Math.floor(i / k) % scale.length]) : values;
    this.memory.upload(this.g, this.gValues, k);
  }
}

class BackwardInput extends Gradient {
  readonly bytes: number;
  private readonly weight: Storage;
  private readonly weightT: Storage;
  private readonly dx: Storage;
  private weightValues: Float32Array = new Float32Array();

  constructor(gpu: Gpu, o: ConvCase) {
    super(gpu, o, "dx");
    const { c, k } = o.layer;
    this.bytes = this.traffic([this.inputPixels, c], [this.outputPixels, k]);
    this.weight = this.memory.weight(this.taps, c, k);
    this.weightT = this.memory.weight(this.taps, k, c);
    this.dx = this.memory.activation(this.inputPixels, c);
  }

  override fill(seed: number): void {
    super.fill(seed);
    const { c, k } = this.o.layer;
    this.weightValues = floats(this.rng, this.taps * c * k);
    this.gpu.write(this.weight, padWeight(this.weightValues, c, k));
    this.memory.poison(this.weightT, this.dx);
  }

  record(): void {
    transposeWeight(this.gpu, this.o.layer, this.weight, this.weightT);
    const live = this.mask && { mask: this.mask.mask, n: 1 };
    const buffers = { dy: this.g, weightT: this.weightT, dx: this.dx, live: live ?? undefined };
    pconvBackwardInput(this.gpu, this.o.layer, buffers, this.o.backend);
  }

  operands(): Operands {
    return { dy: this.gValues, weight: this.weightValues };
  }

  protected async result(): Promise<Float32Array> {
    return unpadChannels((await this.gpu.read(this.dx))[0], this.o.layer.c);
  }

  compare(result: Float32Array): Check {
    const { layer } = this.o;
    const valid = this.mask?.values;
    return this.sample(
      result,
      this.inputPixels,
      layer.c,
      (only) => pconvBackwardInputRef(layer, this.gValues, this.weightValues, only),
      // In holes the gradient goes nowhere; whether it is computed there is the kernel's business.
      (pixel) => valid?.[pixel % valid.length] !== 0,
    );
  }
}

class BackwardWeight extends Gradient {
  readonly bytes: number;
  private readonly x: Storage;
  private readonly dw: Storage;
  private xValues: Float32Array = new Float32Array();

  constructor(gpu: Gpu, o: ConvCase) {
    super(gpu, o, "dw");
    const { c, k } = o.layer;
    this.bytes = this.traffic([this.inputPixels, c], [this.outputPixels, k]);
    this.x = this.memory.activation(this.inputPixels, c);
    this.dw = this.memory.weight(this.taps, c, k);
  }

  override fill(seed: number): void {
    super.fill(seed);
    const { c } = this.o.layer;
    const x = floats(this.rng, this.inputPixels * c);
    this.xValues = this.mask?.clear(x, c) ?? x;
    this.memory.upload(this.x, this.xValues, c);
    this.memory.poison(this.dw);
  }

  record(): void {
    const live = this.mask && { mask: this.mask.scale, n: 1 }; // g is 0 where it is
    const buffers = { x: this.x, dy: this.g, dw: this.dw, live: live ?? undefined };
    pconvBackwardWeight(this.gpu, this.o.layer, buffers, this.o.backend);
  }

  operands(): Operands {
    return { x: this.xValues, dy: this.gValues };
  }

  protected async result(): Promise<Float32Array> {
    return unpadWeight((await this.gpu.read(this.dw))[0], this.o.layer.c, this.o.layer.k);
  }

  compare(result: Float32Array): Check {
    const { layer } = this.o;
    return this.sample(result, this.taps * layer.c, layer.k, (only) =>
      pconvBackwardWeightRef(layer, this.xValues, this.gValues, (tap, c) => only(tap * layer.c + c)),
    );
  }
}

const MAKERS = { forward: Forward, dx: BackwardInput, dw: BackwardWeight };

/** One pass over one layer, as a workload. */
export const makeConvolution = (gpu: Gpu, pass: Pass, o: ConvCase): ConvWorkload => new MAKERS[pass](gpu, o);
