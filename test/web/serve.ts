/** A static server on localhost, as plain as the plainest host of pages: no header but type and length. */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import { Readable } from "node:stream";

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".json": "application/json",
  ".map": "application/json",
};

/** The page's worker among the files that are built. */
export const WORKER = /^assets\/main-.*\.js$/;

export interface Site {
  /** Address of a mounted path, such as `http://localhost:1234/some/where/`. */
  url(path: string): string;
  close(): Promise<void>;
}

/** What stands under a path of the site. */
export interface Mount {
  readonly path: string;
  readonly folder: string;
  /** Put before the text of scripts whose name it matches: stands in for what a test must not ask of the page itself. */
  readonly prelude?: { readonly name: RegExp; readonly code: string };
}

/** Serves folders under paths; the longest path that fits counts. */
export async function serve(mounts: readonly Mount[]): Promise<Site> {
  const byLength = [...mounts].sort((a, b) => b.path.length - a.path.length);
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname);
    const mount = byLength.find((m) => path.startsWith(m.path));
    const name = normalize(path.slice(mount?.path.length ?? 0) || "index.html");
    void answer();

    async function answer(): Promise<void> {
      const file = mount && join(mount.folder, name);
      const found = file && !name.startsWith("..") ? await stat(file).catch(() => null) : null;
      if (!found?.isFile()) {
        response.writeHead(404).end("not found");
        return;
      }
      const prelude = mount?.prelude?.name.test(name) ? mount.prelude.code : "";
      response.writeHead(200, {
        "content-type": TYPES[extname(name)] ?? "application/octet-stream",
        "content-length": found.size + Buffer.byteLength(prelude),
      });
      response.write(prelude);
      Readable.from(createReadStream(file!)).pipe(response);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: (path) => `http://localhost:${port}${path}`,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
