/** Weights from wherever a caller has them; for Node and browsers. */
import { UserError } from "../errors.js";
import { DEFAULT_WEIGHTS, defaultWeightsUrl } from "./defaultWeights.js";
import type { DownloadOptions } from "./download.js";
import { isUrl, shownSource } from "./url.js";

/** The bytes themselves, the address of a file on the web, `"default"` (what comes with the package), or on Node a path. */
export type WeightSource = string | URL | Uint8Array | ArrayBuffer;

export interface SourceBytes {
  readonly bytes: Uint8Array;
  /** For errors: a path, or an address without its query. */
  readonly name: string;
}

type NodeFiles = { readonly readBytes: (path: string, options?: DownloadOptions) => Promise<Uint8Array> };

const onNode = typeof process === "object" && typeof process.versions?.node === "string";

/**
 * Reads a source into memory. On Node a file on the web is downloaded once and kept (see `cachedDownload`); in browsers that is
 * the browser's own cache.
 * @throws {UserError} a file that is missing or not to be had, a path in a browser
 */
export async function readSource(source: WeightSource): Promise<SourceBytes> {
  if (source instanceof Uint8Array) return { bytes: source, name: "weights" };
  if (source instanceof ArrayBuffer) return { bytes: new Uint8Array(source), name: "weights" };
  const name = String(source === DEFAULT_WEIGHTS ? defaultWeightsUrl() : source);
  const shown = shownSource(name);
  if (onNode) {
    // Not a text that bundlers for browsers would follow: Node's modules are behind it.
    const files = "./files.js";
    const { readBytes } = (await import(/* @vite-ignore */ files)) as NodeFiles;
    return { bytes: await readBytes(name), name: shown };
  }
  // A browser takes relative addresses too.
  const url = new URL(name, isUrl(name) ? undefined : globalThis.location?.href);
  const help = "check the address, and that its server lets other sites read it (CORS), or pass the bytes";
  const response = await fetch(url).catch((cause: unknown) => {
    throw new UserError(shown, `expected a file on the web, got no answer (${String(cause)})`, help, { cause });
  });
  if (!response.ok) throw new UserError(shown, `expected a file on the web, got HTTP ${response.status}`, help);
  return { bytes: new Uint8Array(await response.arrayBuffer()), name: shown };
}
