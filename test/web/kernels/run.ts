/** Runs the kernels' tests in the page, file by file, and leaves what came out where the test that opened it looks. */
import { registered } from "./vitest.js";

export interface Report {
  readonly passed: string[];
  readonly failed: string[];
  readonly adapter: string;
}

const files: Record<string, () => Promise<unknown>> = {
  mask: () => import("../../gpu/kernels-mask.test.js"),
  conv: () => import("../../gpu/kernels-conv.test.js"),
  winograd: () => import("../../gpu/kernels-winograd.test.js"),
  winogradTransforms: () => import("../../gpu/kernels-winogradTransforms.test.js"),
  up: () => import("../../gpu/kernels-up.test.js"),
  liveOrder: () => import("../../gpu/kernels-liveOrder.test.js"),
  liveRows: () => import("../../gpu/kernels-liveRows.test.js"),
  harmonic: () => import("../../gpu/kernels-harmonic.test.js"),
  norm: () => import("../../gpu/kernels-norm.test.js"),
  elementwise: () => import("../../gpu/kernels-elementwise.test.js"),
  loss: () => import("../../gpu/kernels-loss.test.js"),
  adam: () => import("../../gpu/kernels-adam.test.js"),
};

async function runFile(name: string, report: Report): Promise<void> {
  for (const list of Object.values(registered)) list.length = 0;
  await files[name]();
  for (const run of registered.before) await run();
  for (const { name: title, run } of registered.cases) {
    try {
      await run();
      report.passed.push(`${name}: ${title}`);
    } catch (error) {
      report.failed.push(`${name}: ${title}: ${String(error)}`);
    }
  }
  for (const run of registered.after) await run();
}

declare global {
  interface Window {
    /** Runs one file, or all that there are names for. */
    kernelTests: { names: string[]; run(name: string): Promise<Report> };
  }
}

window.kernelTests = {
  names: Object.keys(files),
  async run(name) {
    const adapter = await navigator.gpu.requestAdapter();
    const report: Report = { passed: [], failed: [], adapter: adapter?.info.architecture ?? "none" };
    await runFile(name, report);
    return report;
  },
};
