/** Golden weight files: read in every format, compared with their safetensors twins. */
import type { TensorEntry } from "../../src/io/tensorEntry.js";
import { readWeightsFile } from "../../src/io/weightsFile.js";
import type { Fixture, GoldenFolder } from "./manifest.js";

function sameTensor(got: TensorEntry | undefined, want: TensorEntry): string | null {
  if (!got) return "missing";
  if (got.dtype !== want.dtype) return `dtype ${got.dtype}, want ${want.dtype}`;
  if (got.shape.join() !== want.shape.join()) return `shape ${got.shape.join("x")}, want ${want.shape.join("x")}`;
  if (Buffer.compare(got.bytes, want.bytes) !== 0) return "other values";
  return null;
}

/** Returns the failures of one fixture. */
export async function checkFixture(folder: GoldenFolder, fixture: Fixture): Promise<string[]> {
  const weights = await readWeightsFile(folder.path(fixture.file));
  const failures: string[] = [];
  const twin = fixture.same_tensors_as?.split(" ")[0];
  if (twin) {
    for (const [name, want] of await folder.tensors(twin)) {
      const got =
        weights.tensors.get(name) ?? weights.tensors.get(`model.${name}`) ?? weights.tensors.get(`tensors.${name}`);
      const problem = sameTensor(got, want);
      if (problem) failures.push(`${name}: ${problem}`);
    }
  }
  if (weights.root instanceof Map && typeof fixture["n_iter"] === "number") {
    const got: unknown = weights.root.get("n_iter");
    if (got !== fixture["n_iter"]) failures.push(`n_iter: got ${String(got)}, want ${fixture["n_iter"]}`);
  }
  const model = [...weights.tensors].filter(([name]) => name.startsWith("model."));
  if (typeof fixture["keys"] === "number" && model.length !== fixture["keys"]) {
    failures.push(`expected ${fixture["keys"]} tensors in model, got ${model.length}`);
  }
  if (typeof fixture["model_abs_sum"] === "number") {
    let sum = 0;
    for (const [, t] of model) for (const v of t.toFloat64()) sum += Math.abs(v);
    const want = fixture["model_abs_sum"];
    if (!(Math.abs(sum - want) <= 1e-6 * want)) failures.push(`sum of |model|: got ${sum}, want ${want}`);
  }
  return failures;
}
