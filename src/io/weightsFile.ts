/** Weight files by path or URL; Node only. */
import type { DownloadOptions } from "./download.js";
import { readBytes } from "./files.js";
import { readWeights, type Weights } from "./weights.js";

/**
 * Reads a weight file into memory, see {@link readWeights}.
 *
 * @param path a file, or its address on the web: downloaded once, with `#sha256=HEX` at the end checked
 * @throws UserError if it is missing, a folder, unreadable or not to be had; FormatError if it is no weight file, or a damaged
 *   or hostile one
 */
export async function readWeightsFile(path: string, options: DownloadOptions = {}): Promise<Weights> {
  return readWeights(await readBytes(path, options), path);
}
