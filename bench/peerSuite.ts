/** Ours against the peers: the same operands, in turns, each checked on fresh ones, and the ratios. */
import type { Gpu } from "../src/gpu/gpu.js";
import type { ConvBackend } from "../src/kernels/conv/backend.js";
import type { TuneOptions } from "../src/kernels/conv/tuning.js";
import type { ConvShape } from "../src/kernels/shape.js";
import { makeConvolution } from "./convolution.js";
import { checkFresh, failed, judge, type Measurement, ownSampler, type Subject } from "./measure.js";
import type { Peaks } from "./peak.js";
import type { PeerIdentity, PeerProcess } from "./peerProcess.js";
import { alternate, type Sampler } from "./sampling.js";
import { tuneWorkloads } from "./tuning.js";
import type { Operands, Pass } from "./workload.js";

/** One shape and pass, by everybody; ours comes first. */
export interface Comparison {
  readonly shape: string;
  readonly pass: Pass;
  readonly lines: readonly Measurement[];
  /** Fastest correct WebGPU peer, and its time over ours; absent where there is none, or ours was rejected. */
  readonly fastest?: { readonly impl: string; readonly ratio: number };
  /** The same ratio to the fastest that finished, whether right or wrong. */
  readonly ratioToAny?: number;
}

const CPU = "CPU (no WebGPU)";

/** Some peers leave threads that wait for more by spinning: whoever comes next must not share its cores with them. */
const REST_MS = 100;

/** The fastest of the peers' lines that count, against ours. */
export function compare(
  shape: string,
  pass: Pass,
  lines: readonly Measurement[],
  webgpu: ReadonlySet<string>,
): Comparison {
  const [ours, ...peers] = lines;
  const finished = peers.filter((m) => webgpu.has(m.impl) && m.medianMs !== null);
  const right = finished.filter((m) => m.error === undefined);
  if (right.length === 0 || ours.error !== undefined) return { shape, pass, lines };
  const best = right.reduce((a, b) => (b.medianMs! < a.medianMs! ? b : a));
  const ratio = best.medianMs! / ours.medianMs!;
  return {
    shape,
    pass,
    lines: [{ ...ours, overFastestPeer: ratio }, ...peers],
    fastest: { impl: best.impl, ratio },
    ratioToAny: Math.min(...finished.map((m) => m.medianMs!)) / ours.medianMs!,
  };
}

/** The geometric mean of some ratios; null of none. */
export function geometricMean(ratios: readonly number[]): number | null {
  if (ratios.length === 0) return null;
  return Math.exp(ratios.reduce((sum, r) => sum + Math.log(r), 0) / ratios.length);
}

/** Measures one pass over one layer with everybody who can do it. */
export async function comparePeers(
  gpu: Gpu,
  o: {
    readonly shape: string;
    readonly layer: ConvShape;
    readonly pass: Pass;
    readonly backend?: ConvBackend | undefined;
  },
  peers: readonly { readonly process: PeerProcess; readonly identity: PeerIdentity | Error }[],
  peaks: Peaks,
  { repeat, tuning }: { readonly repeat?: number | undefined; readonly tuning?: TuneOptions | undefined } = {},
): Promise<Comparison> {
  const { shape, layer, pass, backend } = o;
  const subject = (impl: string): Subject => ({ kernel: "convolution", shape, pass, holes: null, impl });
  const ours = makeConvolution(gpu, pass, { layer, holes: null, biased: false, backend });
  try {
    if (tuning) await tuneWorkloads(gpu, [ours], tuning);
    ours.fill(1);
    const operands = ours.operands();
    const able = peers.filter(({ process }) => process.peer.passes.includes(pass));
    const prepared = await Promise.all(able.map(({ process, identity }) => prepare(process, identity, layer, pass, operands))); // prettier-ignore
    const times = await alternate([ownSampler(gpu, () => ours.record()), ...prepared], repeat, REST_MS);

    const [own] = times;
    if (own instanceof Error) throw own;
    const { check, counted } = await checkFresh(gpu, ours); // fills with fresh operands, which the peers get as well
    const judged = judge({ ...subject("ours"), half: backend === "matrix" }, ours, own, check, peaks, gpu.adapter.name);
    const lines: Measurement[] = [{ ...judged, ...counted }];
    const fresh = ours.operands();
    for (const [i, { process, identity }] of able.entries()) {
      const { impl, webgpu } = process.peer;
      const adapter = identity instanceof Error ? "unknown" : webgpu ? (identity.adapter ?? "not told") : CPU;
      const its = times[i + 1];
      try {
        if (its instanceof Error) throw its;
        const result = await process.output(fresh);
        lines.push(judge(subject(impl), ours, its, ours.compare(result), peaks, adapter, webgpu));
        await process.release();
      } catch (error) {
        lines.push(failed(subject(impl), adapter, `failed: ${(error as Error).message}`));
      }
    }
    return compare(
      shape,
      pass,
      lines,
      new Set(able.filter((p) => p.process.peer.webgpu).map((p) => p.process.peer.impl)),
    );
  } finally {
    ours.free();
  }
}

/** A peer's sampler; one that cannot even begin fails when it is sampled. */
async function prepare(
  process: PeerProcess,
  identity: PeerIdentity | Error,
  layer: ConvShape,
  pass: Pass,
  operands: Operands,
): Promise<Sampler> {
  try {
    if (identity instanceof Error) throw identity;
    return await process.prepare(layer, pass, operands);
  } catch (error) {
    const sample = async () => {
      throw error;
    };
    return { sample };
  }
}

/** The ratios of one pass over some shapes. */
export interface PeerMean {
  readonly pass: Pass;
  /** To the fastest correct peer of each shape; null where no shape has one. */
  readonly geometricMean: number | null;
  /** To the fastest that finished, right or wrong. */
  readonly geometricMeanOfAny: number | null;
  readonly shapes: Readonly<Record<string, { readonly impl: string; readonly ratio: number }>>;
}

/** Means over the shapes in `real`, pass by pass. */
export function peerMeans(comparisons: readonly Comparison[], real: readonly string[]): PeerMean[] {
  return [...new Set(comparisons.map((c) => c.pass))].map((pass) => {
    const counted = comparisons.filter((c) => c.pass === pass && c.fastest && real.includes(c.shape));
    return {
      pass,
      geometricMean: geometricMean(counted.map((c) => c.fastest!.ratio)),
      geometricMeanOfAny: geometricMean(counted.map((c) => c.ratioToAny!)),
      shapes: Object.fromEntries(counted.map((c) => [c.shape, c.fastest!])),
    };
  });
}

/** What stands under the table: ratios per shape and pass, their means, and who was excluded where and why. */
export function summarizePeers(comparisons: readonly Comparison[], real: readonly string[]): string[] {
  const excluded = comparisons.flatMap(({ lines }) => lines.filter((m) => m.impl !== "ours" && m.error !== undefined));
  const times = (ratio: number | null) => (ratio === null ? "-" : `${ratio.toFixed(2)}x`);
  const means = peerMeans(comparisons, real).map((mean) => {
    const over = Object.entries(mean.shapes).map(
      ([shape, { impl, ratio }]) => `${shape} ${ratio.toFixed(2)} (${impl})`,
    );
    const some = over.length > 0 ? over.join(", ") : "nothing";
    const differs = mean.geometricMean !== mean.geometricMeanOfAny;
    const any = differs ? `; ${times(mean.geometricMeanOfAny)} if wrong results counted` : "";
    return `  ${mean.pass.padEnd(8)} ${times(mean.geometricMean)}, geometric mean of ${some}${any}`;
  });
  return [
    "",
    "ours against the fastest correct WebGPU peer (its median time over ours):",
    ...means,
    ...(excluded.length > 0 ? ["excluded peers:"] : []),
    ...excluded.map((m) => `  ${m.impl} ${m.shape} ${m.pass}: ${m.error}`),
  ];
}
