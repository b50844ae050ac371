/**
 * Times the first run of every kernel: the program that `pconv-bench --compile` starts with the driver's shader cache off, for
 * the cache would answer in its place. Sends one message per case to its parent.
 */
import { openGpu } from "../src/gpu/node.js";
import { profile } from "../src/gpu/timing.js";
import { choose } from "./plan.js";
import { ownSampler } from "./measure.js";

export interface CompileTime {
  readonly kernel: string;
  readonly pass: string;
  readonly holes: number | null;
  /** First run less the second, in milliseconds: what making the pipelines costs that no case before had made. */
  readonly compileMs: number;
  /** The kernels that the case runs. */
  readonly kernels: readonly string[];
}

const SHAPE = "small";

const gpu = await openGpu();
const sample = async (record: () => void) => ownSampler(gpu, record).sample(1);
await gpu.read(gpu.constant([1])); // the readback buffer is made now
for (const c of choose({ shape: SHAPE }).flat()) {
  const workload = c.make(gpu);
  try {
    workload.fill(1);
    const first = await sample(() => workload.record());
    const second = await sample(() => workload.record());
    const { kernels } = await profile(gpu, () => workload.record());
    const { kernel, pass, holes } = c;
    const time: CompileTime = { kernel, pass, holes, compileMs: Math.max(0, first - second), kernels: kernels.map((k) => k.kernel) }; // prettier-ignore
    process.send?.(time);
  } finally {
    workload.free();
  }
}
gpu.close();
process.disconnect?.();
