/** The network's weights: from the browser's cache, or the web with a note of how far the download is. */
import { UserError } from "../../src/errors.js";
import { defaultWeightsUrl } from "../../src/io/defaultWeights.js";

const CACHE = "pconv-webgpu-weights";

/** Null where the browser keeps nothing, such as in some private windows. */
const openCache = (): Promise<Cache | null> =>
  typeof caches === "undefined" ? Promise.resolve(null) : caches.open(CACHE).catch(() => null);

/**
 * The bytes of the weights that come with the page. Their file's name holds a hash, so that what is cached is never stale.
 * @param onShare told how much of a download is there, 0..1
 * @throws {UserError} when the server has no answer or no such file
 */
export async function readDefaultWeights(onShare: (share: number) => void): Promise<Uint8Array> {
  const { href } = defaultWeightsUrl();
  const cache = await openCache();
  const kept = await cache?.match(href);
  if (kept) return new Uint8Array(await kept.arrayBuffer());
  const help = "check the connection and try again";
  const response = await fetch(href).catch((cause: unknown) => {
    throw new UserError("the network's weights", `expected a file, got no answer (${String(cause)})`, help, { cause });
  });
  if (!response.ok || !response.body) {
    throw new UserError("the network's weights", `expected a file, got HTTP ${response.status}`, help);
  }
  const bytes = await readCounting(response, onShare);
  if (cache) {
    // Weights of earlier versions of the page are of no use any more. A full disk is no reason to stop.
    const old = await cache.keys().catch(() => []);
    await Promise.all(old.map((request) => cache.delete(request)));
    await cache.put(href, new Response(bytes)).catch(() => undefined);
  }
  return bytes;
}

async function readCounting(response: Response, onShare: (share: number) => void): Promise<Uint8Array<ArrayBuffer>> {
  const expected = Number(response.headers.get("content-length") ?? 0);
  const parts: Uint8Array[] = [];
  let length = 0;
  const reader = response.body!.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    length += part.value.length;
    // A compressed transfer has more bytes in it than its header says.
    if (expected > 0) onShare(Math.min(1, length / expected));
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
