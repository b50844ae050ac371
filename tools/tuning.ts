/** Run-time tuning as the commands do it: kept in the user's cache folder, with progress on stderr. */
import type { Gpu } from "../src/gpu/gpu.js";
import { tuningFile } from "../src/gpu/tuningFile.js";
import type { TuningStore } from "../src/gpu/tuningStore.js";
import type { TuneOptions, TuneReport } from "../src/kernels/conv/tuning.js";
import { Progress } from "./progress.js";

/** For the help of the commands that tune. */
export const TUNING_HELP = `Tuning: on a real GPU the first start of a network measures which form of each of its convolutions is fastest, and keeps that
by adapter and driver in the user's cache folder (~/.cache/pconv-webgpu/tuning; XDG_CACHE_HOME moves it). The environment variable
PCONV_TUNE=off leaves it out, PCONV_TUNE=force measures again, on software adapters too.`;

/**
 * What this process has read or measured, by the store's name. A device that was lost and is opened again must compute in the same
 * forms as before, to give the same bits: whatever PCONV_TUNE says, and whether or not the store could be written.
 */
const settled = new Map<string, string>();

function settling(store: TuningStore): TuningStore {
  return {
    name: store.name,
    read: async () => {
      const text = settled.get(store.name) ?? (await store.read());
      if (text !== null) settled.set(store.name, text);
      return text;
    },
    write: async (text) => {
      settled.set(store.name, text);
      await store.write(text);
    },
  };
}

/** Runs something that tunes, shows how far it is, and says what it measured. */
export async function withTuning(
  gpu: Gpu,
  warn: (message: string) => void,
  run: (options: TuneOptions) => Promise<TuneReport>,
): Promise<void> {
  const store = settling(tuningFile(gpu.adapter));
  const mode = settled.has(store.name) && !gpu.adapter.software ? { mode: "auto" as const } : {};
  const shown: { progress?: Progress } = {};
  const onProgress = (done: number, total: number) => {
    shown.progress ??= new Progress(total);
    shown.progress.at(`tuning: ${done} of ${total} kinds of convolution`);
    if (done > 0) shown.progress.advance(1);
  };
  try {
    const { measured, known } = await run({ store, ...mode, onProgress, onWarning: warn });
    if (measured === 0) return;
    shown.progress?.stop();
    console.error(`tuning: measured ${measured} kinds of convolution, knew ${known}; kept in ${store.name}`);
  } finally {
    shown.progress?.stop();
  }
}
