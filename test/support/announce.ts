/** Vitest's global setup: says once on which adapter the tests run, and with which seed. */
import { openGpu } from "../../src/gpu/node.js";
import { BASE_SEED } from "./draw.js";

export default async function announce(): Promise<void> {
  let adapter: string;
  try {
    const gpu = await openGpu();
    adapter = gpu.adapter.name;
    gpu.close();
  } catch (error) {
    adapter = `none, tests in test/gpu will fail (${String(error)})`;
  }
  console.log(`adapter: ${adapter}\nseed: ${BASE_SEED} (PCONV_SEED=N chooses another)`);
}
