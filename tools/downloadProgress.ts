/** Shows downloads on stderr: a bar with the time that is left, or lines now and then. */
import type { DownloadProgress } from "../src/io/download.js";
import { mebibytes } from "../src/mebibytes.js";
import { Progress } from "./progress.js";

/** Milliseconds between two lines where the size is not known. */
const LINE_MS = 5000;

/**
 * Runs something that may read files by URL and shows its downloads; nothing is shown for files on disk or in the cache.
 * @param work gets what it must pass on as the option `onProgress`
 */
export async function showingDownloads<T>(
  work: (onProgress: (progress: DownloadProgress) => void) => Promise<T>,
): Promise<T> {
  let bar: Progress | null = null;
  let shown = 0;
  let lastLine = performance.now();
  const onProgress = ({ name, received, total }: DownloadProgress): void => {
    if (total === null) {
      if (performance.now() - lastLine < LINE_MS) return;
      lastLine = performance.now();
      console.error(`${name}: ${mebibytes(received)}`);
      return;
    }
    if (!bar) {
      console.error(`downloading ${name}, ${mebibytes(total)}`);
      bar = new Progress(total);
      bar.at(name);
    }
    bar.advance(received - shown);
    shown = received;
    if (received < total) return;
    bar.stop();
    [bar, shown] = [null, 0];
  };
  try {
    return await work(onProgress);
  } finally {
    (bar as Progress | null)?.stop(); // its timer would keep the process alive
  }
}
