/** What `tuning.ts` has measured on a GPU, as `backend.ts` looks it up, and the list of what a network would call. */
import type { Gpu } from "../../gpu/gpu.js";
import { vec4s } from "../shape.js";
import type { GatherCall, GatherChoice, WeightCall, WeightChoice } from "./choice.js";
import { gatherSize } from "./gather.js";

/** One convolution pass that can be tuned: its geometry. */
export type ConvCall = ({ readonly pass: "gather" } & GatherCall) | ({ readonly pass: "weight" } & WeightCall);

/** Powers of two apart: sizes that differ by less get the same choice, or every photo would be tuned for. */
const magnitude = (size: number) => Math.ceil(Math.log2(size));

/** The class of a call: what is measured once and chosen alike. */
export function callClass(call: ConvCall): string {
  const { s, half } = call;
  const window = `${s.kernel.join("x")} s${s.stride.join("x")}`;
  if (call.pass === "gather") {
    const size = gatherSize(s, call.direction, call.weightPerImage);
    const kind = `${call.direction}${call.weightPerImage ? " batched" : ""}${half ? " half" : ""}`;
    const outer = `2^${magnitude(size.pixels)} pixels x ${2 ** magnitude(size.groups)}`;
    return `${kind} ${window}, ${outer}, 4 x 2^${magnitude(size.src4)} to 4 x 2^${magnitude(size.out4)} channels`;
  }
  const kind = `weight${call.imagePerTap ? " batched" : ""}${half ? " half" : ""}`;
  const pixels = magnitude(s.n * Math.ceil(s.h / s.stride[0]) * Math.ceil(s.w / s.stride[1]));
  return `${kind} ${window}, 2^${pixels} pixels, 4 x 2^${magnitude(vec4s(s.c))} to 4 x 2^${magnitude(vec4s(s.k))} channels`;
}

/** The measured choices of one GPU. */
export class Tuned {
  readonly choices = new Map<string, GatherChoice | WeightChoice>();
  /** While it is set, passes are listed here by class and not recorded. */
  collector: Map<string, ConvCall> | null = null;

  /** True when the call was only listed. */
  collects(call: ConvCall): boolean {
    if (!this.collector) return false;
    const name = callClass(call);
    if (!this.collector.has(name)) this.collector.set(name, call);
    return true;
  }

  gather(call: GatherCall): GatherChoice | undefined {
    return this.find({ pass: "gather", ...call }) as GatherChoice | undefined;
  }

  weight(call: WeightCall): WeightChoice | undefined {
    return this.find({ pass: "weight", ...call }) as WeightChoice | undefined;
  }

  private find(call: ConvCall): GatherChoice | WeightChoice | undefined {
    // Most GPUs here are software adapters, which are never tuned: no key is made for them.
    return this.choices.size === 0 ? undefined : this.choices.get(callClass(call));
  }
}

const all = new WeakMap<Gpu, Tuned>();

/** The measured choices of a GPU; empty until `tuneConvolutions`. */
export function tunedOf(gpu: Gpu): Tuned {
  let tuned = all.get(gpu);
  if (!tuned) all.set(gpu, (tuned = new Tuned()));
  return tuned;
}
