/** The tuning cache in the user's cache folder. Node only. */
import { createHash } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { cacheFolder } from "#software-adapter";
import type { AdapterSummary } from "./adapterSummary.js";
import type { TuningStore } from "./tuningStore.js";

/**
 * A file of this adapter and driver: `$XDG_CACHE_HOME/pconv-webgpu/tuning/` (or `~/.cache/...`), then the adapter's name and a
 * digest of what else tells it from others.
 */
export function tuningFile({ name, vendor, description }: Omit<AdapterSummary, "matrices">): TuningStore {
  const digest = createHash("sha256").update([name, vendor, description].join("\n")).digest("hex").slice(0, 12);
  const readable = name.replace(/[^A-Za-z0-9]+/g, "-").slice(0, 40);
  const path = join(cacheFolder(), "tuning", `${readable}-${digest}.json`);
  return {
    name: path,
    read: async () => {
      try {
        return await readFile(path, "utf8");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
        throw error;
      }
    },
    write: async (text) => {
      await mkdir(dirname(path), { recursive: true });
      // Under another name first: a run that starts meanwhile must not read half of it.
      const unfinished = `${path}.${process.pid}`;
      await writeFile(unfinished, text);
      await rename(unfinished, path);
    },
  };
}
