/** Peers of `pconv-bench`: a process that crashes, hangs or lies costs its own rows and nothing else. */
import { mkdirSync, copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PNG } from "pngjs";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { blank, failed, type Measurement } from "../../bench/measure.js";
import { type Peer, PeerProcess } from "../../bench/peerProcess.js";
import { compare, geometricMean, peerMeans, summarizePeers } from "../../bench/peerSuite.js";
import { checkRooflineName, rooflinePoints, rooflineSvg, writeRoofline } from "../../bench/roofline.js";
import { SHAPES } from "../../bench/shapes.js";
import { fromNchw, permute, shapesOf, toNchw } from "../../bench/peers/layout.mjs";

/** Doubles x; crashes and hangs when told to. */
const FAKE = `
export const open = () => ({ adapter: "fake adapter", version: "1" });
export const prepare = ({ layer, pass, operands }) => {
  if (pass === "dx") throw new Error("has no gradients");
  return {
    overhead: layer.n,
    run: (passes) => {
      if (operands.x[0] === 1) process.exit(7);
      if (operands.x[0] === 2) return new Promise(() => setInterval(() => {}, 1000));
      return new Promise((done) => setTimeout(done, 30 * passes));
    },
    output: ({ x }) => x.map((v) => 2 * v),
    free: () => {},
  };
};`;

const folder = mkdtempSync(join(tmpdir(), "pconv-peers-"));
copyFileSync("bench/peers/peer.mjs", join(folder, "peer.mjs"));
writeFileSync(join(folder, "fake.mjs"), FAKE);
writeFileSync(join(folder, "broken.mjs"), 'import "no-such-package";');
afterAll(() => rmSync(folder, { recursive: true }));

describe("PeerProcess", () => {
  const open: PeerProcess[] = [];
  afterEach(() => open.splice(0).forEach((p) => p.close()));
  const start = (impl: string, timeLimit?: number) => {
    const peer: Peer = { impl, webgpu: true, passes: ["forward"] };
    const started = new PeerProcess(peer, folder, timeLimit);
    open.push(started);
    return started;
  };
  const layer = SHAPES.get("odd")!;
  const x = (first: number) => ({ x: Float32Array.of(first, 5) });

  it("times a pass, takes the overhead off, and returns results of other operands", async () => {
    const peer = start("fake");
    expect(await peer.open()).toEqual({ adapter: "fake adapter", version: "1" });
    const sampler = await peer.prepare(layer, "forward", x(0));
    const ms = await sampler.sample(2);
    expect(ms).toBeGreaterThan(25);
    expect(ms).toBeLessThan(300);
    expect(await peer.output({ x: Float32Array.of(3, 4) })).toEqual(Float32Array.of(6, 8));
    await expect(peer.prepare(layer, "dx", x(0))).rejects.toThrow("has no gradients");
    await peer.release();
  });

  it("names a crash, and starts again for the next pass", async () => {
    const peer = start("fake");
    const sampler = await peer.prepare(layer, "forward", x(1));
    await expect(sampler.sample(1)).rejects.toThrow("its process ended with status 7");
    expect(await (await peer.prepare(layer, "forward", x(0))).sample(1)).toBeGreaterThan(0);
  });

  it("ends one that hangs", async () => {
    const peer = start("fake", 1000);
    const sampler = await peer.prepare(layer, "forward", x(2));
    await expect(sampler.sample(1)).rejects.toThrow("did not answer for 1 s");
    await peer.release(); // nothing to release any more, and nothing to wait for
  });

  it("says why one cannot start", async () => {
    await expect(start("broken").open()).rejects.toThrow(/no-such-package/);
  });
});

const line = (impl: string, medianMs: number, error?: string): Measurement => ({
  ...blank({ kernel: "convolution", shape: "A", pass: "dw", holes: null, impl }, "adapter"),
  medianMs,
  ...(error !== undefined && { error }),
});
const WEBGPU = new Set(["p", "q"]);

describe("ratios", () => {
  it("are to the fastest peer that is right and runs on WebGPU", () => {
    const lines = [line("ours", 10), line("p", 5, "wrong: error 1"), line("q", 40), line("cpu", 1)];
    const c = compare("A", "dw", lines, WEBGPU);
    expect(c.fastest).toEqual({ impl: "q", ratio: 4 });
    expect(c.lines[0].overFastestPeer).toBe(4);
    const text = summarizePeers([c], ["A"]).join("\n");
    expect(text).toMatch(/dw +4\.00x, geometric mean of A 4\.00 \(q\); 0\.50x if wrong results counted/);
    expect(peerMeans([c], ["A"])).toEqual([
      { pass: "dw", geometricMean: 4, geometricMeanOfAny: 0.5, shapes: { A: { impl: "q", ratio: 4 } } },
    ]);
    expect(text).toContain("p A dw: wrong: error 1");
  });

  it("are none where ours is wrong, or nobody else is right", () => {
    expect(compare("A", "dw", [line("ours", 10, "wrong"), line("p", 5)], WEBGPU)).not.toHaveProperty("fastest");
    const lonely = [line("ours", 10), failed({ ...line("p", 0) }, "adapter", "crashed"), line("cpu", 1)];
    expect(compare("A", "dw", lonely, WEBGPU)).not.toHaveProperty("fastest");
  });

  it("are averaged geometrically, over the shapes that stand for real layers", () => {
    expect(geometricMean([2, 8])).toBeCloseTo(4);
    expect(geometricMean([])).toBeNull();
    const small = compare("small", "dw", [line("ours", 1), line("p", 100)], WEBGPU);
    expect(summarizePeers([small], ["A"]).join("\n")).toContain("geometric mean of nothing");
  });
});

describe("the peers' layouts", () => {
  const layer = { ...SHAPES.get("odd")!, h: 3, w: 4 };
  const shapes = shapesOf(layer);
  const count = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
  const ramp = (shape: readonly number[]) => Float32Array.from({ length: count(shape) }, (_, i) => i);

  it("moves axes", () => {
    // [2,1,2,3] -> axes 3,0,2,1
    expect([...permute(ramp([2, 1, 2, 3]), [2, 1, 2, 3], [3, 0, 2, 1])]).toEqual([
      0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11,
    ]);
  });

  it("goes to NCHW and OIHW and back", () => {
    const [x, dy, weight] = [ramp(shapes.nhwc.x), ramp(shapes.nhwc.y), ramp(shapes.nhwc.weight)];
    const there = toNchw({ x, dy, weight }, shapes);
    expect(there.x![1]).toBe(layer.c); // the next column, same channel
    expect(there.weight![1]).toBe(layer.c * layer.k); // the next tap
    expect(fromNchw(there.x!, "dx", shapes)).toEqual(x);
    expect(fromNchw(there.dy!, "forward", shapes)).toEqual(dy);
    expect(fromNchw(there.weight!, "dw", shapes)).toEqual(weight);
  });
});

describe("the roofline", () => {
  const roof = { gflops: 80, gigabytesPerSecond: 4, adapter: "a <b> & c" };
  const measured = { ...line("ours", 10), neededGflop: 0.4, gigabytesPerSecond: 2, shareOfPeak: 0.5 };

  it("draws what was measured and not rejected", () => {
    const points = rooflinePoints([measured, { ...measured, gigabytesPerSecond: null }, line("p", 3, "wrong")]);
    expect(points).toEqual([{ impl: "ours", label: "convolution A dw", intensity: 20, gflops: 40 }]);
    const svg = rooflineSvg(roof, points);
    expect(svg.match(/<circle cx="[\d.]+" cy="[\d.]+" r="4.5"/g)).toHaveLength(1);
    expect(svg).toContain("a &lt;b&gt; &amp; c");
    expect(svg).not.toMatch(/NaN|Infinity/);
    // The point lies at the ridge's intensity, half as high as the roof: below it on the picture.
    const [, x, y] = /<circle cx="([\d.]+)" cy="([\d.]+)"/.exec(svg)!.map(Number);
    const [, ridgeX, ridgeY] = /L([\d.]+) ([\d.]+)H/.exec(svg)!.map(Number);
    expect(x).toBeCloseTo(ridgeX, 0);
    expect(y).toBeGreaterThan(ridgeY);
  });

  it("stands without points", () => {
    expect(rooflineSvg(roof, [])).not.toMatch(/NaN|Infinity/);
  });

  it("refuses names that it could not write", async () => {
    await expect(checkRooflineName("roof.pdf")).rejects.toThrow(/expected a name that ends in .svg or .png, got roof/);
    for (const name of ["roof.PNG", join("new", "roof.svg")]) await checkRooflineName(join(folder, name));
    writeFileSync(join(folder, "file"), "");
    await expect(checkRooflineName(join(folder, "file", "roof.svg"))).rejects.toThrow(/a place that can be written to/);
    mkdirSync(join(folder, "folder.svg"));
    await expect(checkRooflineName(join(folder, "folder.svg"))).rejects.toThrow(/expected the name of a file, got the/);
  });

  it("is a PNG where its name says so", async () => {
    const path = join(folder, "roof.png");
    await writeRoofline(path, roof, rooflinePoints([measured]));
    const { width, height, data: pixels } = PNG.sync.read(readFileSync(path));
    expect([width, height]).toEqual([2000, 1280]);
    const blue = (i: number) => pixels[i + 2] > 150 && pixels[i] < 120;
    expect([...Array(width * height).keys()].filter((i) => blue(4 * i)).length).toBeGreaterThan(100); // the point
  });
});
