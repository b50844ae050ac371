/** Every kernel's declaration against its WGSL, and its WGSL against the adapter's compiler, in every specialisation. */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { MATRIX_FEATURE } from "../../src/gpu/adapter.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { type Access, type Kernel, kernelSource } from "../../src/gpu/kernel.js";
import { WEIGHT_WORKGROUP_TILES, WORKGROUP_TILES } from "../../src/kernels/conv/choice.js";
import { MATRIX_TILES } from "../../src/kernels/conv/matrix.js";
import { registerSpec, SIMPLE } from "../../src/kernels/conv/register.js";
import { WEIGHT_MATRIX_TILES } from "../../src/kernels/conv/weightMatrix.js";
import { useGpu } from "../support/gpu.js";

const gpu = useGpu();
const folder = new URL("../../src/kernels/", import.meta.url);

const isKernel = (value: unknown): value is Kernel<string, unknown> =>
  typeof value === "object" && value !== null && "wgsl" in value && "bindings" in value;

/** Every combination of the given choices. */
function combine(choices: Record<string, readonly unknown[]>): Record<string, unknown>[] {
  return Object.entries(choices).reduce<Record<string, unknown>[]>(
    (specs, [key, values]) => specs.flatMap((spec) => values.map((value) => ({ ...spec, [key]: value }))),
    [{}],
  );
}

const flags = [false, true];
/** The specialisations of the kernels that have any. */
const SPECS: Readonly<Record<string, readonly unknown[]>> = {
  activationForward: combine({ activation: ["relu", "leakyRelu", "sigmoid"] }),
  activationBackward: combine({ activation: ["relu", "leakyRelu", "sigmoid"] }),
  activationBackwardInPlace: combine({ activation: ["relu", "leakyRelu", "sigmoid"] }),
  adam: combine({ scaled: flags }),
  batchNormFold: combine({ biased: flags }),
  batchNormForward: combine({ masked: flags }),
  batchNormSums: combine({ masked: flags }),
  batchNormBackward: combine({ masked: flags, statistics: ["all", "valid", "fixed"], scaled: flags }),
  batchNormChunks: combine({ validOnly: flags }),
  channelAffine: combine({ shifted: flags }),
  channelSum: combine({ weighted: flags }),
  gradientNorm: combine({ scaled: flags }),
  l1Forward: combine({ region: ["all", "valid", "hole"] }),
  l1Backward: combine({ region: ["all", "valid", "hole"] }),
  liveOrder: combine({ alone: flags }),
  maskUpdate: combine({
    convention: ["paper", "pytorch", "keras", "unscaled"],
    biased: flags,
    kw: [3, 7],
    single: flags,
    rows: [1, 4],
  }),
  maskMultiply: combine({ picture: flags }),
  maskUpdateUp: combine({ convention: ["paper", "pytorch", "keras", "unscaled"], biased: flags }),
  gatherMatrix: MATRIX_TILES.map((tile) => ({ ...tile, unit: { m: 16, n: 16, k: 16, lanes: 32 } })),
  ...Object.fromEntries(
    ["gatherColumn", "gatherColumnSubgroup", "columnCount"].map((name) => [
      name,
      combine({ rows: [4], taps: [1, 3], uneven: flags, lanes: name === "gatherColumn" ? [0] : [4, 8, 16] }),
    ]),
  ),
  gatherRegister: [SIMPLE, registerSpec(1), registerSpec(2)],
  gatherSubgroup: [
    ...combine({ lanes: [4], lanesK: [4], pixels: [16], depth: [3, 4] }),
    ...combine({ lanes: [8, 16], lanesK: [4, 8], pixels: [16], depth: [3, 4] }),
    ...combine({ lanes: [16], lanesK: [16], pixels: [16], depth: [3, 4] }),
  ],
  pixelScale: combine({ activated: flags }),
  upWeight: combine({ part: ["low", "skip"], transposed: flags }),
  gatherWorkgroup: Object.values(WORKGROUP_TILES),
  weightMatrix: WEIGHT_MATRIX_TILES.map((tile) => ({ ...tile, unit: { m: 16, n: 16, k: 16, lanes: 32 } })),
  weightWorkgroup: Object.values(WEIGHT_WORKGROUP_TILES),
  weightRegister: combine({ in4: [1, 2], out4: [1, 2] }),
  weightSubgroup: [{ lanes: 4 }, { lanes: 8 }, { lanes: 16 }],
  totalVariationForward: combine({ region: ["all", "inside", "product"] }),
  totalVariationBackward: combine({ region: ["all", "inside", "product"] }),
  weightedSum: combine({ both: flags }),
  window: combine({ vectors: flags }),
  ...Object.fromEntries(["Input", "Output", "Gradient"].map((name) => [`winograd${name}`, combine({ tile: [2, 4] })])),
  ...Object.fromEntries(
    ["Weight", "WeightBackward"].map((name) => [
      `winograd${name}`,
      combine({ tile: [2, 4], phased: [undefined, { side: 4, shift: 1 }, { side: 5, shift: 0 }] }),
    ]),
  ),
};

const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
const modules = await Promise.all(
  files.map(async (name) => (await import(new URL(name, folder).href)) as Record<string, unknown>),
);
const kernels = modules.flatMap((exports) =>
  Object.entries(exports).flatMap(([name, value]) => (isKernel(value) ? [[name, value] as const] : [])),
);

/** `@binding(N) var<storage, ACCESS>` lines of a source, by binding number. */
function declared(source: string): Map<number, Access> {
  const pattern = /@group\(0\) @binding\((\d+)\) var<storage, (read|read_write)>/g;
  return new Map([...source.matchAll(pattern)].map(([, at, access]) => [Number(at), access as Access]));
}

async function compileErrors(device: Gpu["device"], code: string): Promise<string[]> {
  device.pushErrorScope("validation");
  const info = await device.createShaderModule({ code }).getCompilationInfo();
  await device.popErrorScope();
  return info.messages.filter((m) => m.type === "error").map((m) => `${m.lineNum}: ${m.message}`);
}

/** Kernels of matrix units need an adapter that has them; convTiles.test.ts compiles them on any. */
const compiles = (kernel: Kernel<string, unknown>) =>
  !kernel.directives?.includes("subgroup_matrix") || gpu().device.features.has(MATRIX_FEATURE);

describe("kernel declarations", () => {
  it("finds every kernel, under its own name and once", () => {
    const sources = files.map((name) => readFileSync(new URL(name, folder), "utf8")).join("\n");
    const defined = [...sources.matchAll(/name: "(\w+)",\s+params|KernelOf\("(\w+)"/g)].map((m) => m[1] ?? m[2]);
    expect(kernels.map(([, k]) => k.name).sort()).toEqual(defined.sort());
    expect(kernels.length).toBeGreaterThanOrEqual(37);
    for (const [exported, kernel] of kernels) expect(exported).toBe(`${kernel.name}Kernel`);
    expect(new Set(kernels.map(([, k]) => k.name)).size).toBe(kernels.length);
    const names = kernels.map(([, k]) => k.name);
    expect(Object.keys(SPECS).filter((name) => !names.includes(name))).toEqual([]);
  });

  it.each(kernels)("%s: bindings and parameters are those of the WGSL, which compiles", async (_, kernel) => {
    // A kernel that takes a spec must be listed above, or its variants would go unseen.
    if (kernel.wgsl.length > 0) expect(SPECS).toHaveProperty(kernel.name);
    for (const spec of SPECS[kernel.name] ?? [undefined]) {
      const what = `${kernel.name} ${JSON.stringify(spec)}`;
      const source = kernelSource(kernel, spec);
      const want = new Map(kernel.bindings.map((access, i) => [i + 1, access]));
      expect(declared(source), what).toEqual(want);
      expect(source.match(/@binding\(/g), what).toHaveLength(1 + kernel.bindings.length);
      const used = new Set([...source.matchAll(/\bp\.(\w+)/g)].map(([, field]) => field));
      expect(
        [...used].filter((field) => !(field in kernel.params)),
        `${what}: not in params`,
      ).toEqual([]);
      if (!compiles(kernel)) continue;
      expect(await compileErrors(gpu().device, source), what).toEqual([]);
    }
  });

  it.each(kernels)("%s compiles with halves in all its buffers of floats", async (_, kernel) => {
    for (const spec of SPECS[kernel.name] ?? [undefined]) {
      const source = kernelSource(kernel, spec);
      const floats = source.matchAll(/@binding\((\d+)\) var<storage, \w+> \w+: array<(?:vec4f|f32)>/g);
      const halves = kernelSource(
        kernel,
        spec,
        Array.from(floats, ([, at]) => Number(at)),
      );
      const errors = gpu().half && compiles(kernel) ? await compileErrors(gpu().device, halves) : [];
      expect(errors, `${kernel.name} ${JSON.stringify(spec)}`).toEqual([]);
    }
  });

  it("sees a fault when there is one", async () => {
    expect(declared("@group(0) @binding(2) var<storage, read_write> y: array<f32>;")).toEqual(
      new Map([[2, "read_write"]]),
    );
    expect(await compileErrors(gpu().device, "fn main() { let from = 1; }")).toHaveLength(1);
  });
});
