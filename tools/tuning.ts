/** Run-time tuning as the commands do it: kept in the user's cache folder, with progress on stderr. */
import type { Gpu } from "../src/gpu/gpu.js";
import { tuningFile } from "../src/gpu/tuningFile.js";
import type { TuneOptions, TuneReport } from "../src/kernels/conv/tuning.js";
import { Progress } from "./progress.js";

/** For the help of the commands that tune. */
export const TUNING_HELP = `Tuning: on a real GPU the first start of a network measures which form of each of its convolutions is fastest, and keeps that
by adapter and driver in the user's cache folder (~/.cache/pconv-webgpu/tuning; XDG_CACHE_HOME moves it). The environment variable
PCONV_TUNE=off leaves it out, PCONV_TUNE=force measures again, on software adapters too.`;

/** Runs something that tunes, shows how far it is, and says what it measured. */
export async function withTuning(
  gpu: Gpu,
  warn: (message: string) => void,
  run: (options: TuneOptions) => Promise<TuneReport>,
): Promise<void> {
  const store = tuningFile(gpu.adapter);
  const shown: { progress?: Progress } = {};
  const onProgress = (done: number, total: number) => {
    shown.progress ??= new Progress(total);
    shown.progress.at(`tuning: ${done} of ${total} kinds of convolution`);
    if (done > 0) shown.progress.advance(1);
  };
  try {
    const { measured, known } = await run({ store, onProgress, onWarning: warn });
    if (measured === 0) return;
    shown.progress?.stop();
    console.error(`tuning: measured ${measured} kinds of convolution, knew ${known}; kept in ${store.name}`);
  } finally {
    shown.progress?.stop();
  }
}
