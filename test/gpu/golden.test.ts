/**
 * Reference cases made with PyTorch: NVIDIA's layer, the PyTorch port's and PConv-Keras' layers, blocks, losses and whole steps.
 * `fixtures/golden` is an excerpt; the whole set is replayed by `npm run golden -- DIR`, and here where it lies beside the project.
 */
import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { GoldenFolder } from "../../tools/golden/manifest.js";
import { replay } from "../../tools/golden/replay.js";
import { useGpu } from "../support/gpu.js";

const gpu = useGpu();

describe.each(["test/fixtures/golden", "../shared/golden"])("golden cases of %s", (dir) => {
  it.skipIf(!existsSync(dir))("all pass within the manifest's tolerances", async () => {
    const folder = await GoldenFolder.open(dir);
    const failed: string[] = [];
    let passed = 0;
    for await (const { id, failures, missing } of replay(gpu(), folder)) {
      if (failures.length > 0) failed.push(`${id}: ${failures[0]}`);
      else if (!missing) passed++;
    }
    expect(failed).toEqual([]);
    expect(passed).toBeGreaterThan(40);
  });
});
