/** Finds which tensor of a step was the first that is not finite, without reading any of them back. */
import type { Watched } from "../autograd/tape.js";
import type { Tensor } from "../autograd/tensor.js";
import type { Storage } from "../gpu/pool.js";
import { gradientCheck } from "../kernels/gradientCheck.js";
import { SCALE_STATE, SCALE_STATE_BYTES } from "../kernels/lossScale.js";
import { weightedSum } from "../kernels/weightedSum.js";
import type { PConvUNet } from "./unet.js";

/** From where to where bindings may begin on every adapter. */
const SLOT_BYTES = 256;
const SLOTS_PER_PAGE = 256;

/** Looks at tensors in the order in which a step makes them. */
export class NotFiniteFinder {
  private readonly names: string[] = [];
  private readonly pages: Storage[] = [];
  /** Full names of parameters, such as `enc_2.conv.weight`. */
  private readonly parameters: ReadonlyMap<Tensor, string>;

  constructor(private readonly model: PConvUNet) {
    this.parameters = new Map(model.namedParameters().map(([name, parameter]) => [parameter, name]));
  }

  /** Looks at all parameters as they are now. */
  watchParameters(): void {
    for (const [parameter, name] of this.parameters) this.look(parameter, `the parameter ${name}`);
  }

  /** For `TapeOptions.watch`. */
  readonly watch = ({ op, inputs, tensor, gradientOf }: Watched): void => {
    const [named] = inputs.flatMap((input) => this.parameters.get(input) ?? []);
    const layer = named === undefined ? op : `${op} of ${named.replace(/\.[^.]*$/, "")}`;
    if (!gradientOf) return this.look(tensor, `the result of ${layer}`);
    const parameter = this.parameters.get(gradientOf);
    this.look(tensor, `the gradient of ${parameter ?? `what ${layer} reads`}`);
  };

  private look(tensor: Tensor, name: string): void {
    const { gpu } = this.model;
    const index = this.names.push(name) - 1;
    if (index === this.pages.length * SLOTS_PER_PAGE) {
      const page = gpu.alloc(SLOTS_PER_PAGE * SLOT_BYTES, "tensors that are not finite");
      gpu.write(page, new Uint32Array((SLOTS_PER_PAGE * SLOT_BYTES) / 4));
      this.pages.push(page);
    }
    const page = this.pages[Math.floor(index / SLOTS_PER_PAGE)];
    const state = gpu.part(page, (index % SLOTS_PER_PAGE) * SLOT_BYTES, SCALE_STATE_BYTES);
    // The check reads the bits of float32; a sum widens halves.
    const wide = tensor.half ? gpu.alloc(tensor.vec4s * 16, name) : tensor.storage;
    if (tensor.half) weightedSum(gpu, tensor.vec4s, { alpha: 1 }, { a: tensor.storage, y: wide });
    gradientCheck(gpu, tensor.vec4s, { gradient: wide, state });
    if (tensor.half) gpu.free(wide);
  }

  /** The name of the first that has an infinity or NaN; null when all were finite. */
  async first(): Promise<string | null> {
    const pages = (await this.model.gpu.read(...this.pages)).map(
      (page) => new Uint32Array(page.buffer, page.byteOffset, page.length),
    );
    const found = this.names.findIndex((_, i) => {
      const at = ((i % SLOTS_PER_PAGE) * SLOT_BYTES) / 4 + SCALE_STATE.found;
      return pages[Math.floor(i / SLOTS_PER_PAGE)][at] !== 0;
    });
    return found < 0 ? null : this.names[found];
  }

  free(): void {
    for (const page of this.pages) this.model.gpu.free(page);
  }
}
