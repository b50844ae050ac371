/**
 * What a kernel file declares, and the pipelines built from it.
 *
 * A kernel's scalar parameters are declared once, in `params`; the WGSL struct and the bytes that the host writes are both
 * made from that declaration, so the two cannot disagree. Binding 0 is always this uniform; the buffers follow in the
 * order of `bindings`.
 */

import { withHalfBindings } from "./halfStorage.js";

/** How a storage buffer is bound; the place in the list plus one is its `@binding` number. */
export type Access = "read" | "read_write";

/** Type of one scalar in the uniform struct. */
export type Scalar = "u32" | "i32" | "f32";

/** Static description of one WGSL kernel; `Spec` is what is unrolled or sizes workgroup memory, never a tensor size. */
export interface Kernel<Params extends string = string, Spec = unknown> {
  /** One word: the file, the label and the bench id. */
  readonly name: string;
  readonly params: Readonly<Record<Params, Scalar>>;
  readonly bindings: readonly Access[];
  /** WGSL directives (`enable`, `diagnostic`); they must stand before everything else. */
  readonly directives?: string;
  /** The source after the `Params` struct and its uniform `p`. Equal specs must give equal text. */
  wgsl(spec: Spec): string;
}

/** Declares a kernel; only there to infer the parameter names. */
export function defineKernel<Params extends string, Spec = void>(kernel: Kernel<Params, Spec>): Kernel<Params, Spec> {
  return kernel;
}

const F16 = "enable f16;\n";

/**
 * The full WGSL source of a kernel for one spec.
 * @param halves numbers of the bindings whose buffers hold float16, see `halfStorage.ts`
 */
export function kernelSource<Params extends string, Spec>(
  kernel: Kernel<Params, Spec>,
  spec: Spec,
  halves: readonly number[] = [],
): string {
  const fields = Object.entries<Scalar>(kernel.params).map(([name, type]) => `  ${name}: ${type},`);
  const { directives = "" } = kernel;
  const enabled = halves.length > 0 && !directives.includes(F16) ? F16 + directives : directives;
  const body = withHalfBindings(kernel.wgsl(spec), halves);
  return `${enabled}struct Params {\n${fields.join("\n")}\n}\n@group(0) @binding(0) var<uniform> p: Params;\n${body}`;
}

/** Writes parameter values into `view` at `offset`, in declaration order, four bytes each. */
export function packParams<Params extends string>(
  kernel: Kernel<Params, never>,
  values: Readonly<Record<Params, number>>,
  view: DataView,
  offset: number,
): void {
  for (const name in kernel.params) {
    const value = values[name];
    const type: Scalar = kernel.params[name];
    if (type === "f32") view.setFloat32(offset, value, true);
    else if (type === "i32") view.setInt32(offset, value, true);
    else view.setUint32(offset, value, true);
    offset += 4;
  }
}

export interface Pipeline {
  readonly id: number;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** Pipelines by kernel and spec. Sizes live in uniforms, so a network needs a few dozen of them and not one per layer. */
export class PipelineCache {
  private readonly built = new Map<string, Pipeline>();

  constructor(private readonly device: GPUDevice) {}

  get size(): number {
    return this.built.size;
  }

  /** `halves` as in {@link kernelSource}. */
  get<Params extends string, Spec>(kernel: Kernel<Params, Spec>, spec: Spec, halves: readonly number[] = []): Pipeline {
    let label = spec === undefined ? kernel.name : `${kernel.name}${JSON.stringify(spec)}`;
    if (halves.length > 0) label += ` half ${halves.join()}`;
    const hit = this.built.get(label);
    if (hit) return hit;
    const code = kernelSource(kernel, spec, halves);
    if (typeof process !== "undefined" && process.env["PCONV_WGSL"]) console.error(`// ${label}\n${code}`);
    const module = this.device.createShaderModule({ label, code });
    const layout = this.device.createBindGroupLayout({
      label,
      entries: [
        {
          binding: 0,
          visibility: GPUShaderStage.COMPUTE,
          buffer: { type: "uniform", hasDynamicOffset: true },
        },
        ...kernel.bindings.map((access, i): GPUBindGroupLayoutEntry => ({
          binding: i + 1,
          visibility: GPUShaderStage.COMPUTE,
          buffer: { type: access === "read" ? "read-only-storage" : "storage" },
        })),
      ],
    });
    const pipeline = this.device.createComputePipeline({
      label,
      layout: this.device.createPipelineLayout({ label, bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: "main" },
    });
    const entry = { id: this.built.size, pipeline, layout };
    this.built.set(label, entry);
    return entry;
  }
}
