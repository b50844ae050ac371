import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, createServer as createRawServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { UserError } from "../../src/errors.js";
import { cachedDownload, type DownloadOptions, type DownloadProgress } from "../../src/io/download.js";
import { isUrl } from "../../src/io/url.js";
import { VGG16_URL } from "../../src/io/vggFile.js";
import { readWeightsFile } from "../../src/io/weightsFile.js";
import { fixture } from "./weightFixtures.js";

const content = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7919) >> 3));
const digest = createHash("sha256").update(content).digest("hex");

/** What the server does at each path. */
const pages: Record<string, (request: IncomingMessage, response: ServerResponse) => void> = {
  "/file.pth": (_, response) => response.writeHead(200, { "content-length": content.length }).end(content),
  "/unsized": (_, response) => {
    response.write(content.subarray(0, 1000));
    response.end(content.subarray(1000));
  },
  "/weights.pth": (_, response) => response.end(fixture("vgg16_small.pth")),
  "/moved": (_, response) => response.writeHead(302, { location: "../file.pth" }).end(),
  "/round": (_, response) => response.writeHead(301, { location: "/round" }).end(),
  "/local": (_, response) => response.writeHead(302, { location: "file:///etc/passwd" }).end(),
  "/nowhere": (_, response) => response.writeHead(302).end(),
  "/short": (_, response) => {
    response.writeHead(200, { "content-length": content.length });
    response.write(content.subarray(0, 5000), () => response.destroy());
  },
  "/silent": () => undefined,
  "/stuck": (_, response) => {
    response.writeHead(200, { "content-length": content.length });
    response.write(content.subarray(0, 5000));
  },
  "/dripping": (_, response) => {
    const drip = setInterval(() => response.write(content.subarray(0, 10)), 20);
    response.writeHead(200, { "content-length": content.length }).on("close", () => clearInterval(drip));
  },
  "/gzip": (_, response) =>
    response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync(Buffer.alloc(2 ** 24))),
  "/broken": (_, response) => response.writeHead(503).end("sorry"),
};

let server: Server;
let origin: string;
let requests: string[] = [];
let folder: string;

beforeAll(async () => {
  server = createServer((request, response) => {
    requests.push(request.url!);
    const page = pages[new URL(request.url!, "http://x").pathname];
    if (page) page(request, response);
    else response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  requests = [];
  folder = mkdtempSync(join(tmpdir(), "pconv-download-"));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
});

const get = (path: string, options: DownloadOptions = {}) => cachedDownload(origin + path, { folder, ...options });

async function refuses(download: Promise<unknown>, problem: string | RegExp): Promise<void> {
  await expect(download).rejects.toThrow(UserError);
  await expect(download).rejects.toThrow(problem);
  await expect(download).rejects.toThrow(/\nhelp: ./);
  expect(readdirSync(folder), "nothing is left behind").toEqual([]);
}

describe("cachedDownload", () => {
  it("downloads a file once, with progress", async () => {
    const seen: DownloadProgress[] = [];
    const path = await get("/file.pth", { onProgress: (p) => seen.push(p) });
    expect(readFileSync(path).equals(content)).toBe(true);
    expect(path).toMatch(/-file\.pth$/);
    expect(seen.at(-1)).toEqual({ name: "file.pth", received: content.length, total: content.length });
    expect(seen.every((p, i) => p.received > (seen[i - 1]?.received ?? 0))).toBe(true);
    expect(await get("/file.pth")).toBe(path);
    expect(requests).toEqual(["/file.pth"]);
    expect(readdirSync(folder)).toHaveLength(1);
    expect(await get("/file.pth?version=2")).not.toBe(path);
  });

  it("takes a file whose length the server does not say", async () => {
    const seen: DownloadProgress[] = [];
    const path = await get("/unsized", { onProgress: (p) => seen.push(p) });
    expect(readFileSync(path).equals(content)).toBe(true);
    expect(seen.at(-1)).toMatchObject({ received: content.length, total: null });
  });

  it("checks the digest of what it gets and of what it has", async () => {
    const path = await get(`/file.pth#sha256=${digest}`);
    expect(await get(`/file.pth#sha256=${digest.slice(0, 8).toUpperCase()}`)).toBe(path);
    expect(requests).toHaveLength(1);
    writeFileSync(path, "changed");
    expect(await get(`/file.pth#sha256=${digest}`)).toBe(path);
    expect(requests).toHaveLength(2);
    expect(readFileSync(path).equals(content)).toBe(true);
  });

  it("refuses another digest", () =>
    refuses(get("/file.pth#sha256=0123456789"), `begins with 0123456789, got ${digest}`));

  it("follows redirects on the web only", async () => {
    expect(readFileSync(await get("/moved")).equals(content)).toBe(true);
    rmSync(folder, { recursive: true });
    folder = mkdtempSync(join(tmpdir(), "pconv-download-"));
    await refuses(get("/local"), 'got one to "file:///etc/passwd"');
    await refuses(get("/round"), "at most 10 redirects");
    await refuses(get("/nowhere"), "got HTTP 302");
  });

  it.each([
    ["/missing", "got HTTP 404"],
    ["/broken", "got HTTP 503"],
    ["/short", /no connection|got 5000/],
  ])("refuses %s", (path, problem) => refuses(get(path), problem));

  it("refuses servers that go silent", async () => {
    await refuses(get("/silent", { timeoutMs: 200 }), "got nothing for 0.2 s");
    await refuses(get("/stuck", { timeoutMs: 200 }), "got less than 1024 bytes in 0.2 s");
  });

  it("refuses servers that hold on to the connection with a few bytes now and then", () =>
    refuses(get("/dripping", { timeoutMs: 300 }), "got less than 1024 bytes in 0.3 s"));

  it("gives up on a packed answer that is damaged from its first byte on", async () => {
    // All in one packet, and then the end: fetch of Node 20 then waits for ever, aborted or not.
    const answer = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\nhello";
    const raw = createRawServer((socket) => {
      socket.on("error", () => undefined).once("data", () => socket.end(answer));
    });
    await new Promise<void>((resolve) => raw.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(raw.address() as AddressInfo).port}/file.pth`;
    await refuses(cachedDownload(url, { folder, timeoutMs: 300 }), /got (nothing for 0.3 s|no connection)/);
    raw.close();
  });

  it("counts what a compressed answer unpacks to, and stops where it is too much", () =>
    refuses(get("/gzip", { maxBytes: 2 ** 20 }), "at most 1048576 bytes, got more"));

  it("shows no query of an address, which may be a secret", async () => {
    const secret = `${origin}/file.pth?token=SECRET#sha256=${digest}`;
    vi.stubEnv("XDG_CACHE_HOME", folder);
    const error: unknown = await readWeightsFile(secret).catch((cause: unknown) => cause);
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).message).not.toContain("SECRET");
    expect((error as UserError).where).toBe(`${origin}/file.pth`);
  });

  it("refuses what is too large, said beforehand or not", async () => {
    await refuses(get("/file.pth", { maxBytes: 299_999 }), "at most 299999 bytes, got 300000");
    await refuses(get("/unsized", { maxBytes: 299_999 }), "at most 299999 bytes, got more");
    await get("/file.pth", { maxBytes: 300_000 });
  });

  it("says how to do without the network, and no secrets", async () => {
    const port = 1; // nobody listens there
    const url = `http://127.0.0.1:${port}/vgg16.pth?token=secret`;
    const offline = cachedDownload(url, { folder });
    await refuses(offline, "no connection (");
    await expect(offline).rejects.toThrow("download the file by hand");
    await expect(offline).rejects.not.toThrow("secret");
  });

  it.each([
    ["http://user:word@127.0.0.1/x", "without user name and password"],
    ["http://127.0.0.1/x#sha256=12", "8 to 64 hexadecimal digits"],
    ["http://127.0.0.1/x#md5=0123456789", "#sha256="],
    ["http://", "an address on the web"],
  ])("refuses %s", (url, problem) => refuses(cachedDownload(url, { folder }), problem));

  it("removes what interrupted downloads left, and not what is going on", async () => {
    const [old, young] = ["a.partial-1-abc", "b.partial-2-def"].map((name) => join(folder, name));
    for (const path of [old, young]) writeFileSync(path, "x");
    utimesSync(old, new Date(), new Date(Date.now() - 2 * 3_600_000));
    await get("/file.pth");
    expect([existsSync(old), existsSync(young)]).toEqual([false, true]);
  });

  it("keeps the name of the file within the folder", async () => {
    pages["/a/..%2f..%2fb"] = pages["/file.pth"];
    expect(await get("/a/..%2f..%2fb")).toMatch(/[\\/][0-9a-f]{16}-\.\._2f\.\._2fb$/);
  });
});

describe("weight files by URL", () => {
  it("are read and kept in the user's cache folder", async () => {
    vi.stubEnv("XDG_CACHE_HOME", folder);
    for (let i = 0; i < 2; i++) {
      const { tensors, format } = await readWeightsFile(`${origin}/weights.pth`);
      expect([tensors.size, format]).toEqual([14, "pth-zip"]);
    }
    expect(requests).toHaveLength(1);
    expect(existsSync(join(folder, "pconv-webgpu", "downloads"))).toBe(true);
  });

  it("know an address from a path", () => {
    expect(["http://a/b", "HTTPS://a/b"].every(isUrl)).toBe(true);
    expect(["C:\\a", "a/http://b", "https:/a", "file:///a", "vgg.pth"].some(isUrl)).toBe(false);
    expect(VGG16_URL).toMatch(/vgg16-397923af\.pth#sha256=397923af[0-9a-f]{56}$/);
  });
});
