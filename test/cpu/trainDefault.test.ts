/** The recipe of the shipped network: its options, and the compact files that it leaves. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { readSafetensors, writeSafetensors } from "../../src/io/safetensors.js";
import { phaseTable, trainingCurve } from "../../tools/train-default/curve.js";
import { packOptimizer, packWeights } from "../../tools/train-default/pack.js";
import { COMMON, PHASES } from "../../tools/train-default/recipe.js";
import { trainCommand } from "../../tools/train/command.js";
import { checkNewRun, invocation } from "../../tools/train/options.js";

const folder = mkdtempSync(join(tmpdir(), "pconv-train-default-"));
const at = (name: string) => join(folder, name);
afterAll(() => rmSync(folder, { recursive: true }));

it.each(PHASES)("phase $name has options that pconv-train takes", ({ options, steps, vgg }) => {
  const command = trainCommand().action(() => undefined);
  const loss = vgg ? ["--vgg-path", "vgg.pth"] : ["--no-vgg"];
  const inputs = ["--train", "photos", "--masks", "masks", "--checkpoint", "x", ...loss];
  command.parse(["node", "pconv-train", ...inputs, "--steps", String(steps), ...COMMON, ...options]);
  const call = invocation(command);
  expect(() => checkNewRun(call)).not.toThrow();
  expect(call.options).toMatchObject({ steps, width: 0.25, depth: 7, clipGradNorm: 1 });
});

it("packs convolutions as float16 and leaves batch norm and the metadata alone", async () => {
  const weight = Float32Array.from({ length: 36 }, (_, i) => Math.sin(i) / 7);
  const variance = Float32Array.of(1e-9, 3);
  writeFileSync(
    at("ema.safetensors"),
    writeSafetensors(
      [
        ["enc_1.conv.weight", { dtype: "F32", shape: [1, 4, 3, 3], values: weight }],
        ["enc_2.bn.running_var", { dtype: "F32", shape: [2], values: variance }],
        ["enc_2.bn.num_batches_tracked", { dtype: "I64", shape: [], values: BigInt64Array.of(7n) }],
      ],
      { kept: "yes" },
    ),
  );
  await packWeights(at("ema.safetensors"), at("packed.safetensors"), { added: "too" });
  const { tensors, metadata } = readSafetensors(readFileSync(at("packed.safetensors")), "packed");
  expect(metadata).toEqual({ kept: "yes", added: "too" });
  expect([...tensors.keys()].sort()).toEqual(["enc_1.conv.weight", "enc_2.bn.num_batches_tracked", "enc_2.bn.running_var"]); // prettier-ignore
  const packed = tensors.get("enc_1.conv.weight")!;
  expect(packed.dtype).toBe("F16");
  packed
    .toFloat32()
    .forEach((v, i) => expect(Math.abs(v - weight[i])).toBeLessThanOrEqual(2 ** -11 * Math.abs(weight[i])));
  expect(tensors.get("enc_2.bn.running_var")!.toFloat32()).toEqual(variance);
});

it("packs moments as bfloat16, however small, and keeps the count of steps", async () => {
  const v = Float32Array.of(1e-20, -3.5, 1.00390625, 0, 7e-5);
  writeFileSync(
    at("optimizer.safetensors"),
    writeSafetensors([
      ["v.x", { dtype: "F32", shape: [5], values: v }],
      ["steps", { dtype: "F32", shape: [], values: Float32Array.of(4501) }],
    ]),
  );
  await packOptimizer(at("optimizer.safetensors"), at("moments.safetensors"));
  const { tensors } = readSafetensors(readFileSync(at("moments.safetensors")), "moments");
  expect(tensors.get("v.x")!.dtype).toBe("BF16");
  const got = tensors.get("v.x")!.toFloat32();
  v.forEach((value, i) => expect(Math.abs(got[i] - value)).toBeLessThanOrEqual(2 ** -8 * Math.abs(value)));
  expect(got[2]).toBe(1); // 1 + 2^-8 lies half-way, and 1 is even
  expect(tensors.get("steps")!.toFloat32()[0]).toBe(4501);
});

it("draws the losses of all phases over the pictures seen, and tells them in a table", () => {
  const logs = PHASES.slice(0, 2).map((phase) => ({
    phase,
    lines: [
      ...Array.from({ length: 30 }, (_, i) => ({ step: 20 * (i + 1), terms: { hole: 1 / (i + 1) } })),
      { step: 600, validation: { psnr: 25.123 } },
    ],
  }));
  const svg = trainingCurve(logs);
  expect(svg.match(/stroke-linejoin="round"/g)).toHaveLength(2);
  expect(phaseTable(logs)).toContain("| 1-small | 3000 | 4 | 128 | 12,000 | 25.12 |");
});
