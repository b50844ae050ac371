/** Weight files by path; Node only. */
import { readBytes } from "./files.js";
import { readWeights, type Weights } from "./weights.js";

/**
 * Reads a weight file from disk into memory, see {@link readWeights}.
 *
 * @throws UserError if it is missing, a folder or unreadable; FormatError if it is no weight file, or a damaged or hostile one
 */
export async function readWeightsFile(path: string): Promise<Weights> {
  return readWeights(await readBytes(path), path);
}
