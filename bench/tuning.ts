/** Run-time tuning before anything is timed, as users' runs have it: bench and library measure the same choices. */
import type { Gpu } from "../src/gpu/gpu.js";
import { collectConvolutions, tuneConvolutions, type TuneOptions, tunes } from "../src/kernels/conv/tuning.js";
import type { Workload } from "./workload.js";

/** Tunes the convolutions that these workloads record; does nothing where the library would not tune. */
export async function tuneWorkloads(
  gpu: Gpu,
  workloads: readonly Pick<Workload, "record">[],
  options: TuneOptions,
): Promise<void> {
  if (!tunes(gpu, options)) return;
  const run = () => workloads.forEach((workload) => workload.record());
  await tuneConvolutions(gpu, await collectConvolutions(gpu, run), options);
}
